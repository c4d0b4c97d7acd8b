"""Whether a channels-last graph is consistent: order, operands, shapes. Run on all that is read."""

import math
from collections.abc import Callable

from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import BIAS_DTYPE, Graph, Op

Shape = tuple[int, ...]


def check(graph: Graph) -> None:
    """Raise unless every op reads what exists and gives the shape its attributes imply.

    Raises:
        UnsafeFileError: a tensor is used before it is made, is made twice or is missing.
        MismatchError: operands or shapes do not fit an operator; it is named.

    """
    known = {*graph.inputs, *graph.values}
    if len(graph.inputs) != len(set(graph.inputs)) or known & set(graph.inputs) & set(graph.values):
        raise UnsafeFileError("an input of the graph is named twice or is also a constant")
    for op in graph.ops:
        (output,) = op.outputs
        for name in op.inputs:
            if name not in known:
                raise UnsafeFileError(f"{op.label} reads {name!r} before anything has made it")
        if output in known:
            raise UnsafeFileError(f"{op.label} writes {output!r}, which exists already")
        known.add(output)
        shapes = [graph.tensors[name].shape for name in op.inputs]
        given = graph.tensors[output].shape
        if all(name in graph.values for name in op.inputs):
            raise MismatchError(f"{op.label} computes a constant; fold it before writing the file")
        try:
            expected = _SHAPES[op.kind](graph, op, shapes)
        except MismatchError:  # a ValueError, too
            raise
        except (IndexError, ValueError) as error:
            raise MismatchError(f"{op.label} has operands of impossible rank: {shapes}") from error
        if expected != given:
            raise MismatchError(f"{op.label} gives shape {given}; its operands imply {expected}")
    for name in graph.outputs:
        if name not in known:
            raise UnsafeFileError(f"output {name!r} is made by no operator")


def _refuse(op: Op, what: str) -> MismatchError:
    return MismatchError(f"{op.label}: {what}")


def _bias(graph: Graph, op: Op, outputs: int) -> None:
    for name in op.inputs[1:]:
        if name not in graph.values:
            raise _refuse(op, f"its parameter {name!r} is not constant")
    dtype = graph.tensors[op.inputs[0]].dtype
    if dtype not in (*BIAS_DTYPE, "float32"):
        raise _refuse(
            op, f"its input is {dtype}; expected float32, int8 or int16: convert the file to those"
        )
    if len(op.inputs) == 3:
        bias = graph.tensors[op.inputs[2]]
        if bias.shape != (outputs,) or bias.dtype != BIAS_DTYPE.get(dtype, dtype):
            raise _refuse(op, f"its bias is {bias.dtype} {bias.shape} for {outputs} outputs")
    _scales(graph, op, outputs)


def _scales(graph: Graph, op: Op, outputs: int) -> None:
    quantization = graph.tensors[op.inputs[1]].quantization
    if quantization is not None and len(quantization.scales) not in (1, outputs):
        raise _refuse(op, f"{len(quantization.scales)} scales for {outputs} output channels")


def _positions(op: Op, shape: Shape) -> Shape:
    """Return the height and width of a window op's output."""
    top, bottom, left, right = op.attributes["padding"]
    size = (shape[1] + top + bottom, shape[2] + left + right)
    keys = ("kernel", "stride", "dilation")
    return tuple(
        (n - (k - 1) * d - 1) // s + 1
        for n, k, s, d in zip(size, *(op.attributes[key] for key in keys), strict=True)
    )


