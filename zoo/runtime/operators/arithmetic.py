"""Sums, products and extremes of two operands."""

import numpy as np
import torch
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Kernel, operands, quantization_of, reach, same_quantization
from zoo.runtime.integer_tables import elementwise, output_rescale
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker
from zoo.runtime.rescale import Rescale

_ADD_SHIFT = {
    "int8": 20,
    "uint8": 20,
    "int16": 15,
}  # bits that `add` gains before it rescales its inputs


def _add(graph: Graph, op: Op) -> Kernel:
    first, second = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    dtype = graph.tensors[op.outputs[0]].dtype
    gain = _ADD_SHIFT[dtype]
    if op.kind == "add" or dtype != "int8":
        twice = 2 * max(first.scale, second.scale)
        ratios = [first.scale / twice, second.scale / twice]
        final = twice / (2**gain * output.scale)
    else:  # TFLite Micro's int8 `sub` prepares in float32
        top = np.float32(2) * np.float32(max(first.scale, second.scale))
        ratios = [float(np.float32(q.scale) / top) for q in (first, second)]
        final = float(top / (np.float32(2**gain) * np.float32(output.scale)))
    most = max(255, *(reach(graph, name) for name in op.inputs))
    steps = np.arange(-most, most + 1, dtype=np.int64) << gain
    scaled = [Rescale(ratio, most << gain, -(2**31), 2**31 - 1, domain=steps) for ratio in ratios]
    sign = 1 if op.kind == "add" else -1
    bound = sum(int(np.abs(rescale.exact(steps[:, None])).max()) for rescale in scaled)
    last = output_rescale(graph, op, final, bound)

    def run(*inputs: Tensor) -> Tensor:
        x, y = (rescale(operand * 2**gain) for rescale, operand in zip(scaled, inputs, strict=True))
        return last(torch.add(x, y, alpha=sign))

    return run


def _mul(graph: Graph, op: Op) -> Kernel:
    first, second = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    bound = reach(graph, op.inputs[0]) * reach(graph, op.inputs[1])
    rescale = output_rescale(graph, op, first.scale * second.scale / output.scale, bound)
    return lambda x, y: rescale(x * y)


def _extreme(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    choose = torch.maximum if op.kind == "maximum" else torch.minimum
    return lambda *inputs: choose(*operands(graph, op, inputs))


FLOAT: dict[str, FloatKernel] = {
    "add": lambda graph, op, x, y: x + y,
    "sub": lambda graph, op, x, y: x - y,
    "mul": lambda graph, op, x, y: x * y,
    "maximum": lambda graph, op, x, y: torch.maximum(x, y),
    "minimum": lambda graph, op, x, y: torch.minimum(x, y),
}
INTEGER: dict[str, IntegerMaker] = {
    "add": elementwise(_add),
    "sub": elementwise(_add),
    "mul": elementwise(_mul),
    "maximum": _extreme,
    "minimum": _extreme,
}
