"""Clustered TPE (Azizi et al., arXiv 2308.06422): two thresholds, which k-means on merits draws.

Values are drawn where good networks had them and bad ones had not. TPE calls a fixed share of the
trials good and all others bad; here merits are clustered, the best cluster is good, the two worst
are bad, and those between count for neither. Each decision has its own distribution; one of numbers
is smoothed over neighbours. What was tried is not proposed again.

The paper's number of clusters and priors are not published. Merits far below the median are moved
up first (one failure would be a cluster), and a cluster that is small is filled up with the next
best: both are ours.
"""

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zoo.errors import MismatchError
from zoo.nas.searchers.contract import Attempt, Proposal, Question, drawn
from zoo.nas.spaces.contract import Choice, Decision, Value

SUMMARY = "TPE between the best and the worst clusters of merits"
FILLS = True
_WORST = 2  # clusters that are bad
_FAR = 3  # deviations from the median (of absolute values) beyond which merits are alike
_REDRAWN = 20  # random choices more, where everything drawn was tried


@dataclass(frozen=True, kw_only=True)
class Options:
    """How values are drawn.

    Attributes:
        random: trials before the first that is not drawn at random.
        split: "clusters", or "quantile": the best tenth is good and all others are bad, as in TPE.
        clusters: of the merits.
        least: share of the trials that are good or bad at least, and never fewer than two.
        candidates: proposals of which the likeliest to be good is taken.
        prior: trials that speak for every value alike.
        reach: what a trial says of the next number, as a share of what it says of its own.

    """

    random: int = 12
    split: Literal["clusters", "quantile"] = "clusters"
    clusters: int = 4
    least: float = 0.1
    candidates: int = 24
    prior: float = 1.0
    reach: float = 0.3

    def __post_init__(self) -> None:
        if self.random < 4 or self.clusters < 2 or self.candidates < 1:
            raise MismatchError(
                f"random {self.random}, clusters {self.clusters}, candidates {self.candidates}; "
                "expected 4, 2 and 1 or more"
            )
        if not (0 < self.least <= 0.5 and self.prior > 0 and 0 <= self.reach < 1):
            raise MismatchError(
                f"least {self.least:g}, prior {self.prior:g}, reach {self.reach:g}; expected 0 to "
                "0.5, more than 0, and 0 up to 1"
            )


def ask(question: Question, options: Options) -> Proposal:
    """Return the choice that is likeliest to be good of those that were not tried."""
    dice = question.dice()
    trials = sorted(question.trials, key=lambda trial: (-trial.merit, trial.number))
    if len(trials) < options.random:
        return Proposal(choice=drawn(question.decisions, dice))
    good, bad = split([trial.merit for trial in trials], options)
    likely = [_odds(d, trials[:good], options) for d in question.decisions]
    unlikely = [_odds(d, trials[len(trials) - bad :], options) for d in question.decisions]
    tried = {_key(trial.choice, question.decisions) for trial in trials}
    best: tuple[float, dict[str, Value]] | None = None
    for _ in range(options.candidates):
        places = [dice.choices(range(len(odds)), odds)[0] for odds in likely]
        choice = {d.name: d.values[p] for d, p in zip(question.decisions, places, strict=True)}
        if _key(choice, question.decisions) in tried:
            continue
        pairs = zip(places, likely, unlikely, strict=True)
        score = sum(math.log(above[at] / below[at]) for at, above, below in pairs)
        if best is None or score > best[0]:
            best = score, choice
    return Proposal(choice=best[1] if best else _fresh(question.decisions, tried, dice))


def split(merits: Sequence[float], options: Options) -> tuple[int, int]:
    """Return how many trials are good and how many are bad, of merits from the best on."""
    count = len(merits)
    least = max(2, math.ceil(options.least * count))
    if options.split == "quantile":
        return least, count - least
    middle = statistics.median(merits)
    spread = statistics.median(abs(merit - middle) for merit in merits)
    clipped = [max(merit, middle - _FAR * spread) for merit in merits] if spread else list(merits)
    sizes = clusters(clipped, options.clusters)
    if len(sizes) == 1:  # all are alike
        return least, count - least
    good = max(least, sizes[0])
    bad = max(least, sum(sizes[max(1, len(sizes) - _WORST) :]))
    good = min(good, count - least)
    return good, min(bad, count - good)


def clusters(values: Sequence[float], most: int) -> list[int]:
    """Return the sizes of at most so many clusters of falling values, by k-means.

    Clusters of numbers are runs of them, so that the least sum of squares is found exactly: of the
    first n values in k clusters, from those of fewer values in k - 1.
    """
    count, k = len(values), min(most, len(set(values)))
    sums = list(itertools.accumulate(values, initial=0.0))
    squares = list(itertools.accumulate((value * value for value in values), initial=0.0))

    def scatter(start: int, end: int) -> float:
        total = sums[end] - sums[start]
        return squares[end] - squares[start] - total * total / (end - start)

    best = [(scatter(0, end), [end]) for end in range(1, count + 1)]
    for parts in range(2, k + 1):
        now = [(math.inf, list[int]())] * (parts - 1)
        for end in range(parts, count + 1):
            tried = (
                (best[start - 1][0] + scatter(start, end), start) for start in range(parts - 1, end)
            )
            cost, start = min(tried)
            now.append((cost, [*best[start - 1][1], end - start]))
        best = now
    return best[-1][1]


def _odds(decision: Decision, trials: Sequence[Attempt], options: Options) -> list[float]:
    """Return the probability of each value of a decision, as trials chose it."""
    count = len(decision.values)
    odds = [options.prior / count] * count
    reach = options.reach if decision.ordered else 0.0
    for trial in trials:
        at = decision.values.index(trial.choice[decision.name])
        shares = [reach ** abs(place - at) for place in range(count)]
        total = sum(shares)
        odds = [odd + share / total for odd, share in zip(odds, shares, strict=True)]
    total = sum(odds)
    return [odd / total for odd in odds]


def _key(choice: Choice, decisions: tuple[Decision, ...]) -> tuple[Value, ...]:
    return tuple(choice[decision.name] for decision in decisions)


def _fresh(
    decisions: tuple[Decision, ...], tried: set[tuple[Value, ...]], dice: random.Random
) -> dict[str, Value]:
    """Return a random choice, one that was not tried if some draws find one."""
    choice = drawn(decisions, dice)
    for _ in range(_REDRAWN):
        if _key(choice, decisions) not in tried:
            break
        choice = drawn(decisions, dice)
    return choice