def _conv2d(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    outputs, inputs, _ = graph.kernel(op)
    channels = shapes[0][3]
    if op.kind == "depthwise_conv2d":
        fits = shapes[1][0] == 1 and outputs % channels == 0
    else:
        fits = channels % inputs == 0 and outputs % (channels // inputs) == 0
    if not fits:
        raise _refuse(op, f"a kernel of shape {shapes[1]} does not fit {channels} channels")
    _bias(graph, op, outputs)
    return (shapes[0][0], *_positions(op, shapes[0]), outputs)


def _fully_connected(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    if len(shapes[1]) != 2:
        raise _refuse(op, f"its weights have shape {shapes[1]}; expected 2 dimensions")
    outputs, inputs, _ = graph.kernel(op)
    elements = math.prod(shapes[0])
    if elements % inputs:
        raise _refuse(op, f"{elements} values do not divide into rows of {inputs}")
    _bias(graph, op, outputs)
    given = graph.tensors[op.outputs[0]].shape
    whole = math.prod(given) == elements // inputs * outputs and given[-1] == outputs
    return given if whole else (elements // inputs, outputs)


def _pool(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    kernel, padding = op.attributes["kernel"], op.attributes["padding"]
    if any(p >= k for p, k in zip(padding, (kernel[0], *kernel, kernel[1]), strict=True)):
        raise _refuse(op, "its padding is not smaller than its window")
    return (shapes[0][0], *_positions(op, shapes[0]), shapes[0][3])


def _broadcast(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    sizes = []
    for column in zip(*padded, strict=True):
        if len(set(column) - {1}) > 1:
            raise _refuse(op, f"shapes {shapes} do not broadcast")
        sizes.append(max(column))
    return tuple(sizes)


def _same(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    return shapes[0]


def _prelu(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    if op.inputs[1] not in graph.values:
        raise _refuse(op, "its slopes are not constant")
    if _broadcast(graph, op, shapes) != shapes[0]:
        raise _refuse(op, f"slopes of shape {shapes[1]} for an input of {shapes[0]}")
    return shapes[0]


def _concat(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dim, first = op.attributes["dim"], shapes[0]
    if not 0 <= dim < len(first):
        raise _refuse(op, f"there is no dimension {dim}")
    rest = {(len(s), s[:dim], s[dim + 1 :]) for s in shapes}
    if len(rest) > 1:
        raise _refuse(op, f"shapes {shapes} cannot be joined along dimension {dim}")
    return (*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])


def _pad(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    padding = op.attributes["padding"]
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    return tuple(n + a + b for n, (a, b) in zip(shapes[0], pairs, strict=True))


def _reshape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    given = graph.tensors[op.outputs[0]].shape
    if math.prod(given) != math.prod(shapes[0]):
        raise _refuse(op, f"{shapes[0]} cannot become {given}")
    return given


def _transpose(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dims = op.attributes["dims"]
    if sorted(dims) != list(range(len(shapes[0]))):
        raise _refuse(op, f"{dims} is no order of {len(shapes[0])} dimensions")
    return tuple(shapes[0][dim] for dim in dims)


def _mean(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dims, keep = op.attributes["dim"], op.attributes["keepdim"]
    sizes = [1 if dim in dims else size for dim, size in enumerate(shapes[0])]
    return tuple(size for dim, size in enumerate(sizes) if keep or dim not in dims)


def _depth_to_space(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    block = op.attributes["block"]
    batch, height, width, channels = shapes[0]
    if block < 1 or channels % block**2:
        raise _refuse(op, f"{channels} channels do not make blocks of {block}")
    return (batch, height * block, width * block, channels // block**2)


def _resize(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    height, width = op.attributes["size"]
    batch, _, _, channels = shapes[0]
    if op.attributes["align_corners"] and op.attributes["half_pixel_centers"]:
        raise _refuse(op, "align_corners and half_pixel_centers exclude each other")
    return (batch, height, width, channels)


_SHAPES: dict[str, Callable[[Graph, Op, list[Shape]], Shape]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "add": _broadcast,
    "sub": _broadcast,
    "mul": _broadcast,
    "maximum": _broadcast,
    "minimum": _broadcast,
    "prelu": _prelu,
    "relu": _same,
    "relu6": _same,
    "softmax": _same,
    "quantize": _same,
    "dequantize": _same,
    "concat": _concat,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "mean": _mean,
    "depth_to_space": _depth_to_space,
    "resize_bilinear": _resize,
    "resize_nearest": _resize,
}
