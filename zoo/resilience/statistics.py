"""Means of sampled strata with intervals that hold where nothing was seen."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Tally:
    """What was counted, per cell: arrays of the same length.

    A trial counts `w`, its weight, if the answer turned from right to wrong or back: `signed` is
    then w or -w, w for an answer that became wrong.

    Attributes:
        trials: how many were made.
        hits: how many counted.
        total: sum of w over hits.
        signed: sum of signed w.
        square: sum of w^2 over hits.
        signed_square: likewise, w^2 or -w^2.
        caught: sum of w over hits that a check of the sums' range notices.
        runs: trials for which the rest of the network ran.

    """

    trials: Reals
    hits: Reals
    total: Reals
    signed: Reals
    square: Reals
    signed_square: Reals
    caught: Reals
    runs: Reals

    @classmethod
    def empty(cls, cells: int) -> "Tally":
        """Return a tally of nothing."""
        return cls(*(np.zeros(cells) for _ in range(8)))

    def add(self, cell: Any, weight: Reals, lost: Reals, caught: Reals, ran: Reals) -> None:
        """Count trials.

        Args:
            cell: the cell of each.
            weight: of each.
            lost: 1 if the answer became wrong, -1 if it became right, or 0.
            caught: 1 if a check of the sums' range notices it.
            ran: 1 if the rest of the network ran.

        """
        hit = np.abs(lost)
        square = weight**2
        columns = (
            np.ones(len(lost)), hit, weight * hit, weight * lost, square * hit, square * lost,
            weight * hit * caught, ran,
        )  # fmt: skip
        for column, values in zip(self.columns, columns, strict=True):
            column += np.bincount(cell, values, len(column))

    @property
    def columns(self) -> tuple[Reals, ...]:
        """All arrays, in order."""
        return (
            self.trials, self.hits, self.total, self.signed, self.square, self.signed_square,
            self.caught, self.runs,
        )  # fmt: skip

    def merged(self, group: Any, groups: int) -> "Tally":
        """Return the tally of groups of cells; `group` is that of each cell."""
        made = (np.bincount(group, column, groups).astype(float) for column in self.columns)
        return Tally(*made)

    def moments(self, prior: "Reals | float", rate: "Reals | float") -> Reals:
        """Return E[w^2 hit] of each cell, smoothed by `prior` trials at `rate`."""
        return (self.square + prior * rate) / (self.trials + prior)


@dataclass(frozen=True)
class Mean:
    """A weighted mean over strata with its 95 % interval."""

    value: float
    low: float
    high: float


def mean(tally: Tally, share: Reals, *, signed: bool = False) -> Mean:
    """Return the mean count over strata, or with `signed` of the signed count.

    Counts are weighted sums of rare events. Their interval is that of a gamma distribution (Fay and
    Feuer, Statistics in Medicine 16, 1997), which widens by one event that may have been missed, so
    that it holds where nothing was seen. Of the signed count it follows from those of its two parts
    (Zou and Donner, Statistics in Medicine 27, 2008). Without trials nothing is known.

    Args:
        tally: of each stratum.
        share: of each stratum; they sum to 1.
        signed: of the signed count.

    """
    used = share > 0
    n = tally.trials[used]
    if (n == 0).any():
        return Mean(0.0, -1.0 if signed else 0.0, 1.0)
    each = share[used] / n
    if not signed:
        return _rare(each, tally.total[used], tally.square[used])
    lost, gained = (
        _rare(
            each,
            (tally.total[used] + sign * tally.signed[used]) / 2,
            (tally.square[used] + sign * tally.signed_square[used]) / 2,
        )
        for sign in (1, -1)
    )
    down = math.hypot(lost.value - lost.low, gained.high - gained.value)
    up = math.hypot(lost.high - lost.value, gained.value - gained.low)
    value = lost.value - gained.value
    return Mean(value, max(-1.0, value - down), min(1.0, value + up))


def _rare(each: Reals, total: Reals, square: Reals) -> Mean:
    """Return the mean of events that count `each` of their stratum times their weight."""
    value, variance = float((each * total).sum()), float((each**2 * square).sum())
    missed = float(each.max())
    low = 0.0
    if value > 0:
        low = variance / (2 * value) * chi_square(-Z95, 2 * value**2 / variance)
    wide, more = value + missed, variance + missed**2
    high = more / (2 * wide) * chi_square(Z95, 2 * wide**2 / more)
    return Mean(value, min(low, value), min(1.0, max(high, value)))


def chi_square(z: float, freedom: float) -> float:
    """Return the quantile of a chi-square distribution where a normal one's is z.

    By Wilson and Hilferty's cube, which is off by less than 1 % above the median, and low below it.
    """
    small = 2 / (9 * freedom)
    return freedom * float(max(0.0, 1 - small + z * math.sqrt(small)) ** 3)


def clopper_pearson(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share of which `hits` of `trials` were seen.

    By bisection on the binomial distribution, so that no other package is needed.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"{hits} of {trials}")
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else _root(lambda p: _upper(hits, trials, p) - tail)
    high = 1.0 if hits == trials else _root(lambda p: tail - (1 - _upper(hits + 1, trials, p)))
    return low, high


def _root(function: Any) -> float:
    """Return where a function that rises from below 0 to above it crosses, within 0 and 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2


def _upper(hits: int, trials: int, p: float) -> float:
    """Return the chance of `hits` or more in so many trials."""
    if p <= 0 or p >= 1:
        return float(p >= 1 or hits <= 0)
    logs = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        + k * math.log(p) + (trials - k) * math.log1p(-p)
        for k in range(hits)
    ]  # fmt: skip
    return max(0.0, 1.0 - math.fsum(map(math.exp, logs)))
