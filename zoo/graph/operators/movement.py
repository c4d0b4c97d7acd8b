"""Operators that move elements: other shapes and orders, joins, borders."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import LAST, NCHW, NHWC, order_matters
from zoo.graph.operators.contract import OpKind, Shape, along_dims, never
from zoo.graph.operators.elementwise import in_order

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_concat(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    tracer.emit(node, "concat", a["tensors"], {"dim": a["dim"]})  # one tensor may come twice


def _trace_stack(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape = [int(size) for size in node.meta["val"].shape]
    dim = a["dim"] % len(shape)
    shape[dim] = 1
    parts = [
        tracer.step(node, f"part{place}", "reshape", [part], shape=tuple(shape))
        for place, part in enumerate(a["tensors"])
    ]
    tracer.emit(node, "concat", parts, {"dim": dim})


def _trace_reshape(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    tracer.emit(node, "reshape", node.all_input_nodes[:1])  # `view_as` has two, and reads one


def _trace_pixel_shuffle(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    # Channel c * b * b + i * b + j is row i, column j of channel c (torch); TFLite's operator has
    # the cell's place first. They agree when there is one channel.
    tracer.emit(node, "depth_to_space", [a["self"]], {"block": a["upscale_factor"]})


def _trace_pad(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if a.get("mode", "constant") != "constant":
        raise tracer.unmapped(node, f"aten.pad with mode {a['mode']!r}")
    # torch lists the last dimension first: (left, right, top, bottom, ...).
    attributes = {"padding": tuple(a["pad"]), "value": a["value"] or 0}
    tracer.emit(node, "pad", [a["self"]], attributes)


def _trace_transpose(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    rank = node.meta["val"].ndim
    dims = list(range(rank))
    first, second = (a.get(f"dim{n}", n) % rank for n in (0, 1)) if rank > 1 else (0, 0)
    dims[first], dims[second] = second, first
    tracer.emit(node, "transpose", [a["self"]], {"dims": dims})


def _lower_reshape(lowering: "Lowering", op: Op) -> None:
    before, after = lowering.shape(op.inputs[0]), lowering.shape(op.outputs[0])
    source = op.inputs[0]
    if not lowering.reads_flat(op) and len(before) == 4 and order_matters(before):
        source = lowering.before(op, "transpose", before, {"dims": NCHW})
    if len(after) == 4 and order_matters(after):
        rows = lowering.activation(f"{op.name}.reshape", after)
        lowering.emit(op, name=rows, inputs=(source,), outputs=(rows,))
        lowering.emit(op, kind="transpose", inputs=(rows,), attributes={"dims": NHWC})
        return
    lowering.emit(op, inputs=(source,))


def _lower_concat(lowering: "Lowering", op: Op) -> None:
    (dim,), stored = lowering.axes(op), lowering.graph.tensors
    names = [
        lowering.parameter(op, place, in_order) if stored[name].is_parameter else name
        for place, name in enumerate(op.inputs)
    ]
    lowering.emit(op, inputs=tuple(names), attributes={**op.attributes, "dim": dim})


def _lower_pad(lowering: "Lowering", op: Op) -> None:
    rank, sides = len(lowering.shape(op.inputs[0])), op.attributes["padding"]
    pairs = [(0, 0)] * rank  # by dimension
    for place in range(len(sides) // 2):
        pairs[rank - 1 - place] = (sides[2 * place], sides[2 * place + 1])
    if rank == 4:
        pairs = [pairs[i] for i in NHWC]
    if any(side < 0 for pair in pairs for side in pair):
        raise MismatchError(f"{op.label} cuts instead of padding")
    padding = tuple(side for pair in reversed(pairs) for side in pair)
    lowering.emit(op, attributes={**op.attributes, "padding": padding})


def _lower_transpose(lowering: "Lowering", op: Op) -> None:
    dims = tuple(op.attributes["dims"])
    if len(dims) == 4:  # out (new order) <- torch order <- in (new order)
        dims = tuple(LAST[dims[i] % 4] for i in NHWC)
    lowering.emit(op, attributes={"dims": dims})


def _lower_depth_to_space(lowering: "Lowering", op: Op) -> None:
    """Reorder the channels for TFLite: its cells hold (row, column, channel), torch's have the
    reverse.

    If a convolution makes them for this op alone, its kernels are reordered, which costs nothing;
    else the channels are transposed.
    """
    block, outputs = op.attributes["block"], lowering.shape(op.outputs[0])[1]
    source = op.inputs[0]
    if outputs == 1:
        lowering.emit(op)
        return
    order = np.arange(outputs * block**2).reshape(outputs, block**2).T.reshape(-1)
    maker = lowering.graph.producers.get(source)
    alone = len(lowering.graph.consumers[source]) == 1 and source not in lowering.graph.outputs
    if maker is not None and maker.kind == "conv2d" and alone:
        for place, name in enumerate(maker.inputs[1:]):
            if len([o for o in lowering.graph.consumers[name] if o is not maker]):
                break
            if place < 2:
                lowering.values[name] = np.ascontiguousarray(lowering.values[name][order])
        else:
            lowering.emit(op)
            return
    _, height, width, channels = lowering.tensors[source].shape
    pixels = lowering.shape(source)[0], height * width
    x = lowering.before(op, "reshape", (*pixels, outputs, block**2), {})
    y = lowering.activation(f"{op.name}.transpose", (*pixels, block**2, outputs))
    dims = {"dims": (0, 1, 3, 2)}
    lowering.emit(op, name=y, kind="transpose", inputs=(x,), outputs=(y,), attributes=dims)
    z = lowering.activation(f"{op.name}.back", (pixels[0], height, width, channels))
    lowering.emit(op, name=z, kind="reshape", inputs=(y,), outputs=(z,), attributes={})
    lowering.emit(op, inputs=(z,))


def _refuse(op: Op, reason: str) -> MismatchError:
    return MismatchError(f"{op.label}: {reason}")


def _concat_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dim, first = op.attributes["dim"], shapes[0]
    if not 0 <= dim < len(first):
        raise _refuse(op, f"there is no dimension {dim}")
    rest = {(len(s), s[:dim], s[dim + 1 :]) for s in shapes}
    if len(rest) > 1:
        raise _refuse(op, f"shapes {shapes} cannot be joined along dimension {dim}")
    return (*first[:dim], sum(shape[dim] for shape in shapes), *first[dim + 1 :])


def _pad_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    padding = op.attributes["padding"]
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    return tuple(n + a + b for n, (a, b) in zip(shapes[0], pairs, strict=True))


def _reshape_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    output = graph.tensors[op.outputs[0]].shape
    if math.prod(output) != math.prod(shapes[0]):
        raise _refuse(op, f"{shapes[0]} cannot become {output}")
    return output


def _transpose_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dims = op.attributes["dims"]
    if sorted(dims) != list(range(len(shapes[0]))):
        raise _refuse(op, f"{dims} is not an order of {len(shapes[0])} dimensions")
    return tuple(shapes[0][dim] for dim in dims)


def _depth_to_space_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    block = op.attributes["block"]
    batch, height, width, channels = shapes[0]
    if block < 1 or channels % block**2:
        raise _refuse(op, f"{channels} channels do not make blocks of {block}")
    return (batch, height * block, width * block, channels // block**2)


def _space_to_depth_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    block = op.attributes["block"]
    batch, height, width, channels = shapes[0]
    if block < 1 or height % block or width % block:
        raise _refuse(op, f"{height}x{width} pixels do not divide into blocks of {block}")
    return (batch, height // block, width // block, channels * block**2)


def _moves_batch(graph: Graph, op: Op) -> bool:
    return bool(op.attributes["dims"][0] != 0)


def _pads_batch(graph: Graph, op: Op) -> bool:
    rank = len(graph.tensors[op.inputs[0]].shape)
    return any(op.attributes["padding"][2 * rank - 2 :])


_RESHAPES = (
    *("view", "reshape", "flatten", "squeeze", "unsqueeze", "unflatten"),
    *("_unsafe_view", "view_as", "reshape_as"),
)

ROWS = (
    OpKind(
        name="reshape",
        aten=dict.fromkeys(_RESHAPES, _trace_reshape),
        lower=_lower_reshape,
        shape=_reshape_shape,
        mixes_samples=never,
        moves=True,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="transpose",
        aten={
            "permute": ("dims",),
            **dict.fromkeys(("transpose", "swapaxes", "swapdims", "t"), _trace_transpose),
        },
        lower=_lower_transpose,
        shape=_transpose_shape,
        mixes_samples=_moves_batch,
        moves=True,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="depth_to_space",
        aten={"pixel_shuffle": _trace_pixel_shuffle},
        lower=_lower_depth_to_space,
        shape=_depth_to_space_shape,
        mixes_samples=never,
        moves=True,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="space_to_depth",
        aten=None,
        lower=None,
        shape=_space_to_depth_shape,
        mixes_samples=never,
        absent=dict.fromkeys(("aten", "lower"), "so far only files contain it"),
        moves=True,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="concat",
        aten={"cat": _trace_concat, "stack": _trace_stack},
        lower=_lower_concat,
        shape=_concat_shape,
        mixes_samples=along_dims,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="pad",
        aten={"pad": _trace_pad, "constant_pad_nd": _trace_pad},
        lower=_lower_pad,
        shape=_pad_shape,
        mixes_samples=_pads_batch,
        plain=True,
        shares_quantization=True,
    ),
)
