"""What a searcher is: a module with `SUMMARY`, `FILLS`, `Options` and `ask`.

A file in this folder is a searcher by being here, named like `--by`; an installed package offers
one through the entry-point group "zoo.nas.searchers". A searcher keeps nothing: what it asks for
follows from the trials so far, so that a search goes on after a kill, and in several processes.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zoo import extensions
from zoo.cost import Target
from zoo.nas.limits import Limits, Use
from zoo.nas.spaces.contract import Choice, Decision, Space, Value
from zoo.registry.recipe import Recipe

SEARCHERS = "zoo.nas.searchers"
FLIPS = "flip_rate"  # the score, and what a front may have beside the merit: % of faults
PARTS = {"SUMMARY": str, "FILLS": bool, "Options": type, "ask": Callable}


def itself(recipe: Recipe) -> Recipe:
    """Return a recipe as it is."""
    return recipe


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A network that was tried.

    Attributes:
        number: from 0.
        choice: which.
        use: what it takes of a device.
        load: the largest share of a limit.
        merit: how good it is, more is better.
        scores: what was measured on held-out data, or the proxy, by key.
        seconds: that it took.
        spent: training work, MACs of all samples' forward passes, the searcher's own included.
        proposed: what the searcher asked for, before repair.
        failed: why there is no merit, a loss that became infinite for example; "" if there is one.

    """

    number: int
    choice: Choice
    use: Use
    load: float
    merit: float
    scores: Mapping[str, float]
    seconds: float = 0.0
    spent: float = 0.0
    proposed: Choice = field(default_factory=dict)
    failed: str = ""

    def takes(self, quantity: str) -> float:
        """Return how much of something that should be little: of a device, or what faults turn."""
        return float(self.scores[FLIPS] if quantity == FLIPS else getattr(self.use, quantity))

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        plain = {"choice": dict(self.choice), "scores": dict(self.scores)}
        plain |= {"proposed": dict(self.proposed), "use": self.use.to_json()}
        return {**asdict(self), **plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Attempt":
        """Return what `to_json` gave."""
        return cls(**{**value, "use": Use(**value["use"])})


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a searcher is asked with.

    Attributes:
        space: which networks there are.
        settings: options of the space.
        decisions: of the space.
        trials: those that are done and did not fail, by number.
        number: of the trial that is asked for.
        seed: of the search.
        draw: 0, or which proposal for this trial it is, where a filter takes the best of several or
            what was proposed has been tried.
        limits: what a network may take.
        measure: says what a choice takes.
        against: the quantity that the front has beside the merit.
        data: what is trained on; None where nothing is trained.
        steps: of a trial's training; 0 where nothing is trained.
        folder: for a searcher's own files; what lies there outlives a kill.
        search: a text that no other search has.
        target: the device; None: any that runs TFLite Micro.
        fitted: gives a recipe of the space the labels of the data, and the training's settings.

    """

    space: Space
    settings: Any
    decisions: tuple[Decision, ...]
    trials: Sequence[Attempt]
    number: int
    seed: int
    limits: Limits
    measure: Callable[[Choice], Use]
    draw: int = 0
    against: str = "macs"
    data: str | None = None
    steps: int = 0
    folder: Path | None = None
    search: str = ""
    target: Target | None = None
    fitted: Callable[[Recipe], Recipe] = itself

    def dice(self) -> random.Random:
        """Return the random numbers of this trial."""
        return random.Random(f"{self.seed} {self.number} {self.draw}")


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a searcher asks to be tried.

    Attributes:
        choice: which network; what is beyond the limits is repaired.
        spent: training work that the searcher itself did for it, see `Attempt`.
        first: names of decisions that a repair grows before others.

    """

    choice: Choice
    spent: float = 0.0
    first: tuple[str, ...] = ()


class Searcher(Protocol):
    """A way to search.

    Attributes:
        SUMMARY: one line for people.
        FILLS: whether proposals are grown to the limits. A searcher for a front of small and large
            networks has them only made to fit.
        Options: a frozen dataclass of its settings; every field has a default.

    """

    SUMMARY: str
    FILLS: bool
    Options: type

    @property
    def ask(self) -> Callable[[Question, Any], Proposal]:
        """Return what to try next, with options."""


def names() -> list[str]:
    """Return the names of all searchers."""
    return extensions.names(SEARCHERS)


def find(name: str) -> Searcher:
    """Return the searcher of that name.

    Raises:
        UnknownNameError: there is no such searcher.
        MismatchError: it lacks a part of the contract, or cannot be imported.

    """
    module: Searcher = extensions.member(SEARCHERS, name, "searcher")
    extensions.require(module, PARTS, f"searcher {name!r}", f"{SEARCHERS}.contract")
    return module


def drawn(decisions: Sequence[Decision], dice: random.Random) -> dict[str, Value]:
    """Return a choice of which every value is as likely."""
    return {decision.name: dice.choice(decision.values) for decision in decisions}
