"""What a network may take of a device, and what one takes: SRAM, flash, MACs and time.

Amounts are read with units. KB and MB are 1000 and 1000,000 bytes, KiB and MiB 1024 and 1,048,576:
a device that has 64 KiB also has 64 KB.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from zoo.errors import MismatchError

_BYTES = {"": 1, "B": 1, "KB": 1e3, "KIB": 2**10, "MB": 1e6, "MIB": 2**20}
_COUNTS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}
_TIMES = {"": 1, "US": 1e-3, "MS": 1, "S": 1e3}  # in ms
UNITS: Mapping[str, Mapping[str, float]] = {
    "sram_bytes": _BYTES, "flash_bytes": _BYTES, "macs": _COUNTS, "latency_ms": _TIMES,
}  # fmt: skip
FLAGS = {
    "sram_bytes": "--max-sram", "flash_bytes": "--max-flash", "macs": "--max-macs",
    "latency_ms": "--max-latency",
}  # fmt: skip
_TOLD = {"sram_bytes": "64KB", "flash_bytes": "128KB", "macs": "10M", "latency_ms": "5ms"}
NAMES = {"sram_bytes": "SRAM", "flash_bytes": "flash", "macs": "MACs", "latency_ms": "latency"}


def amount(text: str | float, quantity: str) -> float:
    """Return an amount of a quantity, read with its unit: "64KB", "10M", "5ms".

    Args:
        text: digits and a unit; a number by itself is bytes, MACs or milliseconds.
        quantity: a key of `UNITS`.

    Raises:
        MismatchError: the unit is none of the quantity's, or the number is not positive.

    """
    known = UNITS[quantity]
    found = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*([a-z]*)\s*", str(text), re.IGNORECASE)
    expected = f"expected e.g. {FLAGS[quantity]} {_TOLD[quantity]}"
    if found is None or found[1].count(".") > 1 or not re.search(r"\d", found[1]):
        raise MismatchError(f"{text!r} is no amount of {NAMES[quantity]}; {expected}")
    if found[2].upper() not in known:
        units = {"KIB": "KiB", "MIB": "MiB", "MS": "ms", "US": "us", "S": "s"}
        named = ", ".join(units.get(unit, unit) for unit in known if unit)
        raise MismatchError(
            f"{text!r} has the unit {found[2]!r}; {NAMES[quantity]} may be in {named}; {expected}"
        )
    value = float(found[1]) * known[found[2].upper()]
    if not 0 < value < math.inf:
        raise MismatchError(f"{text!r} is no limit of {NAMES[quantity]}; {expected}")
    return value


def readable(quantity: str, value: float) -> str:
    """Return an amount as one would type it, rounded up to three digits: "53.7KB"."""
    unit, size = next(
        (unit, size)
        for unit, size in (("M", 1e6), ("K", 1e3), ("", 1.0))
        if value >= size or size == 1
    )
    if quantity == "latency_ms":
        return f"{_up(value)}ms"
    return f"{_up(value / size)}{unit}{'' if quantity == 'macs' else 'B'}"


def _up(value: float) -> str:
    """Return a number of three digits or more that is no less than `value`."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{math.ceil(value * 10**digits * (1 - 1e-12)) / 10**digits:.12g}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network may take; None does not matter.

    Attributes:
        sram_bytes: working memory.
        flash_bytes: what is stored.
        macs: multiply-accumulates of one inference.
        latency_ms: time of one inference.

    """

    sram_bytes: float | None = None
    flash_bytes: float | None = None
    macs: float | None = None
    latency_ms: float | None = None

    def __post_init__(self) -> None:
        for quantity, value in self.given.items():
            if not 0 < value < math.inf:
                raise MismatchError(
                    f"the limit of {NAMES[quantity]} is {value}; expected more than 0"
                )

    @property
    def given(self) -> dict[str, float]:
        """Those that matter, by quantity."""
        return {quantity: value for quantity, value in asdict(self).items() if value is not None}

    def shares(self, use: "Use") -> dict[str, float]:
        """Return how much of each limit a network takes, 1 for all of it; infinite if refused."""
        if use.refused:
            return dict.fromkeys(self.given or {"macs": 1.0}, math.inf)
        return {
            quantity: float(getattr(use, quantity)) / limit
            for quantity, limit in self.given.items()
        }

    def load(self, use: "Use") -> float:
        """Return the largest of the shares: up to 1 a network fits; 0 where nothing is limited."""
        return max(self.shares(use).values(), default=math.inf if use.refused else 0.0)

    def flags(self) -> str:
        """Return what one types for them."""
        return " ".join(f"{FLAGS[q]} {readable(q, value)}" for q, value in self.given.items())


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a network takes.

    Attributes:
        sram_bytes: working memory.
        flash_bytes: what is stored.
        macs: multiply-accumulates of one inference.
        latency_ms: time of one inference; None where there is no target.
        how: by quantity, what says so.
        beside: what others say: `arena_bytes` and `file_bytes` where a compiler's figures count.
        refused: why the device does not run it at all; "" if it does.

    """

    sram_bytes: int = 0
    flash_bytes: int = 0
    macs: int = 0
    latency_ms: float | None = None
    how: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, int] = field(default_factory=dict)
    refused: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        return {**asdict(self), "how": dict(self.how), "beside": dict(self.beside)}

    def __str__(self) -> str:
        """One line."""
        if self.refused:
            return self.refused
        parts = [
            f"{readable(quantity, getattr(self, quantity))} {NAMES[quantity]}"
            for quantity in ("sram_bytes", "flash_bytes", "macs")
        ]
        return ", ".join([*parts, *([f"{self.latency_ms:.4g} ms"] if self.latency_ms else [])])
