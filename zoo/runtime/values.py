"""Between real numbers and the integers of a graph's inputs and outputs."""

import torch
from torch import Tensor

from zoo.graph.ir import LIMITS, Graph
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork


def channels_last(x: Tensor) -> Tensor:
    """Return images as `(N, H, W, C)`, anything else as it is."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def real_outputs(graph: Graph, x: Tensor) -> Tensor:
    """Return the real outputs of a graph, float or int8, for real inputs, channels last."""
    if graph.tensors[graph.inputs[0]].quantization is None:
        return FloatNetwork(graph)(x)
    return dequantized(graph, IntegerNetwork(graph)(quantized(graph, x)))


def quantized(graph: Graph, x: Tensor) -> Tensor:
    """Return real inputs as the integers of the graph's input; halves go to the even integer."""
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.quantization is None:
        return x
    integers = torch.round(x / tensor.quantization.scale) + tensor.quantization.zero_point
    return integers.clamp(*LIMITS[tensor.dtype]).to(getattr(torch, tensor.dtype))


def dequantized(graph: Graph, y: Tensor) -> Tensor:
    """Return the graph's output integers as real numbers."""
    meaning = graph.tensors[graph.outputs[0]].quantization
    return y if meaning is None else (y.float() - meaning.zero_point) * meaning.scale
