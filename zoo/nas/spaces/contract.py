"""What a space is: a module with `SUMMARY`, `Options`, `decisions` and `recipe`.

A file in this folder is a space by being here; an installed package offers one through the
entry-point group "zoo.nas.spaces". A space says what may be chosen and which network a choice is;
how to choose is no matter of its own: see `zoo.nas.searchers` and `zoo.nas.greedy`.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from zoo import extensions
from zoo.errors import MismatchError
from zoo.registry.checkpoint import OWN
from zoo.registry.recipe import Recipe

SPACES = "zoo.nas.spaces"
PARTS = {"SUMMARY": str, "Options": type, "decisions": Callable, "recipe": Callable}
Value = str | int | float
Choice = Mapping[str, Value]  # the chosen value of every decision, by its name
# "input" is what comes before the network: a front end, or how many pixels a picture has.
Kind = Literal["width", "depth", "operator", "kernel", "bits", "sparsity", "input", "other"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Something to choose.

    Attributes:
        name: what people call it, e.g. "block 3".
        values: what there is to choose from: words, where a search starts at the first, or numbers
            from small to large. Widths are channels, depths count what `layers` lists.
        kind: what a value is.
        layers: where it acts, for searches that train all choices at once: paths of modules in the
            network of the largest widths and depths. Of a width, those whose output channels
            beyond the value are zero; of a depth, those that are left out from the last on, as many
            for each unit of its largest value; of an operator or a kernel, the module that differs.
            () if no module can tell.

    Raises:
        MismatchError: there is nothing to choose from, a value comes twice, or numbers do not rise.

    """

    name: str
    values: tuple[Value, ...]
    kind: Kind = "other"
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        what = f"decision {self.name!r}"
        if self.kind not in get_args(Kind):
            raise MismatchError(
                f"{what} is of kind {self.kind!r}; expected {', '.join(get_args(Kind))}"
            )
        if not self.values:
            raise MismatchError(f"{what} has no values; expected one or more")
        if self.ordered:
            if any(a >= b for a, b in itertools.pairwise(self.values)):  # type: ignore[operator]
                raise MismatchError(f"{what} has {list(self.values)}; expected rising numbers")
        elif len(set(self.values)) < len(self.values):
            raise MismatchError(f"{what} has {list(self.values)}; expected each value once")

    @property
    def ordered(self) -> bool:
        """Whether the values are numbers, so that some lie next to each other."""
        return not any(isinstance(value, str) for value in self.values)


class Space(Protocol):
    """A set of networks.

    A space may also have `capacity(options, choice) -> float`: how much a choice can express before
    it is trained, NN-Mass for example; more is better. `zoo.nas.greedy` asks for it. It may also
    have `choice_of(options, recipe) -> Choice`: which choice a recipe is, to start a search there.

    Attributes:
        SUMMARY: one line for people.
        Options: a frozen dataclass of its settings; every field has a default.

    """

    SUMMARY: str
    Options: type

    @property
    def decisions(self) -> Callable[[Any], tuple[Decision, ...]]:
        """Return what there is to choose, with options.

        Raises:
            MismatchError: an option cannot be meant.

        """

    @property
    def recipe(self) -> Callable[[Any, Choice, str], Recipe]:
        """Return the recipe of a choice, with options, under a name."""


def names() -> list[str]:
    """Return the names of all spaces."""
    return extensions.names(SPACES)


def find(name: str) -> Space:
    """Return the space of that name.

    Raises:
        UnknownNameError: there is no such space.
        MismatchError: it lacks a part of the contract, or cannot be imported.

    """
    module: Space = extensions.member(SPACES, name, "space")
    extensions.require(module, PARTS, f"space {name!r}", f"{SPACES}.contract")
    return module


def decided(space: Space, options: Any) -> tuple[Decision, ...]:
    """Return what there is to choose in a space.

    Raises:
        MismatchError: there is nothing to choose, or two decisions have one name.

    """
    decisions = space.decisions(options)
    known = [decision.name for decision in decisions]
    if not decisions or len(set(known)) < len(known):
        twice = next((name for name in known if known.count(name) > 1), None)
        what = "nothing to choose" if twice is None else f"two decisions named {twice!r}"
        raise MismatchError(f"the space has {what}; expected decisions of different names")
    return tuple(decisions)


def start(decisions: tuple[Decision, ...]) -> dict[str, Value]:
    """Return the choice of every first value: the least numbers."""
    return {decision.name: decision.values[0] for decision in decisions}


def size(decisions: tuple[Decision, ...]) -> int:
    """Return how many choices there are."""
    return math.prod(len(decision.values) for decision in decisions)


def choices(decisions: tuple[Decision, ...]) -> Iterator[dict[str, Value]]:
    """Give every choice."""
    for values in itertools.product(*(decision.values for decision in decisions)):
        yield {d.name: value for d, value in zip(decisions, values, strict=True)}


def derived(base: Recipe, name: str, summary: str, **args: Any) -> Recipe:
    """Return a recipe as a base is, of another network: with these arguments of its class.

    It starts from random weights, and without a teacher: the base's are for the base.
    """
    make = dataclasses.replace(base.train, init=None, teacher=None, quant=None)
    args = {**base.args, **args}
    return dataclasses.replace(
        base, name=name, summary=summary, args=args, make=make, default_tag=OWN, tiny={}
    )
