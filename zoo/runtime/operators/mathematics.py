"""Functions and reductions of real numbers; repetitions of any."""

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime import fixedpoint
from zoo.runtime.integer_base import Kernel, quantization_of, same_quantization
from zoo.runtime.integer_tables import elementwise
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _tile(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: x.repeat(op.attributes["times"])


def _integer_rsqrt(graph: Graph, op: Op) -> Kernel:
    """1 / sqrt(x), of int8 that is never below its zero point; of 0, the largest value."""
    if graph.tensors[op.outputs[0]].dtype != "int8":
        raise MismatchError("runtimes have it in int8 and floats only")
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if source.zero_point != LIMITS["int8"][0]:
        raise MismatchError("its input may be below zero; runtimes refuse that")
    # The runtimes take the root in float32.
    real = 1.0 / float(np.sqrt(np.float32(source.scale)) * np.float32(output.scale))
    low, high = LIMITS["int8"]
    steps = fixedpoint.rsqrt_table(real, high - low, high)
    results = torch.from_numpy((steps + output.zero_point).clip(low, high)).to(torch.int8)
    return lambda x: results[x.to(torch.int64)]


def _sum(graph: Graph, op: Op, x: Tensor) -> Tensor:
    return x.sum(op.attributes["dim"], keepdim=op.attributes["keepdim"])


def _greatest(graph: Graph, op: Op, x: Tensor) -> Tensor:
    return x.amax(op.attributes["dim"], keepdim=op.attributes["keepdim"])


def _least(graph: Graph, op: Op, x: Tensor) -> Tensor:
    return x.amin(op.attributes["dim"], keepdim=op.attributes["keepdim"])


FLOAT: dict[str, FloatKernel] = {
    "neg": lambda graph, op, x: -x,
    "exp": lambda graph, op, x: x.exp(),
    "log": lambda graph, op, x: x.log(),
    "sqrt": lambda graph, op, x: x.sqrt(),
    "rsqrt": lambda graph, op, x: 1 / x.sqrt(),
    "square": lambda graph, op, x: x * x,
    "floor": lambda graph, op, x: x.floor(),
    "squared_difference": lambda graph, op, x, y: torch.square(x - y),
    "sum": _sum,
    "reduce_max": _greatest,
    "reduce_min": _least,
    "tile": lambda graph, op, x: x.repeat(op.attributes["times"]),
}
INTEGER: dict[str, IntegerMaker] = {"tile": _tile, "rsqrt": elementwise(_integer_rsqrt)}
