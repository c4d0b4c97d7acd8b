"""What a space is: a module with `SUMMARY`, `Options`, `decisions`, `recipe` and `capacity`.

A file in this folder is a space by being here; an installed package offers one through the
entry-point group "zoo.nas.spaces". A space says what may be chosen and which network a choice is;
how to choose is no matter of its own (see `zoo.nas.greedy`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zoo import extensions
from zoo.registry.recipe import Recipe

SPACES = "zoo.nas.spaces"
PARTS = {"SUMMARY": str, "Options": type, "decisions": Callable, "recipe": Callable}
PARTS |= {"capacity": Callable}
Choice = Mapping[str, str]  # the chosen value of every decision, by its name


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Something to choose.

    Attributes:
        name: what people call it, e.g. "block 3".
        values: what there is to choose from; a search starts at the first.

    """

    name: str
    values: tuple[str, ...]


class Space(Protocol):
    """A set of networks.

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

    @property
    def capacity(self) -> Callable[[Any, Choice], float]:
        """Return how much a choice can express, before it is trained: more is better."""


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


def start(decisions: tuple[Decision, ...]) -> dict[str, str]:
    """Return the choice that a search starts at."""
    return {decision.name: decision.values[0] for decision in decisions}
