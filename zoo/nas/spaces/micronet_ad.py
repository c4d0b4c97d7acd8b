"""MicroNets for anomalies: how many pairs of layers, and how wide each."""

from dataclasses import dataclass

from zoo.nas.spaces import _ds_cnn
from zoo.nas.spaces.contract import Choice, Decision
from zoo.registry.recipe import Recipe

SUMMARY = "MicroNets for anomalies: depth and widths"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the networks have in common, and how fine the choices are.

    Attributes:
        base: the recipe whose first kernel, front end and training they have.
        step: what widths are multiples of; 4 has the published networks in the space.
        widest: the greatest width.
        pairs: the numbers of pairs to choose from, 3 or more.

    """

    base: str = "micronet-ad-s"
    step: int = 4
    widest: int = 276
    pairs: tuple[int, ...] = (3, 4, 5, 6)


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return the depth and the widths."""
    _ds_cnn.of(options.base)
    return _ds_cnn.decisions(options.step, options.widest, options.pairs, fewest=3)


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice: the first pair and the last two have a stride of 2."""
    strides = [2, *[1] * (int(choice["pairs"]) - 3), 2, 2]
    return _ds_cnn.recipe(options.base, strides, choice, name)
