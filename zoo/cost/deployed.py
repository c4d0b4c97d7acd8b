"""The int8 graph of a module, as `zoo export` writes it, before there is anything to measure."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from zoo.graph.inputs import Shapes
from zoo.graph.ir import Graph
from zoo.graph.lower import lowered
from zoo.graph.trace import exported, state_of
from zoo.quantization.int8.post_training import quantize_graph

DRAWN = 1 << 15  # weights of a layer that are enough to know how long all are in code
_PARTED = frozenset(("conv2d", "fully_connected", "transpose_conv2d"))  # weights end with inputs


def integer(
    module: nn.Module, shape: Shapes, traced: Graph | None = None, *, parts: bool = False
) -> Graph:
    """Return a module quantized with nominal ranges of its activations.

    As after training, all ranges differ, and no layer has one slope for all channels: compilers
    simplify equal ones, up to half of a PReLU's cost. On the meta device, weights are random.

    Args:
        module: in eval mode.
        shape: of its input, or several.
        traced: what `zoo.graph.trace.exported` makes of these, if that was done already.
        parts: random weights of a large layer are drawn for some of its inputs alone. Enough to
            know how long they are in code; the graph cannot be run.

    Raises:
        MismatchError: the module cannot be traced, or an operator has no integer form.

    """
    graph = traced or exported(module, shape)
    if not on_meta(module):
        plain = lowered(graph, state_of(module))
    elif parts and not graph.derived:  # which may divide by what is not drawn
        plain = _partly_drawn(lowered(graph, _state(module, DRAWN)))
    else:
        plain = lowered(graph, state_of(materialised(module)))
    plain = _as_if_trained(plain)
    names = [tensor.name for tensor in plain.tensors.values() if not tensor.is_parameter]
    return quantize_graph(plain, {name: (-1 - i / 100, 1 + i / 50) for i, name in enumerate(names)})


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes with the same random weights every time.

    Encoded, their values matter, and an estimate must be the same twice.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def on_meta(module: nn.Module) -> bool:
    """Return whether a module has shapes instead of values."""
    return any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


def materialised(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the CPU, with small random weights."""
    state = _state(module)
    module = copy.deepcopy(module).to_empty(device="cpu").eval()
    tensors = (*module.named_parameters(), *module.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors:
            tensor.copy_(torch.from_numpy(state[name]))
    return module


def _state(module: nn.Module, most: int | None = None) -> dict[str, NDArray[np.float32]]:
    """Return small random values for all parameters and buffers; zeros beyond `most` elements.

    Zeros of that size take neither time nor memory until they are read.
    """
    generator = np.random.default_rng(0)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    tensors = parameters | dict(module.named_buffers(remove_duplicate=False))
    return {
        name: _small(tuple(tensor.shape), generator)
        if tensor.is_floating_point() and (most is None or tensor.numel() <= most)
        else np.zeros(tuple(tensor.shape), np.float32)
        for name, tensor in tensors.items()
    }


def _small(shape: tuple[int, ...], generator: np.random.Generator) -> NDArray[np.float32]:
    """Return values so small that activations neither overflow nor become slow denormals.

    Vectors are positive: some of them are variances.
    """
    values = generator.random(shape, np.float32) * np.float32(0.1)
    return values - np.float32(0.05) if len(shape) > 1 else values


def _partly_drawn(graph: Graph) -> Graph:
    """Return a graph whose large parameters, all zeros, have random values; layers have a part."""
    values, generator = dict(graph.values), np.random.default_rng(1)
    parted = {op.inputs[1] for op in graph.ops if op.kind in _PARTED}
    for name in values:
        shape = graph.tensors[name].shape
        if (size := graph.tensors[name].elements) > DRAWN:
            if name in parted:
                most = max(32, DRAWN * shape[-1] // size // 32 * 32)  # of its inputs
                shape = (*shape[:-1], min(shape[-1], most))
            values[name] = _small(shape, generator)
    return dataclasses.replace(graph, values=values)


def _as_if_trained(graph: Graph) -> Graph:
    """Return a graph in which slopes that are alike, as in a fresh network, differ."""
    values = dict(graph.values)
    for op in graph.ops:
        slopes = values[op.inputs[1]] if op.kind == "prelu" else np.zeros(0)
        if slopes.size > 1 and np.ptp(slopes) == 0:
            factors = np.linspace(0.5, 1, slopes.size, dtype=slopes.dtype)
            values[op.inputs[1]] = slopes * factors.reshape(slopes.shape)
    return dataclasses.replace(graph, values=values)
