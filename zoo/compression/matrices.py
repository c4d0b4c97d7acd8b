"""The matrices of a network's layers: their values, their inputs, and how much outputs matter."""

import fnmatch
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.structured.network import matrix_shape, takes_forms
from zoo.quantization.gradients import drawn_gradient, squared_gradients
from zoo.quantization.hessian import Hessian

_LEAST = 32  # inputs of a layer, or what it has seen says nothing
_PLACES = 1 << 14  # of a batch whose pixels a convolution is seen at; more are much alike


@dataclass(frozen=True)
class Matrix:
    """A layer's matrix.

    Attributes:
        weight: W (m, n); a convolution's columns are (in, rows, columns of the kernel).
        hessian: 2 E[x x^T] (n, n) of its inputs; None if they were not seen.
        squares: E of the sum over its places of g_o^2 (m,), g the gradient of a sample's
            log-likelihood, or of a projection of the outputs; None if not asked for.

    """

    weight: Tensor
    hessian: Tensor | None = None
    squares: Tensor | None = None

    @property
    def size(self) -> int:
        """The numbers of W."""
        return self.weight.numel()


def layers_of(network: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Return the layers that take forms and whose names match one of the patterns, by name.

    Raises:
        MismatchError: a pattern matches none; those that there are are named.

    """
    every = {name: layer for name, layer in network.named_modules() if takes_forms(layer)}
    if not every:
        raise MismatchError(
            f"{type(network).__name__} has no linear layer, and no convolution without groups: "
            "there is no matrix to compress"
        )
    for pattern in patterns:
        if not fnmatch.filter(every, pattern):
            some = ", ".join(list(every)[:6]) + (", ..." if len(every) > 6 else "")
            raise MismatchError(f"no layer is called {pattern!r}; there are {some}")
    return {
        name: layer
        for name, layer in every.items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def matrices(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Sequence[Tensor] = (),
    *,
    gradients: bool = False,
    likelihood: bool = True,
    seed: int = 0,
) -> dict[str, Matrix]:
    """Return the matrix of each layer, by name.

    Args:
        network: in eval mode.
        layers: layers of it, by name.
        batches: inputs to see; none leaves Hessians and squares out.
        gradients: whether to find `squares` too.
        likelihood: whether the outputs are logits (N, labels), whose log-likelihood counts, as
            opposed to numbers whose squared error does.
        seed: of what is drawn for the gradients.

    Raises:
        MismatchError: a layer's weight is shared or not used by calling the layer, or a batch
            overflows.

    """
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    found = {name: weight.detach().reshape(matrix_shape(layers[name]))
             for name, weight in weights.items()}  # fmt: skip
    if not batches:
        return {name: Matrix(weight) for name, weight in found.items()}
    hessians = {name: Hessian(weight.shape[1]) for name, weight in found.items()}
    with _seeing(layers, hessians), torch.no_grad():
        for batch in batches:
            network(batch)
    for name, hessian in hessians.items():
        if not hessian.tokens:
            raise MismatchError(
                f"layer {name!r} is not called by the network, which uses its weight in another "
                "way: leave it out with --layers"
            )
        if hessian.tokens < _LEAST:
            raise MismatchError(
                f"layer {name!r} saw {hessian.tokens} inputs; expected {_LEAST} or more: give more "
                "--data"
            )
    squares: dict[str, Tensor] = {}
    if gradients:
        generator = torch.Generator().manual_seed(seed)
        runs = (partial(_backward, network, batch, likelihood, generator) for batch in batches)
        squares = squared_gradients(network, weights, runs)
        samples = sum(len(batch) for batch in batches)
        squares = {name: total / samples for name, total in squares.items()}
    return {
        name: Matrix(weight, hessians[name].finish(), squares.get(name))
        for name, weight in found.items()
    }


def _backward(
    network: nn.Module, batch: Tensor, likelihood: bool, generator: torch.Generator
) -> None:
    """Run the network; send back the gradient of a drawn label, or random signs."""
    outputs = list(tensors(network(batch)))
    if likelihood:
        outputs[0].backward(drawn_gradient(outputs[0], generator))
        return
    signs = [torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1 for y in outputs]
    torch.autograd.backward(outputs, signs)


def tensors(outputs: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors of what a network returns."""
    if isinstance(outputs, Tensor):
        if outputs.is_floating_point():
            yield outputs
        return
    parts = outputs.values() if isinstance(outputs, Mapping) else outputs
    for part in parts:
        yield from tensors(part)


@contextmanager
def _seeing(layers: Mapping[str, nn.Module], hessians: Mapping[str, Hessian]) -> Iterator[None]:
    """Add the inputs of layers to their Hessians."""

    def hook(name: str) -> Callable[..., None]:
        def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            hessians[name].update(_rows(layer, inputs[0].detach()))

        return see

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Return a layer's inputs (tokens, n), a convolution's laid out as its matrix sees them."""
    if not isinstance(layer, nn.Conv2d):
        return x
    places = x[0, 0].numel() // math.prod(layer.stride)
    some = x[:: max(1, len(x) * places // _PLACES)]
    padded = F.pad(some, layer._reversed_padding_repeated_twice)
    columns = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.transpose(1, 2)
