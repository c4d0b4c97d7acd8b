"""Integer kernels of convolutions and fully connected layers: exact sums, then a rescaling.

With stored inputs q, their zero point z and weights w, a layer's sum is

    sum w (q - z) + bias = sum w q + (bias - z sum w),

so kernels multiply stored integers, and borders are padded with z. The sum is exact by either

- int8 matrix products into int32 (`torch._int_mm`), of the input's patches if the kernel is wider
than a pixel. Processors with dot-product instructions do four products where floats do
  one; those without may saturate, which a trial at the start detects;
- float32 convolutions, as long as every partial sum stays below 2^24, or float64 (2^53).

The rescaling is TFLite Micro's. LiteRT's differs in fully connected layers, where the exact sum
times M / 2^(31 - s) is rounded once, halves up (`zoo.runtime.fixedpoint` defines M and s).
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime.integer_base import (
    AT_ONCE,
    TYPES,
    Kernel,
    centered,
    limits,
    quantization_of,
    reach,
)
from zoo.runtime.rescale import OnceRescale, Rescale, WideRescale

_EXACT_FLOAT32 = 2**24
# From inputs to the sums of some rows of the output at a time; of all rows of several samples.
Bands = Callable[[Tensor], Iterable[tuple[slice, Tensor]]]
_ALL = slice(None)
_FEW = 16  # with so few output channels, copying patches does not pay


def int8_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the int32 product of two int8 matrices, however they lie in memory."""
    return torch._int_mm(_by_rows(a), _by_rows(b))


def _by_rows(matrix: Tensor) -> Tensor:
    """Return a matrix that lies row by row in memory, with the strides to match.

    Along sizes of 1 `contiguous` keeps any stride; `torch._int_mm` mistakes it for the length of a
    row and reads elsewhere.
    """
    rows, columns = matrix.shape
    return matrix.contiguous().as_strided((rows, columns), (columns, 1))


@cache
def int8_products_are_exact() -> bool:
    """Whether this machine multiplies int8 matrices into int32 fast, without saturation."""
    if not hasattr(torch, "_int_mm") or not torch.backends.mkldnn.is_available():
        return False  # or a plain, slow loop
    generator = torch.Generator().manual_seed(0)
    few = (1, 2, 7)
    small = itertools.product(few, few, few)  # kernels differ for a row or a column
    with torch.inference_mode():
        return all(
            _is_exact(shape, shift, generator)
            for shape in (*small, (5, 64, 12), (64, 4096, 64), (257, 130, 140))
            for shift in (0, 1)  # parts of a batch need not start at a whole word
        )


def _is_exact(shape: tuple[int, int, int], shift: int, generator: torch.Generator) -> bool:
    """Whether one product is right, with its operands stored among unrelated numbers."""
    rows, depth, columns = shape

    def matrix(height: int, width: int) -> Tensor:
        size = (shift + height * width + 64,)
        memory = torch.randint(-128, 128, size, generator=generator, dtype=torch.int8)
        return memory[shift : shift + height * width].view(height, width)

    a, b = matrix(rows, depth), matrix(depth, columns)
    a[0], b[:, 0] = 127, 127  # the largest sums, and pairs beyond 16 bits
    a[-1], b[:, -1] = -128, -128
    exact = (a.double() @ b.double()).to(torch.int32)
    try:
        return torch.equal(int8_product(a, b), exact)
    except RuntimeError:
        return False


@dataclass(frozen=True)
class _Product:
    """A layer's arithmetic.

    Attributes:
        weight: integers - zero point, output channels first, in a type whose sums are exact.
        bias: in that type, or None if the layer has no bias or adding it there would not be exact.
        rescale: from the sum to the stored output; adds a bias that is not in `bias`.
        zero_point: zero point of the input, with which its borders are padded.

    """

    weight: Tensor
    bias: Tensor | None
    rescale: Rescale | OnceRescale | WideRescale
    zero_point: int

    @property
    def integer(self) -> bool:
        """Whether sums are made of int8 products."""
        return self.weight.dtype is torch.int8

    def linear(self) -> Callable[[Tensor], Tensor]:
        """Return the function from rows of inputs (..., inputs) to their sums (..., outputs)."""
        matrix = self.weight.flatten(1)
        if not self.integer:
            return lambda x: F.linear(x.to(matrix.dtype), matrix, self.bias)
        columns = _by_rows(matrix.t())
        return lambda x: int8_product(x.flatten(0, -2), columns).view(*x.shape[:-1], len(matrix))


