"""`Specimen`: the network that an analysis examines, with labelled inputs and a device."""

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.runtime.values import channels_last

if TYPE_CHECKING:
    from zoo.cost.target import Target
    from zoo.quantization.int8.network import QuantizedNetwork
    from zoo.registry.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Specimen:
    """A classifier with labelled inputs.

    Attributes:
        ref: how it was named.
        model: what `zoo.load` returns: real numbers in, logits `(N, labels)` out; in eval mode.
            Networks of int8 compute the device's integers in between.
        inputs: real inputs in the range of the recipe, `(N, ...)`, e.g. `(N, C, H, W)`.
        labels: label numbers `(N,)`.
        recipe: how the network is used.
        target: the device; None if none was named.
        data: what the inputs are, for people.

    """

    ref: str
    model: nn.Module
    inputs: Tensor
    labels: Tensor
    recipe: "Recipe"
    target: "Target | None" = None
    data: str = ""

    def __post_init__(self) -> None:
        if not len(self.labels) or len(self.inputs) != len(self.labels):
            raise MismatchError(
                f"{self.ref} was given {len(self.inputs)} inputs and {len(self.labels)} labels; "
                "expected as many of both, and at least one"
            )

    @property
    def network(self) -> nn.Module:
        """The float network with the same weights: what gradients are taken of."""
        from zoo.models.forms import stored_form

        return stored_form(self.model)[0]

    @property
    def is_integer(self) -> bool:
        """Whether the network computes in integers."""
        return hasattr(self.model, "quantization")

    @functools.cached_property
    def graph(self) -> Graph:
        """The integer graph of one inference, channels last.

        Raises:
            MismatchError: the network computes in floats.

        """
        return self._quantized.graph((1, *self.inputs.shape[1:]))

    @functools.cached_property
    def samples(self) -> Tensor:
        """The inputs as the integers that the device stores, channels last, e.g. `(N, H, W, C)`."""
        return self._quantized.integers(self.graph, channels_last(self.inputs.float()))

    @property
    def _quantized(self) -> "QuantizedNetwork":
        if not self.is_integer:
            raise MismatchError(
                f"{self.ref} computes in floats, and faults flip the device's integers; give int8 "
                f"weights: {self._advice()}"
            )
        model: QuantizedNetwork = self.model  # type: ignore[assignment]
        return model

    def _advice(self) -> str:
        from zoo import registry

        name = self.recipe.name
        tags = registry.shipped_tags(name) if name in registry.names() else []
        whole = [f"{name}.{tag}" for tag in tags if tag.endswith("-int8")]
        return " or ".join(whole) or f"zoo train {name} --help says how they are trained"

    def first(self, count: int) -> "Specimen":
        """Return the specimen with the first inputs alone."""
        part = {"inputs": self.inputs[:count], "labels": self.labels[:count]}
        return Specimen(
            self.ref, self.model, recipe=self.recipe, target=self.target, data=self.data, **part
        )


@torch.inference_mode()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, batch: int = 128) -> float:
    """Return the share of inputs `(N, ...)` whose largest output is their label's."""
    logits = torch.cat([model(part) for part in inputs.split(batch)])
    return float((logits.argmax(1) == labels).double().mean())
