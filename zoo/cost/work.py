"""How much work each kind of operator is, in the unit of its rate: this room's column."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from zoo.cost.target import Steps
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import Column
from zoo.graph.operators.mathematics import FUNCTIONS, REDUCTIONS


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one kind of operator costs.

    Attributes:
        amount: MACs, window elements or elements of an op, rounded up to a target's steps.
        moves: without a rate of its own it costs the memory traffic alone.
        free: it costs nothing: nothing moves.

    """

    amount: Callable[[Graph, Op, Steps], float]
    moves: bool = False
    free: bool = False


def touched(graph: Graph, op: Op, dtype: str) -> int:
    """Return the bytes of an op's inputs, outputs and parameters, each once."""
    names = dict.fromkeys((*op.inputs, *op.outputs))
    return sum(graph.tensors[name].bytes(dtype) for name in names if name)


def _outputs(graph: Graph, op: Op, steps: Steps) -> float:
    return graph.tensors[op.outputs[0]].elements


def _inputs(graph: Graph, op: Op, steps: Steps) -> float:
    return graph.tensors[op.inputs[0]].elements


def _products(graph: Graph, op: Op, steps: Steps) -> float:
    return op.macs


def _windows(graph: Graph, op: Op, steps: Steps) -> float:
    window: int = math.prod(op.attributes["kernel"])
    return graph.tensors[op.outputs[0]].elements * window


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _kernels(graph: Graph, op: Op, steps: Steps) -> float:
    _, inputs, kernel = graph.kernel(op)
    per_output = min(_round_up(kernel, k) * _round_up(inputs, c) for k, c in steps.conv)
    return _channels(graph, op, steps) * per_output


def _depthwise(graph: Graph, op: Op, steps: Steps) -> float:
    _, _, kernel = graph.kernel(op)
    return _channels(graph, op, steps) * _round_up(kernel, steps.depthwise_kernel)


def _channels(graph: Graph, op: Op, steps: Steps) -> float:
    """Return the output's elements, its channels rounded up."""
    outputs, _, _ = graph.kernel(op)
    elements = graph.tensors[op.outputs[0]].elements
    return elements / outputs * _round_up(outputs, steps.output_channels)


_ELEMENTS, _MOVED = Work(amount=_outputs), Work(amount=_outputs, moves=True)
_ACTIVATIONS = ("relu", "relu6", "clamp", "leaky_relu", "hard_swish", "gelu", "elu", "sigmoid")

WORK: Column[Work] = Column(
    "cost",
    "zoo/cost/work.py",
    {
        "conv2d": Work(amount=_kernels),
        "depthwise_conv2d": Work(amount=_depthwise),
        "fully_connected": Work(amount=_kernels),
        "avg_pool2d": Work(amount=_windows),
        "max_pool2d": Work(amount=_windows),
        "transpose_conv2d": Work(amount=_products),
        "batch_matmul": Work(amount=_products),
        "lstm": Work(amount=_products),
        "svdf": Work(amount=_products),
        "mean": Work(amount=_inputs),
        "reshape": Work(amount=_outputs, moves=True, free=True),
    },
    dict.fromkeys(("transpose", "depth_to_space", "concat", "pad", "pack", "unpack"), _MOVED),
    dict.fromkeys(("strided_slice", "split", "tile", "space_to_depth"), _MOVED),
    dict.fromkeys((*FUNCTIONS, "rsqrt", "squared_difference"), _ELEMENTS),
    dict.fromkeys(REDUCTIONS, Work(amount=_inputs)),
    dict.fromkeys(("arg_max", "arg_min"), Work(amount=_inputs)),
    dict.fromkeys(("add", "sub", "mul", "div", "maximum", "minimum"), _ELEMENTS),
    dict.fromkeys((*_ACTIVATIONS, "tanh", "prelu", "softmax"), _ELEMENTS),
    dict.fromkeys(
        ("resize_nearest", "resize_bilinear", "quantize", "dequantize", "cast"), _ELEMENTS
    ),
    absent={"batch_norm": "zoo.graph.fold makes it part of a layer, before anything is counted"},
)