def _bias(graph: Graph, op: Op, outputs: int) -> NDArray[np.float64]:
    if len(op.inputs) < 3:
        return np.zeros(outputs)
    return graph.values[op.inputs[2]].astype(np.float64)


def _product(graph: Graph, op: Op, weight: Tensor, *, integer: bool = True) -> _Product:
    """Prepare a layer; `weight` is float64 with the output channels first."""
    bias, kind = _bias(graph, op, len(weight)), graph.tensors[op.inputs[0]].dtype
    if kind == "int16":
        return _Product(weight, torch.from_numpy(bias), _rescaling(graph, op, weight), 0)
    zero = quantization_of(graph, op.inputs[0]).zero_point
    flat = weight.flatten(1)
    added = bias - zero * flat.sum(1).numpy()
    magnitude = flat.abs().sum(1).numpy()
    dtype, early = _sum_type(weight, magnitude, added, kind, integer=integer)
    rescale = _rescaling(graph, op, weight, None if early else added)
    summed = torch.from_numpy(added).to(dtype) if early else None
    return _Product(weight.to(dtype), summed, rescale, zero)


def _rescaling(
    graph: Graph, op: Op, weight: Tensor, added: NDArray[np.float64] | None = None
) -> Rescale | OnceRescale | WideRescale:
    """Return what makes a layer's output of its sums, which lack `added` by channel."""
    kind = graph.tensors[op.inputs[0]].dtype
    if kind == "int16":
        return _wide_rescaling(graph, op, weight)
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    scales = np.array(quantization_of(graph, op.inputs[1]).scales, np.float64)
    bound = weight.abs().flatten(1).sum(1).numpy() * reach(graph, op.inputs[0])
    bias = _bias(graph, op, len(bound))
    if np.max(bound + np.abs(bias)) >= 2**31:
        raise MismatchError("its accumulator can exceed 32 bits")
    factors = source.scale * scales / output.scale
    narrow = op.kind == "fully_connected" and len(op.inputs) < 3
    if kind == "uint8":
        narrow = op.kind != "fully_connected"
    if len(scales) == 1 and narrow:
        # TFLite Micro's fully connected layer multiplies the scales in float32 without a bias,
        # whose scale it would check; LiteRT's uint8 convolutions always do.
        product = np.float32(source.scale) * np.float32(scales[0])
        factors = np.array([np.float64(product) / output.scale])
    factors = factors if len(factors) > 1 else np.repeat(factors, len(bound))
    last: dict[str, Any] = {
        "added": added,
        "zero_point": output.zero_point,
        "dtype": TYPES[graph.tensors[op.outputs[0]].dtype],
    }
    if op.kind == "fully_connected" and kind == "uint8":  # which only LiteRT has
        return OnceRescale(factors, bound + np.abs(bias), *limits(graph, op), **last)
    return Rescale(factors, bound, *limits(graph, op), centre=bias, **last)


def _sum_type(
    weight: Tensor,
    magnitude: NDArray[np.float64],
    added: NDArray[np.float64],
    kind: str,
    *,
    integer: bool,
) -> tuple[torch.dtype, bool]:
    """Return the type in which products of inputs of a kind are summed; does it hold the bias?"""
    low, high = LIMITS["int8"]
    fits = kind == "int8" and low <= float(weight.min()) and float(weight.max()) <= high
    if integer and fits and int8_products_are_exact():
        return torch.int8, False
    largest = magnitude * max(map(abs, LIMITS[kind]))  # of stored inputs
    if largest.max() >= _EXACT_FLOAT32:
        return torch.float64, True
    return torch.float32, bool((largest + np.abs(added)).max() < _EXACT_FLOAT32)


