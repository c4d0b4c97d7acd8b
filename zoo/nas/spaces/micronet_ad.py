"""MicroNets for anomalies: how many pairs of layers, and how wide each."""

from dataclasses import dataclass

from zoo.nas.spaces import _ds_cnn
from zoo.nas.spaces.contract import Choice, Decision
from zoo.registry.recipe import Recipe

_LAST = 2  # pairs at the end that have a stride, as the first one has
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
    return _ds_cnn.decisions(options.step, options.widest, options.pairs, _LAST + 1, _LAST)


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice: the first pair and the last two have a stride of 2."""
    most = max(options.pairs)
    pairs = _ds_cnn.kept(int(choice["pairs"]), most, _LAST)
    strides = {n: 2 if n == 1 or n > most - _LAST else 1 for n in pairs}
    return _ds_cnn.recipe(options.base, strides, choice, name)


def choice_of(options: Options, found: Recipe) -> Choice:
    """Return the choice that a recipe is; see `_ds_cnn.located`."""
    return _ds_cnn.located(found, decisions(options), _LAST)
