"""MicroNets for visual wake words: widths of a MobileNet's bottlenecks, and the pictures' size."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from zoo import registry
from zoo.models.micronets import HEAD, ROWS, STEM
from zoo.nas.spaces.contract import Choice, Decision, derived
from zoo.registry.recipe import Recipe

SUMMARY = "MicroNets for visual wake words: widths of every bottleneck, and the pictures' size"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the networks have in common, and how fine the choices are.

    Attributes:
        percent: the widths to choose from, in hundredths of MicroNet-VWW-4's, to even numbers.
        sides: pixels of a picture's side to choose from.

    """

    percent: tuple[int, ...] = (25, 50, 75, 100, 125, 150)
    sides: tuple[int, ...] = (64, 80, 96, 112, 128)


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return the side of a picture, and the inner and outer width of each bottleneck."""
    found = [
        Decision(name="side", values=options.sides, kind="input"),
        _width("stem", STEM, options.percent, ("stem",)),
    ]
    for n, row in enumerate(ROWS):
        inside = (f"rows.{n}.expand", f"rows.{n}.depthwise")
        found.append(_width(f"row {n} inside", row.inner, options.percent, inside))
        found.append(_width(f"row {n}", row.outputs, options.percent, (f"rows.{n}.project",)))
    return (*found, _width("head", HEAD, options.percent, ("head",)))


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice."""
    side = int(choice["side"])
    rows = [
        [choice[f"row {n} inside"], row.stride, choice[f"row {n}"], row.add]
        for n, row in enumerate(ROWS)
    ]
    found = derived(
        registry.find("micronet-vww-4"),
        name,
        f"Person or none in grey {side}x{side} pixels, found by a search",
        stem=choice["stem"],
        rows=rows,
        head=choice["head"],
    )
    return dataclasses.replace(found, input_shape=(1, 1, side, side))


def _width(name: str, base: int, percent: Sequence[int], layers: tuple[str, ...]) -> Decision:
    values = sorted({max(2, round(base * share / 200) * 2) for share in percent})
    return Decision(name=name, values=tuple(values), kind="width", layers=layers)
