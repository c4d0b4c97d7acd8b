"""Stand-alone activations, and the softmax."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op, Quantization
from zoo.runtime import fixedpoint, lut
from zoo.runtime.integer_base import TYPES, Kernel, extent, quantization_of, reach, rounded
from zoo.runtime.integer_tables import elementwise, output_rescale
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker
from zoo.runtime.rescale import Rescale

Floats = NDArray[np.float32]
_WIDE = 1 / 32768  # scale of an int16 curve


def _float_prelu(graph: Graph, op: Op, x: Tensor, slope: Tensor) -> Tensor:
    if x.ndim == 4 and slope.numel() == x.shape[-1]:  # per channel: one fused kernel
        return F.prelu(x.permute(0, 3, 1, 2), slope.flatten()).permute(0, 2, 3, 1)
    return torch.where(x >= 0, x, x * slope)


def _refuse_int16(graph: Graph, op: Op) -> None:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        raise MismatchError(
            "runtimes do not agree on it in int16; convert the file with maximum and minimum, as "
            "zoo.graph.rewrite.for_int16 does"
        )


def _integer_prelu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, alpha = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    largest = reach(graph, op.inputs[0])
    ahead = output_rescale(graph, op, source.scale / output.scale, largest)
    below = output_rescale(graph, op, source.scale * alpha.scale / output.scale, largest * 255)
    return lambda x, slope: torch.where(x >= 0, ahead(x), below(x * slope))


def _relu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]
    ratio = float(np.float32(source.scale) / np.float32(output.scale))
    low, high = extent(graph, op.outputs[0])
    most, zero = reach(graph, op.inputs[0]), output.zero_point
    return Rescale(ratio, most, max(low, 0), high, zero_point=zero, dtype=dtype)


def _relu6(graph: Graph, op: Op) -> Kernel:
    """Return a kernel that only clamps: like TFLite's, it assumes that the two scales are equal."""
    _refuse_int16(graph, op)
    source = quantization_of(graph, op.inputs[0])
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]
    six = rounded(float(np.float32(6) / np.float32(source.scale)))
    high = min(extent(graph, op.inputs[0])[1], six)
    return lambda x: (x.clamp(0, high) + source.zero_point).to(dtype)


