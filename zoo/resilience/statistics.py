"""Means of sampled strata with intervals that hold where nothing was seen."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
Z95 = 1.959963984540054
_THREE = 3.0  # if n trials show nothing, the rate is below 3 / n with 95 %


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
        runs: trials for which the rest of the network ran.

    """

    trials: Reals
    hits: Reals
    total: Reals
    signed: Reals
    square: Reals
    runs: Reals

    @classmethod
    def empty(cls, cells: int) -> "Tally":
        """Return a tally of nothing."""
        return cls(*(np.zeros(cells) for _ in range(6)))

    def add(self, cell: Any, weight: Reals, lost: Reals, ran: Reals) -> None:
        """Count trials: their cells, weights, what each lost (1, 0 or -1), and whether it ran."""
        hit = np.abs(lost)
        columns = (np.ones(len(lost)), hit, weight * hit, weight * lost, weight**2 * hit, ran)
        for column, values in zip(self.columns, columns, strict=True):
            column += np.bincount(cell, values, len(column))

    @property
    def columns(self) -> tuple[Reals, ...]:
        """All arrays, in order."""
        return self.trials, self.hits, self.total, self.signed, self.square, self.runs

    def merged(self, group: Any, groups: int) -> "Tally":
        """Return the tally of groups of cells; `group` is that of each cell."""
        made = (np.bincount(group, column, groups).astype(float) for column in self.columns)
        return Tally(*made)

    def moments(self, prior: "Reals | float", rate: "Reals | float") -> Reals:
        """Return E[w^2 hit] of each cell, smoothed by `prior` trials at `rate`."""
        return (self.square + prior * rate) / (self.trials + prior)


def mean(tally: Tally, share: Reals, *, signed: bool = False) -> tuple[float, float]:
    """Return the weighted mean over strata and its standard error.

    Where nothing was seen, or once, the second moment is that of the rule of three.

    Args:
        tally: of each stratum; all with a share need a trial.
        share: of each stratum; they sum to 1.
        signed: of the signed count.

    """
    used = share > 0
    n, part = tally.trials[used], share[used]
    if (n == 0).any():
        return math.nan, math.inf
    total = (tally.signed if signed else tally.total)[used]
    seen = tally.square[used]
    moment = np.where(tally.hits[used] < 2, np.maximum(seen, _THREE), seen) / n
    value = float((part * total / n).sum())
    variance = np.maximum(moment - (total / n) ** 2, 0) / n
    return value, float(np.sqrt((part**2 * variance).sum()))


def interval(
    value: float, error: float, low: float = 0.0, high: float = 1.0
) -> tuple[float, float]:
    """Return the ends of a 95 % interval within limits."""
    return max(low, value - Z95 * error), min(high, value + Z95 * error)


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
