"""The int8 graph of a module, as `zoo export` writes it, before there is anything to measure."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from zoo.graph.inputs import Shapes
from zoo.graph.ir import Graph
from zoo.graph.lower import lowered
from zoo.graph.trace import exported, state_of
from zoo.quantization.int8.post_training import quantize_graph


def integer(module: nn.Module, shape: Shapes, traced: Graph | None = None) -> Graph:
    """Return a module quantized with nominal ranges of its activations.

    As after training, all ranges differ, and no layer has one slope for all channels: compilers
    simplify equal ones, up to half of a PReLU's cost. On the meta device, weights are random.

    Args:
        module: in eval mode.
        shape: of its input, or several.
        traced: what `zoo.graph.trace.exported` makes of these, if that was done already.

    Raises:
        MismatchError: the module cannot be traced, or an operator has no integer form.

    """
    if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
        module = materialised(module)
    plain = _as_if_trained(lowered(traced or exported(module, shape), state_of(module)))
    names = [tensor.name for tensor in plain.tensors.values() if not tensor.is_parameter]
    return quantize_graph(plain, {name: (-1 - i / 100, 1 + i / 50) for i, name in enumerate(names)})


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """Return what `make` makes with the same random weights every time.

    Encoded, their values matter, and an estimate must be the same twice.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def materialised(module: nn.Module) -> nn.Module:
    """Return a copy of a module on the CPU, with small random weights."""
    module = copy.deepcopy(module).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                # Small, so that activations neither overflow nor become slow denormals.
                tensor.copy_(torch.rand(tensor.shape, generator=generator).mul(0.1))
            else:
                tensor.zero_()
    return module


def _as_if_trained(graph: Graph) -> Graph:
    """Return a graph in which slopes that are alike, as in a fresh network, differ."""
    values = dict(graph.values)
    for op in graph.ops:
        slopes = values[op.inputs[1]] if op.kind == "prelu" else np.zeros(0)
        if slopes.size > 1 and np.ptp(slopes) == 0:
            factors = np.linspace(0.5, 1, slopes.size, dtype=slopes.dtype)
            values[op.inputs[1]] = slopes * factors.reshape(slopes.shape)
    return dataclasses.replace(graph, values=values)
