"""How ranges of activations are chosen from observed values."""

from dataclasses import dataclass
from typing import Literal, get_args

from zoo.errors import MismatchError

Kind = Literal["minmax", "percentile", "moving_average"]


@dataclass(frozen=True, kw_only=True)
class Observer:
    """How ranges are chosen.

    Attributes:
        observer: "minmax" (everything seen fits), "percentile" (the largest values are cut) or
            "moving_average" (of each batch's extremes).
        percentile: percentage of a batch's values within the range on either side.
        momentum: weight of the past in the moving average.

    """

    observer: Kind = "minmax"
    percentile: float = 99.99
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.observer not in get_args(Kind):
            raise MismatchError(
                f"observer is {self.observer!r}; expected minmax, percentile or moving_average"
            )
        if not 50 < self.percentile <= 100 or not 0 <= self.momentum < 1:
            raise MismatchError(
                f"percentile is {self.percentile} (50 to 100), momentum {self.momentum} (0 to 1)"
            )
