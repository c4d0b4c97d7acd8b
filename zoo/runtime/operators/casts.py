"""From real numbers to integers, between integers of different meanings, and back."""

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime import fixedpoint
from zoo.runtime.integer_base import TYPES, Kernel, limits, quantization_of, reach
from zoo.runtime.integer_tables import output_rescale
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _quantize(graph: Graph, op: Op) -> Kernel:
    kinds = [graph.tensors[name].dtype for name in (op.inputs[0], op.outputs[0])]
    if kinds[1] == "int32":
        return _widened(graph, op)
    output, dtype = quantization_of(graph, op.outputs[0]), TYPES[kinds[1]]
    low, high = limits(graph, op)
    if kinds[0] == "float32":
        scale = np.float32(output.scale).item()

        def from_real(x: Tensor) -> Tensor:
            ratio = x / scale
            steps = (ratio.sign() * (ratio.abs() + 0.5).floor()).clamp(low, high)
            return (steps + output.zero_point).to(dtype)

        return from_real
    source = quantization_of(graph, op.inputs[0])
    rescale = output_rescale(graph, op, source.scale / output.scale, reach(graph, op.inputs[0]))
    return lambda x: rescale(x.double() - source.zero_point)


def _widened(graph: Graph, op: Op) -> Kernel:
    """Return a kernel from int16, or int8, to int32, which nothing but a program reads."""
    source, output = quantization_of(graph, op.inputs[0]), graph.tensors[op.outputs[0]].quantization
    if output is None:
        raise MismatchError("its int32 output has no scale")
    factor = np.float64(source.scale) / np.float64(output.scale)
    multiplier, shift = fixedpoint.quantize_multiplier(float(factor))
    if not np.isfinite(factor) or shift + reach(graph, op.inputs[0]).bit_length() > 31:
        raise MismatchError("its results can exceed 32 bits; the scales do not fit each other")

    def run(x: Tensor) -> Tensor:
        steps = x.to(torch.int64) - source.zero_point
        pair = torch.tensor(multiplier), torch.tensor(shift)
        return (fixedpoint.multiply(steps, *pair) + output.zero_point).to(torch.int32)

    return run


def _dequantize(graph: Graph, op: Op) -> Kernel:
    tensor = graph.tensors[op.inputs[0]]
    if (meaning := tensor.quantization) is None:
        raise MismatchError("its input has no scale")
    shape = [1] * len(tensor.shape)
    if meaning.axis is not None:  # weights, which some files store as integers for floats
        shape[meaning.axis] = -1
    zeros = torch.tensor(meaning.zero_points, dtype=torch.float32).reshape(shape)
    scales = torch.tensor(meaning.scales, dtype=torch.float32).reshape(shape)
    if len(meaning.scales) == 1:
        return lambda x: (x.float() - meaning.zero_point) * meaning.scale
    return lambda x: (x.float() - zeros) * scales


def _cast(graph: Graph, op: Op, x: Tensor) -> Tensor:
    """Return the numbers as another type: cut, as C does it; scales mean nothing here."""
    dtype = graph.tensors[op.outputs[0]].dtype
    if dtype not in TYPES:
        raise MismatchError(f"{op.label} makes {dtype}, which nothing here computes with")
    return x.to(TYPES[dtype])


FLOAT: dict[str, FloatKernel] = {
    "dequantize": lambda graph, op, x: x.float(),  # of float16, as some files store weights
    "cast": _cast,
}
INTEGER: dict[str, IntegerMaker] = {
    "quantize": _quantize,
    "dequantize": _dequantize,
    "cast": lambda graph, op: lambda x: _cast(graph, op, x),
}
