"""Regularised evolution (Real et al., arXiv 1802.01548): the youngest live, the best of some breed.

The population are the last `population` trials; it grows from random networks, or from a known one.
Of `sample` of them, drawn, the best is changed in some decisions: a number to one of its neighbours
or to any other, a word to any other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from zoo import registry
from zoo.errors import MismatchError
from zoo.nas.searchers.contract import Proposal, Question, drawn
from zoo.nas.spaces.contract import Choice, Decision, Value
from zoo.registry.recipe import Recipe

SUMMARY = "regularised evolution: a change to the best of some of the last networks"
FILLS = True


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a population breeds.

    Attributes:
        population: networks that live; the first so many are random.
        sample: of which the best is changed.
        changes: decisions that are changed at a time.
        start: name of a recipe of the space, such as micronet-kws-s, that is the first trial.

    """

    population: int = 12
    sample: int = 4
    changes: int = 2
    start: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= self.population or self.changes < 1:
            raise MismatchError(
                f"population {self.population}, sample {self.sample}, changes {self.changes}; "
                "expected a sample of 1 up to the population, and 1 change or more"
            )


def ask(question: Question, options: Options) -> Proposal:
    """Return a child of the best, or a random choice while the population grows.

    Raises:
        MismatchError: the network to start from is not in the space, or cannot be looked up in it.

    """
    dice = question.dice()
    if options.start and question.number == question.draw == 0:
        return Proposal(choice=_known(question, options.start))
    living = question.trials[-options.population :]
    if len(living) < options.population:
        return Proposal(choice=drawn(question.decisions, dice))
    parent = max(dice.sample(list(living), options.sample), key=lambda trial: trial.merit)
    return Proposal(choice=mutated(parent.choice, question.decisions, options.changes, dice))


def _known(question: Question, name: str) -> Choice:
    """Return the choice that a recipe of the zoo is."""
    of: Callable[[Any, Recipe], Choice] | None = getattr(question.space, "choice_of", None)
    if of is None:
        raise MismatchError(f"this space cannot say which of its networks {name} is; leave start")
    return of(question.settings, registry.find(name))


def mutated(
    choice: Choice, decisions: tuple[Decision, ...], changes: int, dice: random.Random
) -> dict[str, Value]:
    """Return a choice with so many decisions changed."""
    free = [decision for decision in decisions if len(decision.values) > 1]
    changed = dice.sample(free, min(changes, len(free)))
    return {**choice, **{d.name: _other(d, choice[d.name], dice) for d in changed}}


def _other(decision: Decision, value: Value, dice: random.Random) -> Value:
    others = [other for other in decision.values if other != value]
    place = decision.values.index(value)
    if decision.ordered and dice.random() < 0.5:
        step = max(1, len(decision.values) // 10)  # of many fine steps, one that is noticed
        near = decision.values[max(0, place - step) : place + step + 1]
        others = [other for other in near if other != value]
    return dice.choice(others)
