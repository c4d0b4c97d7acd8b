"""`Registers`: where a target holds bits that a particle can flip; its tables `[reliability.*]`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from zoo.errors import MismatchError

Kind = Literal["flop", "sram", "control"]
_SHARES = ("area", "flop_area_share")
_CONFIDENCE = ("published", "datasheet", "measured", "assumed")


@dataclass(frozen=True, kw_only=True)
class Registers:
    """A class of registers of a device.

    Attributes:
        kind: "flop" (flip-flops of the datapath), "sram" (a memory, where parity is possible) or
            "control" (flip-flops that no integer of the network lives in).
        bits: how many there are.
        fit_per_mbit: failures of 10^9 hours that a million bits have, before anything masks them.
        area: its share of the device's area.
        flop_area_share: the share of that area that is flip-flops.
        unsafe: of "control", between which limits the share of flips lies that break the answer.
        block: of accumulators, positions and channels of the outputs that are computed in turn.
        confidence: how the numbers are known, as of a target's numbers.
        source: the place, and how the values follow from it.

    """

    kind: Kind
    bits: int
    fit_per_mbit: float
    area: float
    flop_area_share: float
    confidence: str
    source: str
    unsafe: tuple[float, float] | None = None
    block: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise MismatchError(
                f"kind is {self.kind!r}; expected one of {', '.join(get_args(Kind))}"
            )
        for name in ("bits", "fit_per_mbit"):
            if not 0 < getattr(self, name) < math.inf:
                raise MismatchError(f"{name} is {getattr(self, name)!r}; expected more than 0")
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise MismatchError(f"{name} is {getattr(self, name)!r}; expected a share, 0 to 1")
        if not isinstance(self.source, str) or not self.source.strip():
            raise MismatchError("there is no source")
        if self.confidence not in _CONFIDENCE:
            words = ", ".join(_CONFIDENCE)
            raise MismatchError(f"confidence is {self.confidence!r}; expected one of {words}")
        if (self.kind == "control") != (self.unsafe is not None):
            raise MismatchError("unsafe is what control registers have, and no others")
        if self.unsafe is not None and not 0 <= self.unsafe[0] <= self.unsafe[1] <= 1:
            raise MismatchError(f"unsafe is {self.unsafe}; expected two shares, low and high")

    @property
    def fit(self) -> float:
        """Failures of 10^9 hours of all bits, before anything masks them."""
        return self.bits * self.fit_per_mbit / 1e6


def registers(table: Any) -> dict[str, Registers]:
    """Return the classes of a target's tables, or of a file of areas.

    Raises:
        MismatchError: a field is missing, unknown or impossible, or the areas exceed the device's.

    """
    if not isinstance(table, Mapping) or not table:
        raise MismatchError(f"reliability is {table!r}; expected a table for each class")
    made = {name: _of(name, values) for name, values in table.items()}
    total = sum(part.area for part in made.values())
    if total > 1 + 1e-9:
        raise MismatchError(f"the areas of reliability sum to {total:g}; expected 1 at most")
    return made


def _of(name: str, values: Any) -> Registers:
    known = {field.name for field in fields(Registers)}
    needed = known - {"unsafe", "block"}
    if not isinstance(values, Mapping):
        raise MismatchError(f"reliability.{name} is {values!r}; expected a table")
    if wrong := sorted((set(values) - known) | (needed - set(values))):
        raise MismatchError(
            f"reliability.{name}.{wrong[0]} is missing or unknown; "
            f"fields: {', '.join(sorted(known))}"
        )
    pairs = {key: tuple(values[key]) for key in ("unsafe", "block") if key in values}
    try:
        return Registers(**{**values, **pairs})
    except (MismatchError, TypeError) as error:
        raise MismatchError(f"reliability.{name}: {error}") from error
