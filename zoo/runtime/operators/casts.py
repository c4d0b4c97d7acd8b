"""From real numbers to integers, between integers of different meanings, and back."""

import numpy as np
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import TYPES, Kernel, limits, quantization_of, reach
from zoo.runtime.integer_tables import output_rescale
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _quantize(graph: Graph, op: Op) -> Kernel:
    output = quantization_of(graph, op.outputs[0])
    low, high = limits(graph, op)
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]
    if graph.tensors[op.inputs[0]].dtype == "float32":
        scale = np.float32(output.scale).item()

        def from_real(x: Tensor) -> Tensor:
            ratio = x / scale
            steps = (ratio.sign() * (ratio.abs() + 0.5).floor()).clamp(low, high)
            return (steps + output.zero_point).to(dtype)

        return from_real
    source = quantization_of(graph, op.inputs[0])
    rescale = output_rescale(graph, op, source.scale / output.scale, reach(graph, op.inputs[0]))
    return lambda x: rescale(x.double() - source.zero_point)


def _dequantize(graph: Graph, op: Op) -> Kernel:
    meaning = quantization_of(graph, op.inputs[0])
    return lambda x: (x.float() - meaning.zero_point) * meaning.scale


FLOAT: dict[str, FloatKernel] = {}
INTEGER: dict[str, IntegerMaker] = {"quantize": _quantize, "dequantize": _dequantize}
