"""NSGA-II (Deb et al., doi 10.1109/4235.996017), one child at a time: a front, not one network.

Two goals: the merit, and little of the quantity `against`. Of all trials the best `population` by
rank of their front, and in one front the least crowded, are parents. Two tournaments of two choose
a pair; a child takes each value from either, and some are changed.
"""

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.errors import MismatchError
from zoo.nas.searchers.contract import Attempt, Proposal, Question, drawn
from zoo.nas.searchers.evolution import mutated

SUMMARY = "NSGA-II: a front of networks, from small to good"
FILLS = False


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a population breeds.

    Attributes:
        population: networks that may be parents; the first so many are random.
        changes: decisions of a child that are changed.

    """

    population: int = 16
    changes: int = 1

    def __post_init__(self) -> None:
        if self.population < 2 or self.changes < 0:
            raise MismatchError(
                f"population {self.population}, changes {self.changes}; expected 2 or more, and 0 "
                "or more"
            )


def ask(question: Question, options: Options) -> Proposal:
    """Return a child of two good and different networks."""
    dice = question.dice()
    if len(question.trials) < options.population:
        return Proposal(choice=drawn(question.decisions, dice))
    ranked = ranking(question.trials, question.against)[: options.population]
    # The better of two has the lower place.
    pair = [ranked[min(dice.sample(range(len(ranked)), 2))] for _ in range(2)]
    child = {d.name: dice.choice(pair).choice[d.name] for d in question.decisions}
    return Proposal(choice=mutated(child, question.decisions, options.changes, dice))


def ranking(trials: Sequence[Attempt], against: str) -> list[Attempt]:
    """Return trials, the first front first, and in each the least crowded first."""
    left, found = list(trials), list[Attempt]()
    while left:
        front = [t for t in left if not any(dominates(other, t, against) for other in left)]
        crowd = crowding(front, against)
        found += sorted(front, key=lambda trial: (-crowd[trial.number], trial.number))
        left = [trial for trial in left if trial not in front]
    return found


def dominates(one: Attempt, other: Attempt, against: str) -> bool:
    """Say whether a trial is as good and as small as another, and better in one of the two."""
    a, b = ((trial.merit, -trial.takes(against)) for trial in (one, other))
    return a != b and a[0] >= b[0] and a[1] >= b[1]


def crowding(front: Sequence[Attempt], against: str) -> dict[int, float]:
    """Return by number how far apart a trial's neighbours on a front are; its ends are infinite."""
    found = dict.fromkeys((trial.number for trial in front), 0.0)
    goals = (operator.attrgetter("merit"), operator.methodcaller("takes", against))
    for goal in goals:
        row = sorted(front, key=goal)
        span = goal(row[-1]) - goal(row[0])
        found[row[0].number] = found[row[-1].number] = math.inf
        for before, trial, after in zip(row, row[1:], row[2:], strict=False):
            found[trial.number] += (goal(after) - goal(before)) / span if span else 0.0
    return found
