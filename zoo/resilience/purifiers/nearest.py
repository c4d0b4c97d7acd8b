"""Nearest: every pixel repeated; what enlarging does without making up anything."""

from torch import Tensor

from zoo.errors import MismatchError
from zoo.resilience.purifiers.contract import Stage

SUMMARY = "pictures enlarged by repeating pixels"
USAGE = "nearest:SCALE, 2 to 4"


class Nearest(Stage):
    """Repeats every pixel `scale` times along both axes."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures `(N, C, scale H, scale W)`."""
        return images.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


def whole(scale: str, what: str) -> int:
    """Return a scale.

    Raises:
        MismatchError: it is not 2, 3 or 4.

    """
    if scale not in ("2", "3", "4"):
        raise MismatchError(f"the scale of {what} is {scale!r}; expected 2, 3 or 4")
    return int(scale)


def make(scale: str = "2") -> Stage:
    """Return the stage of a scale."""
    return Nearest(whole(scale, "nearest"))
