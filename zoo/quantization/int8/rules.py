"""How each kind of operator is quantized, beyond what all kinds share: this room's column."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.graph.ir import LIMITS, Graph, Op, Quantization
from zoo.graph.operators.contract import Column
from zoo.graph.operators.mathematics import FUNCTIONS, REDUCTIONS
from zoo.quantization.int8.fake import double_rounding

_FINER = 8  # steps of an output to one of the sums it is made of, at most
_TIE = 1e-3  # steps: moves an exact half, and nothing else that matters

Meanings = Mapping[str, Quantization]
# (op, first operand, result, scales of its parameter, meanings) -> steps to add to the result
Nudge = Callable[[Op, Tensor, Tensor, Tensor, Meanings], Tensor | None]


def _no_nudge(op: Op, x: Tensor, y: Tensor, scales: Tensor, meanings: Meanings) -> None:
    return None


def _rounds(op: Op) -> bool:
    return False


def _moves(op: Op) -> bool:
    return True


def _any(graph: Graph, op: Op) -> None:
    return None


def _as_they_are(
    attributes: Mapping[str, Any], meaning: Quantization, dtype: str
) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is particular to one kind.

    Attributes:
        axis: the dimension of its weights that has a scale per index; None if one scale serves all.
        fixed: the quantization of its output whatever the range, by type.
        exact: whether its int16 scales are short, so that both ways in which runtimes compute its
            factor agree, see `zoo.quantization.int8.scales`.
        sign: sign of a scalar second operand that can be made a whole number of steps; else 0.
        finest: how many steps of its output a step of its input is at most, if that is limited.
        on_grid: whether an op returns values on its inputs' grid, or the padding of a max pool.
        nudge: how far, in steps, the device's way of rounding moves results: for training.
        integer: the attributes that are numbers on the output's grid, as its integers.

    """

    axis: int | None = None
    fixed: Mapping[str, Quantization] = field(default_factory=dict)
    exact: bool = False
    sign: int = 0
    finest: Callable[[Graph, Op], float | None] = _any
    on_grid: Callable[[Op], bool] = _rounds
    nudge: Nudge = _no_nudge
    integer: Callable[[Mapping[str, Any], Quantization, str], dict[str, Any]] = _as_they_are


def _ratio(op: Op, meanings: Meanings) -> float:
    return meanings[op.inputs[0]].scale / meanings[op.outputs[0]].scale


def _layer_nudge(op: Op, x: Tensor, y: Tensor, scales: Tensor, meanings: Meanings) -> Tensor:
    return y.sign().mul_(double_rounding(scales * _ratio(op, meanings)))


def _mul_nudge(op: Op, x: Tensor, y: Tensor, scales: Tensor, meanings: Meanings) -> Tensor:
    other = meanings[op.inputs[1]].scale if op.inputs[1] in meanings else 1.0
    return y.sign().mul_(double_rounding(scales * _ratio(op, meanings) * other))


def _prelu_nudge(op: Op, x: Tensor, y: Tensor, scales: Tensor, meanings: Meanings) -> Tensor:
    ratio = _ratio(op, meanings)  # two factors, by the sign of the input
    ahead, below = double_rounding(torch.cat((scales.new_tensor([ratio]), scales * ratio)))
    return (x < 0).float().mul_(below - ahead).add_(ahead).mul_(y.sign())


def _average_nudge(op: Op, x: Tensor, y: Tensor, scales: Tensor, meanings: Meanings) -> Tensor:
    output = meanings[op.outputs[0]]  # halves away from the integer 0, which is not the real 0
    return (y / output.scale + output.zero_point).sign_().mul_(_TIE)


def _averaged(graph: Graph, op: Op) -> int:
    """A mean of n integers is a multiple of 1/n."""
    return math.prod(graph.tensors[op.inputs[0]].shape[dim] for dim in op.attributes["dim"])


def _summed(graph: Graph, op: Op) -> float | None:
    """Sums are multiples of a step of the input times one of the weights.

    Steps of the output far below that hold nothing, and what rescales the sums to them may exceed
    32 bits: as where a layer is the mean of channels that are normed already.
    """
    weight = graph.values.get(op.inputs[1])
    largest = 0.0 if weight is None else float(np.abs(weight).max(initial=0))
    return _FINER * 127 / largest if largest else None


def _pads_on_grid(op: Op) -> bool:
    return op.attributes["value"] in (0, -math.inf)


def _pad_integer(
    attributes: Mapping[str, Any], meaning: Quantization, dtype: str
) -> dict[str, Any]:
    value = attributes["value"]
    low, high = (limit - meaning.zero_point for limit in LIMITS[dtype])
    steps = low if value == -math.inf else round(value / meaning.scale)
    return {"value": int(np.clip(steps, low, high))}


_PLAIN, _MOVED = Rule(), Rule(on_grid=_moves)
_PROBABILITIES = {
    "int8": Quantization(scales=(1 / 256,), zero_points=(-128,)),
    "int16": Quantization(scales=(1 / 32768,), zero_points=(0,)),
}
_TANH = {
    "int8": Quantization(scales=(1 / 128,), zero_points=(0,)),
    "int16": Quantization(scales=(1 / 32768,), zero_points=(0,)),
}

RULES: Column[Rule] = Column(
    "rule to quantize it",
    "zoo/quantization/int8/rules.py",
    {
        "conv2d": Rule(axis=0, finest=_summed, nudge=_layer_nudge),
        "depthwise_conv2d": Rule(axis=3, finest=_summed, nudge=_layer_nudge),
        "transpose_conv2d": Rule(axis=0, nudge=_layer_nudge),
        "batch_matmul": _PLAIN,
        "rsqrt": _PLAIN,
        "fully_connected": Rule(exact=True, finest=_summed, nudge=_layer_nudge),
        "avg_pool2d": Rule(nudge=_average_nudge),
        "max_pool2d": _MOVED,
        "mean": Rule(finest=_averaged),
        "add": Rule(sign=1),
        "sub": Rule(sign=-1),
        "mul": Rule(exact=True, nudge=_mul_nudge),
        "maximum": _PLAIN,
        "minimum": _PLAIN,
        "relu": _PLAIN,
        "relu6": _PLAIN,
        "prelu": Rule(nudge=_prelu_nudge),
        "softmax": Rule(fixed=_PROBABILITIES),
        "sigmoid": Rule(fixed=_PROBABILITIES),
        "tanh": Rule(fixed=_TANH),
        "gelu": _PLAIN,
        "elu": _PLAIN,
        "leaky_relu": _PLAIN,
        "hard_swish": _PLAIN,
        "reshape": _MOVED,
        "transpose": _MOVED,
        "depth_to_space": _MOVED,
        "concat": _MOVED,
        "strided_slice": _MOVED,
        "pad": Rule(on_grid=_pads_on_grid, integer=_pad_integer),
        "resize_nearest": _PLAIN,
        "resize_bilinear": _PLAIN,
    },
    absent=dict.fromkeys(
        (
            *("quantize", "dequantize", "cast", "lstm", "svdf"),
            *("pack", "unpack", "arg_max", "arg_min", "split"),
            *("tile", "space_to_depth"),
            *(*FUNCTIONS, *REDUCTIONS, "squared_difference"),
        ),
        "only files hold it, quantized already",
    ),
)
