"""Where a cost lies in a picture: logarithmic axes, and what a target's roofline allows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.cost.result import Cost, OpCost
from zoo.cost.target import Target

MEMORIES = ("sram", "flash", "dram")


@dataclass(frozen=True)
class Scale:
    """A logarithmic axis from `low` to `high`, drawn from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> "Scale":
        """Return the axis on which all of these positive values lie, with a margin."""
        return cls(min(values) / 1.5, max(values) * 1.5, start, end)

    def place(self, value: float) -> float:
        """Return where a value lies."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return the round values on the axis."""
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        dense = self.high / self.low < 300
        values = [f * 10.0**d for d in decades for f in ((1, 2, 5) if dense else (1,))]
        return [value for value in values if self.low <= value <= self.high]


@dataclass(frozen=True)
class Roofline:
    """The operators of a cost under what a target allows.

    Attributes:
        ops: those that multiply, on the device itself.
        depths: of each, MACs for a byte of weights and activations.
        speeds: of each, in 10^9 MACs a second.
        roof: of all multipliers, in 10^9 MACs a second, or None where that is not known.
        slopes: of the memories that the target names, in 10^9 bytes a second.

    """

    ops: tuple[OpCost, ...]
    depths: tuple[float, ...]
    speeds: tuple[float, ...]
    roof: float | None
    slopes: dict[str, float]

    @classmethod
    def of(cls, cost: Cost, target: Target) -> "Roofline":
        """Return the roofline of a cost; without operators if its method counts no MACs."""
        ops = tuple(op for op in cost.ops if op.macs and op.latency_ms and op.bound != "host")
        return cls(
            ops,
            tuple(op.macs / max(op.bytes, 1) for op in ops),
            tuple(op.macs / op.latency_ms / 1e6 for op in ops),
            _peak(target),
            {m: rate / 1e9 for m in MEMORIES if (rate := target.get(f"{m}_bytes_per_s") or 0)},
        )

    def line(self, memory: str, x: Scale, y: Scale) -> list[tuple[float, float]]:
        """Return the ends of a memory's line within the axes and under the roof; none if outside.

        Each end is (MACs for a byte, 10^9 MACs a second).
        """
        slope = self.slopes[memory]
        low, high = max(x.low, y.low / slope), min(x.high, (self.roof or y.high) / slope)
        return [(low, low * slope), (high, high * slope)] if low < high else []


def _peak(target: Target) -> float | None:
    """Return a target's multiply-accumulates in a second, in 10^9, or None."""
    clock = target.get("clock_hz")
    if clock is None:
        return None
    if target.array is not None:
        return clock * 8 * math.prod(target.array.microblock) * target.array.cores / 1e9
    rates = [n.value for name, n in target.rates.items() if name != "default"]
    return clock * max(rates) / 1e9 if rates else None


def slowest(cost: Cost, most: int) -> list[OpCost]:
    """Return the operators that take longest, at most so many."""
    taking = [op for op in cost.ops if op.latency_ms]
    return sorted(taking, key=lambda op: -op.latency_ms)[:most]
