"""What each operator computes on integers, as TFLite Micro's reference kernels define it.

A kernel is made once for an operator of a graph and then called with its computed inputs: the
stored integers, channels last. Sources: tensorflow/lite/kernels/internal/reference (integer_ops)
and tensorflow/lite/micro/kernels of tensorflow/tflite-micro.

Operators that act on elements are written as arithmetic on real integers. In int8 two operands have
2^16 pairs of values: such an operator is evaluated once for them all and then looked up.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime import fixedpoint, lut
from zoo.runtime.integer_base import (
    TYPES,
    Kernel,
    extent,
    in_groups,
    limits,
    operands,
    quantization_of,
    reach,
    rounded,
)
from zoo.runtime.integer_moves import MOVES
from zoo.runtime.integer_products import PRODUCTS
from zoo.runtime.rescale import Rescale

_ADD_SHIFT = {"int8": 20, "int16": 15}  # bits that `add` gains before it rescales its inputs


def _elementwise(make: Callable[[Graph, Op], Kernel]) -> Callable[[Graph, Op], Kernel]:
    """Return the maker of a stored operator, of one that takes float64 integers - zero point."""

    def prepare(graph: Graph, op: Op) -> Kernel:
        arithmetic = make(graph, op)
        zeros = [quantization_of(graph, name).zero_point for name in op.inputs]

        def run(*inputs: Tensor) -> Tensor:
            given = operands(graph, op, inputs)
            return arithmetic(*(x.double() - z for x, z in zip(given, zeros, strict=True)))

        if {graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)} != {"int8"}:
            return run

        @functools.cache
        def results() -> Tensor:
            every = torch.arange(-128, 128, dtype=torch.float64)
            pairs = (every[:, None], every) if len(zeros) == 2 else (every,)
            return arithmetic(*(x - z for x, z in zip(pairs, zeros, strict=True))).flatten()

        def look_up(*inputs: Tensor) -> Tensor:
            first, *second = operands(graph, op, inputs)
            places = first.to(torch.int32)
            if second:
                places = torch.add(second[0], places, alpha=256).add_(128 * 257)
            else:
                places += 128
            return results().index_select(0, places.flatten()).view(places.shape)

        return in_groups(graph, op, look_up)

    return prepare


def _rescale(graph: Graph, op: Op, factor: float, bound: int) -> Rescale:
    """Return the last rounding of an operator, to its stored output."""
    output = op.outputs[0]
    zero, dtype = quantization_of(graph, output).zero_point, TYPES[graph.tensors[output].dtype]
    return Rescale(factor, bound, *limits(graph, op), zero_point=zero, dtype=dtype)


def _add(graph: Graph, op: Op) -> Kernel:
    first, second = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    gain = _ADD_SHIFT[graph.tensors[op.outputs[0]].dtype]
    if op.kind == "add" or gain == _ADD_SHIFT["int16"]:
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
    last = _rescale(graph, op, final, bound)

    def run(*inputs: Tensor) -> Tensor:
        x, y = (rescale(operand * 2**gain) for rescale, operand in zip(scaled, inputs, strict=True))
        return last(torch.add(x, y, alpha=sign))

    return run


def _mul(graph: Graph, op: Op) -> Kernel:
    first, second = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    bound = reach(graph, op.inputs[0]) * reach(graph, op.inputs[1])
    rescale = _rescale(graph, op, first.scale * second.scale / output.scale, bound)
    return lambda x, y: rescale(x * y)


def _prelu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, alpha = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    largest = reach(graph, op.inputs[0])
    ahead = _rescale(graph, op, source.scale / output.scale, largest)
    below = _rescale(graph, op, source.scale * alpha.scale / output.scale, largest * 255)
    return lambda x, slope: torch.where(x >= 0, ahead(x), below(x * slope))


def _refuse_int16(graph: Graph, op: Op) -> None:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        raise MismatchError(
            "runtimes do not agree on it in int16; convert the file with maximum and minimum, as "
            "zoo.graph.rewrite.for_int16 does"
        )


def _relu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]
    if op.kind == "relu6":  # the kernel only clamps: it takes the two scales for equal
        high = min(
            extent(graph, op.inputs[0])[1],
            rounded(float(np.float32(6) / np.float32(source.scale))),
        )
        return lambda x: (x.clamp(0, high) + source.zero_point).to(dtype)
    ratio = float(np.float32(source.scale) / np.float32(output.scale))
    low, high = extent(graph, op.outputs[0])
    most, zero = reach(graph, op.inputs[0]), output.zero_point
    return Rescale(ratio, most, max(low, 0), high, zero_point=zero, dtype=dtype)


def _mean(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    shape, dims = graph.tensors[op.inputs[0]].shape, tuple(op.attributes["dim"])
    count = math.prod(shape[dim] for dim in dims)
    multiplier, shift = fixedpoint.quantize_multiplier(source.scale / output.scale)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    pair = ((multiplier << bits) // count, shift - bits)
    rescale = Rescale(
        0.0,
        count * reach(graph, op.inputs[0]),
        *limits(graph, op),
        multipliers=[pair],
        zero_point=output.zero_point,
        dtype=TYPES[graph.tensors[op.outputs[0]].dtype],
    )
    keep = bool(op.attributes["keepdim"])
    offset = count * source.zero_point
    return lambda x: rescale(x.double().sum(dims, keepdim=keep) - offset)


def _softmax(graph: Graph, op: Op) -> Kernel:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        return _wide_softmax(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if (output.scale, output.zero_point) != (1 / 256, -128):
        raise MismatchError("the output of a softmax has scale 1/256 and zero point -128")
    values, small = fixedpoint.softmax_table(source.scale, op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        wide = x.to(torch.int64)
        difference = (wide.amax(-1, keepdim=True) - wide).numpy()
        total = small[difference].sum(-1, keepdims=True)
        bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
        # 12 integer bits, and the int8 output has 8 of the result's 31.
        exponent = 12 - (32 - bits) + 31 - 8
        scaled = fixedpoint.high_multiply(fixedpoint.reciprocal(total, bits), values[difference])
        result: NDArray[np.int64] = np.clip(fixedpoint.shift_right(scaled, exponent), 0, 255)
        return torch.from_numpy((result - 128).astype(np.int8))

    return run


def _wide_softmax(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if output.scale != 1 / 32768:
        raise MismatchError("the output of an int16 softmax has scale 1/32768")
    table = lut.Softmax(source.scale * op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        wide = x.to(torch.int64)
        difference = (wide - wide.amax(-1, keepdim=True)).numpy()
        return torch.from_numpy(table(difference).astype(np.int16))

    return run


def _requantize(graph: Graph, op: Op) -> Kernel:
    output = quantization_of(graph, op.outputs[0])
    low, high = limits(graph, op)
    dtype = TYPES[graph.tensors[op.outputs[0]].dtype]
    if graph.tensors[op.inputs[0]].dtype == "float32":
        scale = np.float32(output.scale).item()

        def quantize(x: Tensor) -> Tensor:
            ratio = x / scale
            steps = (ratio.sign() * (ratio.abs() + 0.5).floor()).clamp(low, high)
            return (steps + output.zero_point).to(dtype)

        return quantize
    source = quantization_of(graph, op.inputs[0])
    rescale = _rescale(graph, op, source.scale / output.scale, reach(graph, op.inputs[0]))
    return lambda x: rescale(x.double() - source.zero_point)


def _dequantize(graph: Graph, op: Op) -> Kernel:
    meaning = quantization_of(graph, op.inputs[0])
    return lambda x: (x.float() - meaning.zero_point) * meaning.scale


KERNELS: dict[str, Callable[[Graph, Op], Kernel]] = {
    **MOVES,
    **PRODUCTS,
    "add": _elementwise(_add),
    "sub": _elementwise(_add),
    "mul": _elementwise(_mul),
    "prelu": _elementwise(_prelu),
    "relu": _elementwise(_relu),
    "relu6": _elementwise(_relu),
    "mean": _mean,
    "softmax": _softmax,
    "quantize": _requantize,
    "dequantize": _dequantize,
}
