"""Functions and reductions of real numbers; repetitions of any."""

import torch
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Kernel, same_quantization
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _tile(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: x.repeat(op.attributes["times"])


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
INTEGER: dict[str, IntegerMaker] = {"tile": _tile}
