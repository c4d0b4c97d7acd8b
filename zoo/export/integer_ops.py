"""What each operator computes on integers, as TFLite's reference kernels define it.

A kernel is made once for an operator of a graph and then called with its computed inputs: float32
tensors, channels last, that hold integer - zero point. Sources: tensorflow/lite/kernels/internal/
reference (integer_ops) and tensorflow/lite/micro/kernels of tensorflow/tflite-micro.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.export import fixedpoint, lut
from zoo.export.graph import Graph, Op
from zoo.export.integer_base import (
    Kernel,
    centered,
    extent,
    limits,
    operands,
    quantization_of,
    reach,
    rounded,
)
from zoo.export.integer_moves import MOVES, pad_image
from zoo.export.rescale import Rescale, WideRescale

_EXACT_FLOAT32 = 2**24
_ADD_SHIFT = {"int8": 20, "int16": 15}  # bits that `add` gains before it rescales its inputs


@dataclass(frozen=True)
class _Product:
    """A convolution's or fully connected layer's arithmetic before and after the sum.

    Attributes:
        weight: integers - zero point in a float type whose sums are exact.
        bias: in that type, or None where there is none or adding it there would not be exact.
        rescale: from the sum to the output; adds a bias that is not in `bias`.

    """

    weight: Tensor
    bias: Tensor | None
    rescale: Rescale | WideRescale


def _product(graph: Graph, op: Op, weight: Tensor) -> _Product:
    """Prepare a MAC op; `weight` is float64 with the output channels first."""
    if graph.tensors[op.inputs[0]].dtype == "int16":
        return _wide_product(graph, op, weight)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    scales = np.array(quantization_of(graph, op.inputs[1]).scales, np.float64)
    bound = weight.abs().flatten(1).sum(1) * reach(graph, op.inputs[0])
    dtype = torch.float32 if float(bound.max()) < _EXACT_FLOAT32 else torch.float64
    bias, total = None, bound
    if len(op.inputs) > 2:
        bias = torch.from_numpy(graph.values[op.inputs[2]].astype(np.float64))
        total = bound + bias.abs()
    if float(total.max()) >= 2**31:
        raise MismatchError("its accumulator can exceed 32 bits")
    factors = source.scale * scales / output.scale
    if op.kind == "fully_connected" and len(scales) == 1 and bias is None:
        # Without a bias, whose scale it would check, the kernel multiplies the scales in float32.
        product = np.float32(source.scale) * np.float32(scales[0])
        factors = np.array([np.float64(product) / output.scale])
    within = dtype == torch.float64 or float(total.max()) < _EXACT_FLOAT32
    rescale = Rescale(
        factors if len(factors) > 1 else np.repeat(factors, len(bound)),
        bound.numpy(),
        *limits(graph, op),
        bias=None if bias is None else bias.numpy(),
        add_bias=not within,
    )
    early = bias.to(dtype) if bias is not None and within else None
    return _Product(weight.to(dtype), early, rescale)


def _conv2d(graph: Graph, op: Op) -> Kernel:
    weight = centered(graph, op.inputs[1])
    depthwise = op.kind == "depthwise_conv2d"
    product = _product(graph, op, weight.permute((3, 0, 1, 2) if depthwise else (0, 3, 1, 2)))
    groups = graph.tensors[op.inputs[0]].shape[3] // product.weight.shape[1]
    stride, dilation = op.attributes["stride"], op.attributes["dilation"]
    top, bottom, left, right = padding = op.attributes["padding"]
    if groups == 1 and op.attributes["kernel"] == (1, 1) and not any(padding):
        return _pointwise(product, stride)
    kernel = product.weight.contiguous(memory_format=torch.channels_last)
    even = top == bottom and left == right

    def run(x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2).to(kernel.dtype)
        if not even:
            image = pad_image(image, padding)
        around = (top, left) if even else 0
        y = F.conv2d(image, kernel, product.bias, stride, around, dilation, groups)
        return product.rescale(y.permute(0, 2, 3, 1), overwrite=True)

    return run


def _pointwise(product: _Product, stride: tuple[int, int]) -> Kernel:
    """A 1x1 convolution is a matrix product: several times faster without the detour."""
    matrix = product.weight.flatten(1)

    def run(x: Tensor) -> Tensor:
        if stride != (1, 1):
            x = x[:, :: stride[0], :: stride[1]]
        return product.rescale(F.linear(x.to(matrix.dtype), matrix, product.bias), overwrite=True)

    return run


def _wide_product(graph: Graph, op: Op, weight: Tensor) -> _Product:
    """Prepare a MAC op on int16 activations, whose sums and biases are int64."""
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    scales = np.array(quantization_of(graph, op.inputs[1]).scales, np.float64)
    if len(op.inputs) < 3:
        raise MismatchError("it has no bias, without which runtimes sum int16 products otherwise")
    bias = torch.from_numpy(graph.values[op.inputs[2]].astype(np.float64))
    bound = weight.abs().flatten(1).sum(1) * reach(graph, op.inputs[0]) + bias.abs()
    rescale = WideRescale(source.scale * scales / output.scale, bound.numpy(), *limits(graph, op))
    return _Product(weight=weight, bias=bias, rescale=rescale)


def _fully_connected(graph: Graph, op: Op) -> Kernel:
    product = _product(graph, op, centered(graph, op.inputs[1]))
    matrix, shape = product.weight, graph.tensors[op.outputs[0]].shape[1:]

    def run(x: Tensor) -> Tensor:
        rows = x.reshape(-1, matrix.shape[1]).to(matrix.dtype)
        sums = F.linear(rows, matrix, product.bias)
        return product.rescale(sums, overwrite=True).reshape(-1, *shape)

    return run


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
    final_rescale = Rescale(final, bound, *limits(graph, op))

    def run(*inputs: Tensor) -> Tensor:
        x, y = (
            rescale(operand.to(torch.float64) * 2**gain)
            for rescale, operand in zip(scaled, operands(graph, op, inputs), strict=True)
        )
        return final_rescale(torch.add(x, y, alpha=sign))

    return run


def _mul(graph: Graph, op: Op) -> Kernel:
    first, second = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    bound = reach(graph, op.inputs[0]) * reach(graph, op.inputs[1])
    rescale = Rescale(first.scale * second.scale / output.scale, bound, *limits(graph, op))
    dtype = torch.float32 if bound < _EXACT_FLOAT32 else torch.float64

    def run(*inputs: Tensor) -> Tensor:
        x, y = operands(graph, op, inputs)
        return rescale(x.to(dtype) * y, overwrite=True)

    return run


def _prelu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, alpha = (quantization_of(graph, name) for name in op.inputs)
    output = quantization_of(graph, op.outputs[0])
    largest, within = reach(graph, op.inputs[0]), limits(graph, op)
    slope = centered(graph, op.inputs[1]).to(torch.float32)
    ahead = Rescale(source.scale / output.scale, largest, *within)
    below = Rescale(source.scale * alpha.scale / output.scale, largest * 255, *within)

    def run(x: Tensor) -> Tensor:
        return torch.where(x >= 0, ahead(x), below(x * slope))

    return run


def _refuse_int16(graph: Graph, op: Op) -> None:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        raise MismatchError(
            "runtimes do not agree on it in int16; convert the file with maximum and minimum, as "
            "zoo.export.rewrite.for_int16 does"
        )


def _relu(graph: Graph, op: Op) -> Kernel:
    _refuse_int16(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if op.kind == "relu6":  # the kernel only clamps: it takes the two scales for equal
        high = min(
            extent(graph, op.inputs[0])[1],
            rounded(float(np.float32(6) / np.float32(source.scale))),
        )
        shift = source.zero_point - output.zero_point
        return lambda x: x.clamp(0, high) + shift
    ratio = float(np.float32(source.scale) / np.float32(output.scale))
    low, high = extent(graph, op.outputs[0])
    return Rescale(ratio, reach(graph, op.inputs[0]), max(low, 0), high)


def _mean(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    shape, dims = graph.tensors[op.inputs[0]].shape, tuple(op.attributes["dim"])
    count = math.prod(shape[dim] for dim in dims)
    multiplier, shift = fixedpoint.quantize_multiplier(source.scale / output.scale)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    pair = ((multiplier << bits) // count, shift - bits)
    bound = count * reach(graph, op.inputs[0])
    rescale = Rescale(0.0, bound, *limits(graph, op), multipliers=[pair])
    keep = bool(op.attributes["keepdim"])
    return lambda x: rescale(x.double().sum(dims, keepdim=keep))


def _softmax(graph: Graph, op: Op) -> Kernel:
    if graph.tensors[op.outputs[0]].dtype == "int16":
        return _wide_softmax(graph, op)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if (output.scale, output.zero_point) != (1 / 256, -128):
        raise MismatchError("the output of a softmax has scale 1/256 and zero point -128")
    values, small = fixedpoint.softmax_table(source.scale, op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        difference = (x.amax(-1, keepdim=True) - x).to(torch.int64).numpy()
        total = small[difference].sum(-1, keepdims=True)
        bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
        # 12 integer bits, and the int8 output has 8 of the result's 31.
        exponent = 12 - (32 - bits) + 31 - 8
        scaled = fixedpoint.high_multiply(fixedpoint.reciprocal(total, bits), values[difference])
        result: NDArray[np.int64] = np.clip(fixedpoint.shift_right(scaled, exponent), 0, 255)
        return torch.from_numpy(result.astype(np.float32))

    return run


def _wide_softmax(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    if output.scale != 1 / 32768:
        raise MismatchError("the output of an int16 softmax has scale 1/32768")
    table = lut.Softmax(source.scale * op.attributes.get("beta", 1.0))

    def run(x: Tensor) -> Tensor:
        difference = (x - x.amax(-1, keepdim=True)).to(torch.int64).numpy()
        return torch.from_numpy(table(difference).astype(np.float32))

    return run


def _requantize(graph: Graph, op: Op) -> Kernel:
    output = quantization_of(graph, op.outputs[0])
    low, high = limits(graph, op)
    if graph.tensors[op.inputs[0]].dtype == "float32":
        scale = np.float32(output.scale).item()

        def quantize(x: Tensor) -> Tensor:
            ratio = x / scale
            return (ratio.sign() * (ratio.abs() + 0.5).floor()).clamp(low, high)

        return quantize
    source = quantization_of(graph, op.inputs[0])
    return Rescale(source.scale / output.scale, reach(graph, op.inputs[0]), low, high)


def _dequantize(graph: Graph, op: Op) -> Kernel:
    scale = quantization_of(graph, op.inputs[0]).scale
    return lambda x: x * scale


KERNELS: dict[str, Callable[[Graph, Op], Kernel]] = {
    **MOVES,
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
    "add": _add,
    "sub": _add,
    "mul": _mul,
    "prelu": _prelu,
    "relu": _relu,
    "relu6": _relu,
    "mean": _mean,
    "softmax": _softmax,
    "quantize": _requantize,
    "dequantize": _dequantize,
}