def _softmax(graph: Graph, op: Op) -> Kernel:
    """Return the softmax of int8 or uint8, as such or, from int8, as int16."""
    kinds = [graph.tensors[name].dtype for name in (op.inputs[0], op.outputs[0])]
    if kinds == ["int16", "int16"]:
        return _wide_softmax(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    low, high = LIMITS[kinds[1]]
    bits = (high - low).bit_length()
    same = kinds[0] == kinds[1] or kinds == ["int8", "int16"]
    close = math.isclose(output.scale, 2.0**-bits, rel_tol=1e-3)  # as the runtimes allow
    if not same or not close or output.zero_point != low:
        raise MismatchError(
            f"a softmax from {kinds[0]} to {kinds[1]} of scale {output.scale:g} and zero point "
            f"{output.zero_point}; expected scale 1/{2**bits} and zero point {low}"
        )
    values, small = fixedpoint.softmax_table(source.scale, op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        wide = x.to(torch.int64)
        difference = (wide.amax(-1, keepdim=True) - wide).numpy()
        total = small[difference].sum(-1, keepdims=True)
        magnitude = np.frexp(total.astype(np.float64))[1].astype(np.int64)
        # 12 integer bits; the output has some of the result's 31.
        exponent = 12 - (32 - magnitude) + 31 - bits
        factor = fixedpoint.reciprocal(total, magnitude)
        scaled = fixedpoint.high_multiply(factor, values[difference])
        result = np.clip(fixedpoint.shift_right(scaled, exponent) + low, low, high)
        return torch.from_numpy(result).to(TYPES[kinds[1]])

    return run


def _wide_softmax(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if (output.scale, output.zero_point) != (1 / 32768, 0):
        raise MismatchError("the output of an int16 softmax has scale 1/32768")
    table = lut.Softmax(source.scale * op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        wide = x.to(torch.int64)
        difference = (wide - wide.amax(-1, keepdim=True)).numpy()
        return torch.from_numpy(table(difference).astype(np.int16))

    return run


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):  # far below zero, where the result is 0
        return np.float32(1) / (np.float32(1) + np.exp(-x))


def _tabulated(
    source: Quantization, output: Quantization, exact: Callable[[Floats], Floats], dtype: str
) -> Kernel:
    """Return a curve of 8 bits on integers - zero point: each value computed in float32."""
    low, high = LIMITS[dtype]
    steps = np.arange(low, high + 1, dtype=np.float32) - np.float32(source.zero_point)
    scaled = exact(np.float32(source.scale) * steps) * (np.float32(1) / np.float32(output.scale))
    rounded = np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled) + output.zero_point
    results = torch.from_numpy(rounded.clip(low, high).astype(np.int64)).to(TYPES[dtype])
    return lambda x: results[x.to(torch.int64) + source.zero_point - low]


def _table(graph: Graph, op: Op, exact: Callable[[Floats], Floats]) -> Kernel:
    """Return an int8 or uint8 curve: each value computed in float32, as both runtimes do."""
    _refuse_int16(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    dtype = graph.tensors[op.outputs[0]].dtype
    return _tabulated(source, output, exact, dtype)


def _gelu(graph: Graph, op: Op) -> Kernel:
    half, one = np.float32(0.5), np.float32(1)
    if op.attributes["approximate"] == "tanh":
        factor = np.float32(math.sqrt(2 / math.pi))

        def curve(x: Floats) -> Floats:
            inner = factor * (x + np.float32(0.044715) * x * x * x)
            return np.asarray(half * x * (one + np.tanh(inner)), np.float32)
    else:

        def curve(x: Floats) -> Floats:
            rest = torch.special.erfc(torch.from_numpy(x * np.float32(-math.sqrt(0.5))))
            return half * x * np.asarray(rest, np.float32)

    return _table(graph, op, curve)


def _elu(graph: Graph, op: Op) -> Kernel:
    none, one = np.float32(0), np.float32(1)
    return _table(graph, op, lambda x: np.maximum(x, none) + (np.exp(np.minimum(x, none)) - one))


def _curve(
    narrow: Callable[[lut.Integers], lut.Integers],
    wide: Callable[[lut.Integers, float], lut.Integers],
    exact: Callable[[Floats], Floats],
    output_bits: int,
    low: int,
) -> IntegerMaker:
    """Return the maker of a curve that ends on both sides, in int8 and in int16.

    Args:
        narrow: from Q4.27 to Q0.31.
        wide: from int16 of a scale to int16 of scale 2^-15.
        exact: from reals to reals: uint8, which TFLite Micro does not have, is a table in LiteRT.
        output_bits: fractional bits of the int8 output.
        low: zero point of the int8 output.

    """

    def arithmetic(graph: Graph, op: Op) -> Kernel:
        source, dtype = quantization_of(graph, op.inputs[0]), graph.tensors[op.inputs[0]].dtype
        output, kind = quantization_of(graph, op.outputs[0]), graph.tensors[op.outputs[0]].dtype
        wanted = {"int8": (2.0**-output_bits, low), "int16": (_WIDE, 0)}.get(kind)
        if dtype == kind == "uint8":
            return _tabulated(source, output, exact, kind)
        if dtype != kind or (output.scale, output.zero_point) != wanted:
            raise MismatchError(
                f"its output is {kind} of scale {output.scale:g} and zero point "
                f"{output.zero_point}; expected int8 of scale 1/{2**output_bits} and {low}, or "
                "int16 of scale 1/32768, as its input"
            )
        if kind == "int16":
            return lambda x: torch.from_numpy(wide(x.numpy().astype(np.int64), source.scale))
        multiplier, shift, radius = fixedpoint.q4(source.scale)

        def run(x: Tensor) -> Tensor:
            steps = x.numpy().astype(np.int64)
            near = abs(steps) < radius
            inner = fixedpoint.multiply(np.where(near, steps, 0), multiplier, np.int64(shift))
            result = fixedpoint.shift_right(narrow(inner), 31 - output_bits) + low
            ends = np.where(steps > 0, 127, -128)
            return torch.from_numpy(np.where(near, result.clip(-128, 127), ends))

        return run

    make = elementwise(arithmetic)

    def stored(graph: Graph, op: Op) -> Kernel:
        kernel, dtype = make(graph, op), TYPES[graph.tensors[op.outputs[0]].dtype]
        return lambda x: kernel(x).to(dtype)

    return stored


def _hard_swish(graph: Graph, op: Op) -> Kernel:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        raise MismatchError("runtimes have it in int8 and uint8 only")
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    curve = fixedpoint.HardSwish(source.scale, output.scale)
    if not curve.fits:
        raise MismatchError("its scales do not fit each other")
    low, high = LIMITS[graph.tensors[op.outputs[0]].dtype]
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]

    def run(x: Tensor) -> Tensor:
        steps = curve(x.numpy().astype(np.int64)) + output.zero_point
        return torch.from_numpy(steps.clip(low, high)).to(dtype)

    return run


def _leaky_relu(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    # LiteRT's factors are float32, TFLite Micro's, which has no uint8, float64.
    real: Any = np.float32 if graph.tensors[op.inputs[0]].dtype == "uint8" else np.float64
    before, after = real(source.scale), real(output.scale)
    slope = real(np.float32(op.attributes["negative_slope"]))
    largest = reach(graph, op.inputs[0])
    ahead = output_rescale(graph, op, float(before / after), largest)
    below = output_rescale(graph, op, float(before * abs(slope) / after), largest)
    sign = -1 if slope < 0 else 1
    return lambda x: torch.where(x >= 0, ahead(x), below(x * sign))


FLOAT: dict[str, FloatKernel] = {
    "sigmoid": lambda graph, op, x: x.sigmoid(),
    "tanh": lambda graph, op, x: x.tanh(),
    "hard_swish": lambda graph, op, x: F.hardswish(x),
    "leaky_relu": lambda graph, op, x: F.leaky_relu(x, op.attributes["negative_slope"]),
    "gelu": lambda graph, op, x: F.gelu(x, approximate=op.attributes["approximate"]),
    "elu": lambda graph, op, x: F.elu(x),
    "relu": lambda graph, op, x: x.relu(),
    "relu6": lambda graph, op, x: x.clamp(0, 6),
    "prelu": _float_prelu,
    "softmax": lambda graph, op, x: torch.softmax(x * op.attributes["beta"], -1),
}
INTEGER: dict[str, IntegerMaker] = {
    "sigmoid": _curve(fixedpoint.logistic, lut.sigmoid, _sigmoid, 8, -128),
    "tanh": _curve(fixedpoint.tanh, lut.tanh, np.tanh, 7, 0),
    "gelu": elementwise(_gelu),
    "elu": elementwise(_elu),
    "leaky_relu": elementwise(_leaky_relu),
    "hard_swish": elementwise(_hard_swish),
    "relu": elementwise(_relu),
    "relu6": elementwise(_relu6),
    "prelu": elementwise(_integer_prelu),
    "softmax": _softmax,
}
