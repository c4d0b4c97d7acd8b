"""How a checkpoint opens what it stores as codes: a language model, or factors on a grid."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def language_model(folder: Path) -> "nn.Module":
    """Return the model of a folder that transformers opens."""
    from zoo.quantization.language.opening import load

    return load(folder)


def network_tensors(
    tensors: "Mapping[str, Tensor]", structure: Mapping[str, Any]
) -> "Mapping[str, Tensor]":
    """Return a network's tensors, its factors as floats; see `zoo.quantization.factors`."""
    from zoo.quantization.factors import decoded

    return decoded(tensors, structure["factors"])
