"""Real numbers into and out of a channels-last graph, whatever it computes with."""

import torch
from torch import Tensor

from zoo.graph.inputs import Inputs, calls, tensors
from zoo.graph.ir import LIMITS, Graph
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork


def channels_last(x: Tensor) -> Tensor:
    """Return images as `(N, H, W, C)`, anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def channels_first(x: Tensor) -> Tensor:
    """Return `(N, H, W, C)` as images, anything else as it is."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def quantized(graph: Graph, x: Tensor, place: int = 0) -> Tensor:
    """Return reals as the integers of one of the graph's inputs; halves go to the even integer."""
    tensor = graph.tensors[graph.inputs[place]]
    if tensor.quantization is None:
        return x
    integers = torch.round(x / tensor.quantization.scale) + tensor.quantization.zero_point
    return integers.clamp(*LIMITS[tensor.dtype]).to(getattr(torch, tensor.dtype))


def dequantized(graph: Graph, y: Tensor, place: int = 0) -> Tensor:
    """Return the integers of one of the graph's outputs as real numbers."""
    meaning = graph.tensors[graph.outputs[place]].quantization
    return y if meaning is None else (y.float() - meaning.zero_point) * meaning.scale


def computed(graph: Graph, x: Inputs) -> list[Tensor]:
    """Return the real outputs of a channels-last graph, float or integer, for real inputs.

    A graph that mixes samples is given one at a time.
    """
    real = graph.tensors[graph.inputs[0]].quantization is None
    network = FloatNetwork(graph) if real else IntegerNetwork(graph)
    given = [quantized(graph, channels_last(t), place) for place, t in enumerate(tensors(x))]
    parts = [tuple(given)] if network.batched else calls(tuple(given), graph.firsts)
    made = [y if isinstance(y, tuple) else (y,) for y in (network(*tensors(p)) for p in parts)]
    several = [torch.cat(column) for column in zip(*made, strict=True)]
    return [dequantized(graph, y, place) for place, y in enumerate(several)]
