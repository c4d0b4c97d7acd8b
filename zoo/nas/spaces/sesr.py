"""SESR: how many layers, how wide, and which activation."""

from dataclasses import dataclass

from zoo import registry
from zoo.errors import MismatchError
from zoo.nas.spaces.contract import Choice, Decision, derived
from zoo.registry.recipe import Recipe

SUMMARY = "SESR, super resolution: depth, width, and the activation"
MODEL = "zoo.models.sesr:SESR"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the networks have in common, and what there is to choose from.

    Attributes:
        base: the recipe whose scale and training they have.
        channels: widths of the features.
        blocks: numbers of 3x3 layers.
        activations: "prelu" and "relu", or one of them.

    """

    base: str = "sesr-m5-x2"
    channels: tuple[int, ...] = (4, 8, 12, 16, 20, 24, 28, 32)
    blocks: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11)
    activations: tuple[str, ...] = ("prelu", "relu")


def decisions(options: Options) -> tuple[Decision, ...]:
    """Return width, depth and activation.

    Raises:
        MismatchError: the base is no SESR.

    """
    if registry.find(options.base).model != MODEL:
        known = ", ".join(n for n in registry.names() if registry.find(n).model == MODEL)
        raise MismatchError(f"base is {options.base}, not a SESR; there are: {known}")
    most = max(options.blocks, default=0)
    layers = tuple(f"{part}.{n}" for n in range(most) for part in ("body", "act"))
    return (
        Decision(
            name="channels",
            values=options.channels,
            kind="width",
            layers=("first", *(f"body.{n}" for n in range(most))),
        ),
        Decision(name="blocks", values=options.blocks, kind="depth", layers=layers),
        Decision(name="activation", values=options.activations, kind="operator"),
    )


def recipe(options: Options, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice."""
    base = registry.find(options.base)
    text = f"{choice['blocks']} layers of {choice['channels']} channels, {choice['activation']}"
    return derived(base, name, f"Super resolution x{base.args['scale']}, SESR: {text}", **choice)
