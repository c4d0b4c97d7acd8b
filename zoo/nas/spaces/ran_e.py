"""RAN-explicit: which inverted bottlenecks of a network become dense 3x3 convolutions.

The authors' search is not public; they train a network with switches, and look at what it chose. So
a person's part stays: `keep` and `collapse` decide blocks ahead of the search.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo import registry
from zoo.errors import MismatchError
from zoo.models.ran.explicit import KINDS, BlockRow, RanE, row_of
from zoo.nas.spaces.contract import Choice, Decision, derived
from zoo.registry.recipe import Recipe

SUMMARY = "RAN-explicit: which inverted bottlenecks become one dense 3x3 convolution each"
COLLAPSED, BOTTLENECK = KINDS


@dataclass(frozen=True, kw_only=True)
class Options:
    """The network whose blocks are decided, and those that are not asked about.

    Attributes:
        base: a recipe of RAN-explicit; what its blocks are does not matter, only their sizes.
        keep: numbers of blocks, from 0, that stay inverted bottlenecks.
        collapse: numbers of blocks that are collapsed in any case.

    """

    base: str = "ran-e-ib"
    keep: tuple[int, ...] = ()
    collapse: tuple[int, ...] = ()


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return a decision for each block: an inverted bottleneck, or collapsed.

    Raises:
        MismatchError: the base is not a RAN-explicit, or a number is not one of its blocks.

    """
    count = len(_rows(_base(options)))
    keep, collapse = (_numbers(options, name, count) for name in ("keep", "collapse"))
    if both := sorted(keep & collapse):
        raise MismatchError(f"block {both[0]} is in keep and in collapse; give it once")
    return tuple(
        Decision(
            name=f"block {number}",
            values=(BOTTLENECK,)
            if number in keep
            else (COLLAPSED,)
            if number in collapse
            else (BOTTLENECK, COLLAPSED),
            kind="operator",
            layers=(f"blocks.{number}",),
        )
        for number in range(count)
    )


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the base's recipe with the chosen kinds of blocks."""
    base = _base(options)
    rows = [[choice[f"block {number}"], *row[1:]] for number, row in enumerate(base.args["blocks"])]
    count = sum(row[0] == COLLAPSED for row in rows)
    summary = f"{options.base} with {count} of {len(rows)} blocks collapsed"
    return derived(base, name, summary, blocks=rows)


def capacity(options: Options, choice: Choice) -> float:
    """Return the number of non-linear units: of values that pass an activation, per picture."""
    base = _base(options)
    height, width = base.input_shape[2:]
    stride = base.args.get("stem_stride", 2)
    height, width = math.ceil(height / stride), math.ceil(width / stride)
    inputs, units = base.args.get("stem", 16), 0
    for number, row in enumerate(_rows(base)):
        places = height * width
        height, width = math.ceil(height / row.stride), math.ceil(width / row.stride)
        if choice[f"block {number}"] == COLLAPSED:
            units += (inputs + row.middle) * places
        else:
            inner = row.widen * inputs * (2 if row.middle else 1)
            units += inner * (places + height * width)
        inputs = row.outputs
    return units


def _base(options: Options) -> Recipe:
    found = registry.find(options.base)
    if not _is_one(found):
        known = ", ".join(name for name in registry.names() if _is_one(registry.find(name)))
        raise MismatchError(f"base is {options.base}, not a RAN-explicit; there are: {known}")
    return found


def _is_one(recipe: Recipe) -> bool:
    return recipe.model == f"{RanE.__module__}:{RanE.__name__}"


def _rows(base: Recipe) -> list[BlockRow]:
    arguments: Mapping[str, Any] = base.args
    return [row_of(row) for row in arguments["blocks"]]


def _numbers(options: Options, name: str, count: int) -> set[int]:
    """Return the blocks that an option lists."""
    numbers = set(getattr(options, name))
    if wrong := sorted(number for number in numbers if not 0 <= number < count):
        raise MismatchError(
            f"{name} has {wrong[0]}; {options.base} has blocks 0 to {count - 1}, e.g. {name}=0,1"
        )
    return numbers
