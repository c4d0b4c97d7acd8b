"""What a purifier is: a module with `SUMMARY`, `USAGE` and `make`, which returns a `Stage`.

A file of `zoo.resilience.purifiers` is a purifier by being there; an installed package offers one
through the entry-point group "zoo.resilience.purifiers". Any network of super resolution is one
too, by its ref.
"""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from zoo.errors import MismatchError

POINT = "zoo.resilience.purifiers"
PARTS = {"SUMMARY": str, "USAGE": str, "make": Callable}


class Stage(nn.Module):
    """A step of a pipeline: pictures `(N, C, H, W)` in [0, 1] to `(N, C, scale H, scale W)`.

    Attributes:
        text: how it is typed, e.g. "jpeg:75".
        scale: how much it enlarges.
        smooth: whether gradients pass through it. An adaptive attacker takes the identity in
            place of the others' gradients.

    """

    text: str
    scale: int = 1
    smooth: bool = True


class Purifier(Protocol):
    """A kind of stage.

    Attributes:
        SUMMARY: one line for people.
        USAGE: how it is typed, e.g. "jpeg:QUALITY".

    """

    SUMMARY: str
    USAGE: str

    def make(self, *words: str) -> Stage:
        """Return a stage, from what follows its name, split at colons.

        Raises:
            MismatchError: the words cannot be used.

        """
        ...


def number(word: str, what: str, low: float, high: float) -> float:
    """Return a word as a number between two others.

    Raises:
        MismatchError: it is none.

    """
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise MismatchError(f"{what} is {word!r}; expected {low:g} to {high:g}")
    return value
