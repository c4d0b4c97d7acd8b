"""MicroNets for keywords: how many pairs of layers, how wide each, and what they hear."""

import dataclasses
from dataclasses import dataclass

from zoo.data.frontends import named
from zoo.nas.spaces import _ds_cnn
from zoo.nas.spaces.contract import Choice, Decision
from zoo.registry.recipe import Recipe

SUMMARY = "MicroNets for keywords: depth, widths, and the front end"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the networks have in common, and how fine the choices are.

    Attributes:
        base: the recipe whose first kernel, front end and training they have.
        step: what widths are multiples of; 4 has the published networks in the space.
        widest: the greatest width.
        pairs: the numbers of pairs to choose from.
        front_ends: names to choose from instead of the base's front end.

    """

    base: str = "micronet-kws-s"
    step: int = 4
    widest: int = 276
    pairs: tuple[int, ...] = (3, 4, 5, 6, 7)
    front_ends: tuple[str, ...] = ()


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return the front end, if there are several, the depth and the widths."""
    _ds_cnn.of(options.base)
    fronts = tuple(named(front).name for front in options.front_ends)
    heard = (Decision(name="front end", values=fronts, kind="input"),) if fronts else ()
    return (*heard, *_ds_cnn.decisions(options.step, options.widest, options.pairs))


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice: only the first pair has a stride, of 2."""
    strides = {n: 2 if n == 1 else 1 for n in range(1, int(choice["pairs"]) + 1)}
    found = _ds_cnn.recipe(options.base, strides, choice, name)
    if "front end" not in choice:
        return found
    front = named(str(choice["front end"]))
    *first, _, _ = found.input_shape
    samples = int(found.preprocessing["samples"])
    return dataclasses.replace(
        found,
        preprocessing={**found.preprocessing, "front_end": front.name},
        input_shape=(*first, front.frames(samples), front.width),
    )


def choice_of(options: Options, found: Recipe) -> Choice:
    """Return the choice that a recipe is; see `_ds_cnn.located`."""
    return _ds_cnn.located(found, decisions(options))