def _wide_rescaling(graph: Graph, op: Op, weight: Tensor) -> WideRescale:
    """Return the last step of a layer on int16 activations, whose sums and biases are int64."""
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    scales = np.array(quantization_of(graph, op.inputs[1]).scales, np.float64)
    if len(op.inputs) < 3:
        raise MismatchError("without a bias, runtimes sum int16 products differently")
    bound = weight.abs().flatten(1).sum(1).numpy() * reach(graph, op.inputs[0])
    bound += np.abs(_bias(graph, op, len(bound)))
    return WideRescale(source.scale * scales / output.scale, bound, *limits(graph, op))


def _banded(graph: Graph, op: Op) -> tuple[_Product, Bands]:
    """Return a convolution's arithmetic, and its sums of padded inputs."""
    weight, a = _outputs_first(graph, op), op.attributes  # (O, kH, kW, I)
    channels = graph.tensors[op.inputs[0]].shape[3]
    outputs, height, width, inputs = weight.shape
    pointwise = inputs == channels and (height, width) == (1, 1)
    patches = inputs == channels and outputs >= _FEW and a["dilation"] == (1, 1)
    product = _product(graph, op, weight, integer=pointwise or patches)
    if pointwise:
        return product, _pointwise(product, a["stride"])
    if product.integer:
        return product, _patched(product, (height, width), a["stride"])
    return product, _convolved(product, channels // inputs, a["stride"], a["dilation"])


def _around(op: Op) -> tuple[int, ...]:
    """Return a convolution's padding as `torch.nn.functional.pad` takes it; () if it has none."""
    top, bottom, left, right = op.attributes["padding"]
    return (0, 0, left, right, top, bottom) if any(op.attributes["padding"]) else ()


def _conv2d(graph: Graph, op: Op) -> Kernel:
    product, bands = _banded(graph, op)
    output, around = graph.tensors[op.outputs[0]], _around(op)
    shape, dtype, zero = output.shape[1:], TYPES[output.dtype], product.zero_point
    samples = max(1, AT_ONCE // math.prod(shape))

    def run(x: Tensor) -> Tensor:
        out = x.new_empty((len(x), *shape), dtype=dtype)
        for part, result in zip(x.split(samples), out.split(samples), strict=True):
            image = F.pad(part, around, value=zero) if around else part
            for rows, sums in bands(image):
                product.rescale(sums, result[:, rows])
        return out

    return run


def _pointwise(product: _Product, stride: tuple[int, int]) -> Bands:
    """A 1x1 convolution is a matrix product: several times faster without the detour."""
    linear = product.linear()
    return lambda x: [(_ALL, linear(x[:, :: stride[0], :: stride[1]]))]


def _convolved(
    product: _Product, groups: int, stride: tuple[int, int], dilation: tuple[int, int]
) -> Bands:
    kernel = product.weight.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def run(x: Tensor) -> list[tuple[slice, Tensor]]:
        image = x.permute(0, 3, 1, 2).to(kernel.dtype)
        y = F.conv2d(image, kernel, product.bias, stride, 0, dilation, groups)
        return [(_ALL, y.permute(0, 2, 3, 1))]

    return run


def _patched(product: _Product, kernel: tuple[int, int], stride: tuple[int, int]) -> Bands:
    """A convolution as a product of the input's patches, made some rows of an image at a time."""
    linear, outputs = product.linear(), len(product.weight)

    def run(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        rows = (x.shape[1] - kernel[0]) // stride[0] + 1
        columns = (x.shape[2] - kernel[1]) // stride[1] + 1
        at_once = max(1, AT_ONCE // (len(x) * columns * outputs))
        for start in range(0, rows, at_once):
            stop = min(start + at_once, rows)
            band = x[:, start * stride[0] : (stop - 1) * stride[0] + kernel[0]]
            yield slice(start, stop), linear(_patches(band, kernel, stride))

    return run


def _patches(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
    """Return `(N, H, W, kH * kW * C)` of `(N, H', W', C)`, row by row of the kernel."""
    wide = x.unfold(2, kernel[1], stride[1]).transpose(3, 4)  # (N, H', W, kW, C)
    rows = (x.shape[1] - kernel[0]) // stride[0] + 1
    out = x.new_empty(x.shape[0], rows, wide.shape[2], kernel[0], kernel[1], x.shape[3])
    for row in range(kernel[0]):
        out[:, :, :, row] = wide[:, row : row + (rows - 1) * stride[0] + 1 : stride[0]]
    return out.flatten(3)


def _fully_connected(graph: Graph, op: Op) -> Kernel:
    weight, shape = centered(graph, op.inputs[1]), graph.tensors[op.outputs[0]].shape[1:]
    product = _product(graph, op, weight)
    linear = product.linear()
    return lambda x: product.rescale(linear(x.reshape(-1, weight.shape[1]))).reshape(-1, *shape)


def sums(graph: Graph, op: Op) -> Callable[[Tensor], Tensor]:
    """Return what makes a layer's accumulators of its stored inputs, as the kernels do.

    They are int32, `(N, H, W, O)` or `(N, O)`: sum w (q - z) + bias, before rescaling.

    Raises:
        MismatchError: the operator is not a convolution or fully connected layer of int8 or uint8.

    """
    _check_summed(graph, op)
    if op.kind == "fully_connected":
        weight = centered(graph, op.inputs[1])
        product = _product(graph, op, weight)
        linear, columns = product.linear(), weight.shape[1]
        late = _added(product)
        return lambda x: (linear(x.reshape(-1, columns)).long() + late).int()
    product, bands = _banded(graph, op)
    late, around = _added(product), _around(op)

    def run(x: Tensor) -> Tensor:
        image = F.pad(x, around, value=product.zero_point) if around else x
        return (torch.cat([part.long() for _, part in bands(image)], 1) + late).int()

    return run


def _check_summed(graph: Graph, op: Op) -> None:
    """Raise unless an operator's accumulators are registers of 32 bits."""
    kinds = ("conv2d", "depthwise_conv2d", "fully_connected")
    if op.kind not in kinds or graph.tensors[op.inputs[0]].dtype not in ("int8", "uint8"):
        raise MismatchError(f"{op.label} has no accumulators of 32 bits that can be shown")


def _added(product: _Product) -> Tensor:
    """Return what a layer's sums lack, by channel, until they are rescaled."""
    assert not isinstance(product.rescale, WideRescale)
    return product.rescale.added.long()


def requantizer(graph: Graph, op: Op) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what makes stored outputs of any accumulators, those that faults left too.

    It takes int64 accumulators, which wrap modulo 2^32, and the output channel of each, in the
    same shape.

    Raises:
        MismatchError: as `sums`.

    """
    _check_summed(graph, op)
    rescale = _rescaling(graph, op, _outputs_first(graph, op))
    assert not isinstance(rescale, WideRescale)
    return rescale.any


def _outputs_first(graph: Graph, op: Op) -> Tensor:
    """Return a layer's weights - zero point as float64, output channels first."""
    weight = centered(graph, op.inputs[1])
    return weight.permute(3, 1, 2, 0) if op.kind == "depthwise_conv2d" else weight


def spread(op: Op, x: Tensor, weight: Tensor) -> Tensor:
    """Return a transposed convolution's sums (N, H, W, O), of (N, H', W', I) by (O, kH, kW, I)."""
    a = op.attributes
    image = F.conv_transpose2d(x.permute(0, 3, 1, 2), weight.permute(3, 0, 1, 2), None, a["stride"])
    top, _, left, _ = a["padding"]
    height, width = a["size"]
    short = (max(0, left + width - image.shape[3]), max(0, top + height - image.shape[2]))
    image = F.pad(image, (0, short[0], 0, short[1]))[:, :, top : top + height, left : left + width]
    return image.permute(0, 2, 3, 1)


def _transpose_conv2d(graph: Graph, op: Op) -> Kernel:
    """Near borders fewer products are summed, so that zero points are taken off before."""
    weight, zero = centered(graph, op.inputs[1]), quantization_of(graph, op.inputs[0]).zero_point
    rescale, bias = _rescaling(graph, op, weight), _bias(graph, op, len(weight))

    def run(x: Tensor) -> Tensor:
        sums = spread(op, x.double() - zero, weight) + torch.from_numpy(bias)
        return rescale(sums.contiguous())

    return run


PRODUCTS: dict[str, Callable[[Graph, Op], Kernel]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "transpose_conv2d": _transpose_conv2d,
    "fully_connected": _fully_connected,
}
