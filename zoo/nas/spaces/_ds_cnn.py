"""Networks of a convolution and pairs of layers: what MicroNets for sounds are found among."""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo import registry
from zoo.errors import MismatchError
from zoo.nas.spaces.contract import Choice, Decision, Value, derived
from zoo.registry.recipe import Recipe

MODEL = "zoo.models.micronets:DsCnn"


def decisions(
    least: int, most: int, pairs: Sequence[int], fewest: int = 1, last: int = 0
) -> tuple[Decision, ...]:
    """Return a depth, and the widths of the first convolution and of each pair.

    Args:
        least: the least width, and what the next ones are apart.
        most: the greatest width.
        pairs: how many pairs a network may have.
        fewest: of these numbers.
        last: how many of the last pairs stay, as the first one does, where those between are left
            out.

    Raises:
        MismatchError: there are no such widths or numbers.

    """
    if not 0 < least <= most:
        raise MismatchError(f"widths from {least} to {most}; expected e.g. step=4 and widest=84")
    if not pairs or min(pairs) < fewest:
        raise MismatchError(f"pairs is {list(pairs)}; expected {fewest} or more, e.g. pairs=4,5")
    widths = tuple(range(least, most + 1, least))
    count = max(pairs)
    # Masked are the outputs of a layer, and those of the depthwise one that follows.
    stem = Decision(name="stem", values=widths, kind="width", layers=("layers.0", "layers.1"))
    others = (
        Decision(
            name=f"pair {n}",
            values=widths,
            kind="width",
            layers=tuple(f"layers.{i}" for i in (2 * n, 2 * n + 1) if i <= 2 * count),
        )
        for n in range(1, count + 1)
    )
    going = [f"layers.{2 * n - part}" for n in kept(count, count, last) for part in (1, 0)]
    depth = Decision(name="pairs", values=tuple(pairs), kind="depth", layers=tuple(going))
    return (depth, stem, *others)


def kept(count: int, most: int, last: int = 0) -> list[int]:
    """Return the numbers of the pairs that a network of so many has, what goes first at the end."""
    ends = [1, *range(most - last + 1, most + 1)]
    return [*ends, *(n for n in range(1, most + 1) if n not in ends)][:count]


def recipe(base: str, strides: Mapping[int, int], choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice.

    Args:
        base: the recipe whose first convolution, front end and training it has.
        strides: of each pair that the choice has, by its number.
        choice: of `decisions`.
        name: of the recipe.

    """
    width = choice["stem"]
    blocks: list[list[Any]] = [[choice[f"pair {n}"], strides[n]] for n in sorted(strides)]
    text = "-".join(str(outputs) for outputs in (width, *(row[0] for row in blocks)))
    return derived(of(base), name, f"Widths {text}, as {base}", width=width, blocks=blocks)


def located(found: Recipe, decisions: Sequence[Decision], last: int = 0) -> dict[str, Value]:
    """Return the choice that a recipe's network is, its strides apart; what it lacks is narrowest.

    Args:
        found: a recipe.
        decisions: of the space.
        last: how many of the last pairs stay where others are left out.

    Raises:
        MismatchError: its layers are others, or a width or the depth is none of the space's.

    """
    values = {decision.name: decision.values for decision in decisions}
    rows = found.args["blocks"] if found.model == MODEL else []
    numbers = sorted(kept(len(rows), max(map(int, values["pairs"])), last))
    widths = {f"pair {n}": row[0] for n, row in zip(numbers, rows, strict=False)}
    choice = {"pairs": len(rows), "stem": found.args.get("width", 0), **widths}
    if "front end" in values:
        choice["front end"] = found.preprocessing["front_end"]
    for name, value in choice.items():
        if value not in values.get(name, ()):
            raise MismatchError(f"{found.name} is not in this space: its {name!r} is {value!r}")
    return {name: choice.get(name, known[0]) for name, known in values.items()}


def of(base: str) -> Recipe:
    """Return the recipe of that name, if its network is one of these.

    Raises:
        UnknownNameError: there is no such recipe.
        MismatchError: its network is another.

    """
    found = registry.find(base)
    if found.model != MODEL:
        known = ", ".join(n for n in registry.names() if registry.find(n).model == MODEL)
        raise MismatchError(f"base is {base}, of other layers; there are: {known}")
    return found
