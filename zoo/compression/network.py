"""What methods that keep a network in float share: checks, inputs, and facts for a card."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError
from zoo.graph.trace import trace
from zoo.models.approximate.swap import exact
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.recipe import Recipe
from zoo.tasks import calibration

T = TypeVar("T", bound=RepairOptions)


def checked(source: Checkpoint) -> None:
    """Raise a MismatchError if a checkpoint is compressed already."""
    in_floats(source)
    name = f"{source.recipe.name}.{source.tag}"
    if source.recipe.structure:
        raise MismatchError(
            f"{name} has a structure of its own already (forms, fewer filters, other operators); "
            "give the model it was made from"
        )


def in_floats(source: Checkpoint) -> None:
    """Raise a MismatchError if a checkpoint computes in integers."""
    if source.quantization is not None:
        raise MismatchError(
            f"{source.recipe.name}.{source.tag} computes in integers; give its float weights, and "
            "make integers of the result"
        )


def calibrated(recipe: Recipe, data: Path | None) -> list[Tensor]:
    """Return batches of inputs of the recipe's task; none without data."""
    return [] if data is None else calibration(recipe, data)


def are_logits(recipe: Recipe, network: nn.Module, batches: Sequence[Tensor]) -> bool:
    """Whether a network's outputs are logits of labels, (N, labels)."""
    if "labels" not in recipe.preprocessing or not batches:
        return False
    with torch.no_grad():
        outputs = network(batches[0][:1])
    return isinstance(outputs, Tensor) and outputs.ndim == 2


def repair_as(options: T, recipe: Recipe, *, likelihood: bool) -> T:
    """Return the options of a repair, its loss chosen by whether the outputs are logits.

    Raises:
        MismatchError: the loss is that of labels, and the network has none.

    """
    if options.repair_loss == "auto":
        return replace(options, repair_loss="kl" if likelihood else "mse")
    if options.repair and options.repair_loss == "kl" and not likelihood:
        raise MismatchError(
            f"{recipe.name} tells no labels apart, so there is no kl; take --repair-loss mse"
        )
    return options


def facts_of(
    recipe: Recipe,
    network: nn.Module,
    small: nn.Module,
    data: Path | None,
    batches: Sequence[Tensor],
) -> dict[str, Any]:
    """Return numbers stored and multiply-accumulates, before and after, and what was seen."""
    facts: dict[str, Any] = {
        "numbers": sum(p.numel() for p in small.parameters()),
        "base_numbers": sum(p.numel() for p in network.parameters()),
        "macs": trace(exact(small), recipe.input_shape).macs,
        "base_macs": trace(exact(network), recipe.input_shape).macs,
    }
    if data is not None:
        inputs = sum(len(batch) for batch in batches)
        facts["calibration"] = {"source": data.name, "inputs": inputs}
    return facts
