"""Operators that move elements: other shapes and orders, joins, borders."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import LAST, NCHW, NHWC, order_matters
from zoo.graph.operators.chain import JOINED, Chain
from zoo.graph.operators.contract import OpKind, Shape, along_dims, never
from zoo.graph.operators.elementwise import in_order

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_concat(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if len(a["tensors"]) <= JOINED:
        tracer.emit(node, "concat", a["tensors"], {"dim": a["dim"]})  # one tensor may come twice
    else:
        chain = Chain(tracer, node)
        chain.end(chain.join(a["tensors"], a["dim"] % len(chain.shape(node))))


def _trace_stack(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape = [int(size) for size in node.meta["val"].shape]
    dim = a["dim"] % len(shape)
    shape[dim] = 1
    parts = [
        tracer.step(node, f"part{place}", "reshape", [part], shape=tuple(shape))
        for place, part in enumerate(a["tensors"])
    ]
    chain = Chain(tracer, node)
    chain.end(chain.join(parts, dim))


def _trace_reshape(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    tracer.emit(node, "reshape", node.all_input_nodes[:1])  # `view_as` has two, and reads one


def _trace_pixel_shuffle(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    # Channel c * b * b + i * b + j is row i, column j of channel c (torch); TFLite's operator has
    # the cell's place first. They agree when there is one channel.
    tracer.emit(node, "depth_to_space", [a["self"]], {"block": a["upscale_factor"]})


def _trace_pad(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain, x, sides = Chain(tracer, node), a["self"], tuple(a["pad"])
    rank = len(chain.shape(x))
    # torch lists the last dimension first: (left, right, top, bottom, ...).
    for place in range(len(sides) // 2):  # what is negative is cut off
        dim, (before, after) = rank - 1 - place, sides[2 * place : 2 * place + 2]
        size = chain.shape(x)[dim]
        x = chain.cut(x, dim, max(0, -before), size - max(0, -after))
    sides = tuple(max(0, side) for side in sides)
    if a.get("mode", "constant") != "constant":
        chain.end(_mirrored(chain, x, sides, a["mode"]))
    elif any(sides):
        tracer.emit(node, "pad", [x], {"padding": sides, "value": a["value"] or 0})
    else:
        chain.end(x)


def _mirrored(chain: Chain, x: Any, sides: tuple[int, ...], mode: str) -> Any:
    """Append what repeats pixels beyond the border, one slice each."""
    for place in range(len(sides) // 2):
        dim, (before, after) = len(chain.shape(x)) - 1 - place, sides[2 * place : 2 * place + 2]
        size = chain.shape(x)[dim]
        places = {
            "reflect": ([*range(before, 0, -1)], [size - 2 - n for n in range(after)]),
            "replicate": ([0] * before, [size - 1] * after),
            "circular": ([*range(size - before, size)], [*range(after)]),
        }.get(mode)
        if places is None:
            raise chain.tracer.unmapped(chain.node, f"aten.pad with mode {mode!r}")
        start, end = ([chain.cut(x, dim, n, n + 1) for n in part] for part in places)
        x = chain.join([*start, x, *end], dim)
    return x


def _trace_expand(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain = Chain(tracer, node)
    chain.end(chain.expand(a["self"], chain.shape(node)))


def _trace_repeat(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain = Chain(tracer, node)
    times, old = a["repeats"] if "repeats" in a else a["dims"], chain.shape(a["self"])
    times = (1,) * (len(old) - len(times)) + tuple(times)
    x = chain.reshape(a["self"], (1,) * (len(times) - len(old)) + old)
    for dim, count in enumerate(times):
        if count > 1:
            x = chain.repeat(x, dim, count)
    chain.end(x)


def _trace_repeat_each(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if "repeats" not in a or not isinstance(a["repeats"], int) or a["dim"] is None:
        raise tracer.unmapped(node, f"{node.target} without one number and a dimension")
    chain, times = Chain(tracer, node), a["repeats"]
    shape = chain.shape(a["self"])
    dim = a["dim"] % len(shape)
    each = chain.reshape(a["self"], (*shape[: dim + 1], 1, *shape[dim + 1 :]))
    chain.end(chain.reshape(chain.repeat(each, dim + 1, times), chain.shape(node)))


def _trace_roll(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain, x = Chain(tracer, node), a["self"]
    if not a["dims"]:
        raise tracer.unmapped(node, "aten.roll without dimensions")
    for shift, dim in zip(a["shifts"], a["dims"], strict=True):
        dim %= len(chain.shape(x))
        size = chain.shape(x)[dim]
        if shift % size:
            place = size - shift % size
            x = chain.join([chain.cut(x, dim, place, size), chain.cut(x, dim, 0, place)], dim)
    chain.end(x)


def _trace_flip(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain, x = Chain(tracer, node), a["self"]
    for dim in a["dims"]:
        dim %= len(chain.shape(x))
        places = reversed(range(chain.shape(x)[dim]))
        x = chain.join([chain.cut(x, dim, place, place + 1) for place in places], dim)
    chain.end(x)


def _trace_pixel_unshuffle(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain, block = Chain(tracer, node), a["downscale_factor"]
    batch, channels, height, width = chain.shape(a["self"])
    cells = (batch, channels, height // block, block, width // block, block)
    turned = chain.permute(chain.reshape(a["self"], cells), (0, 1, 3, 5, 2, 4))
    chain.end(chain.reshape(turned, chain.shape(node)))


def _trace_channel_shuffle(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    chain, groups = Chain(tracer, node), a["groups"]
    batch, channels, *rest = shape = chain.shape(node)
    apart = chain.reshape(a["self"], (batch, groups, channels // groups, *rest))
    chain.end(chain.reshape(chain.permute(apart, [0, 2, 1, *range(3, len(rest) + 3)]), shape))


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
            "pixel_unshuffle": _trace_pixel_unshuffle,
            **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _trace_channel_shuffle),
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
        aten={
            "cat": _trace_concat,
            "stack": _trace_stack,
            **dict.fromkeys(("expand", "expand_as", "broadcast_to"), _trace_expand),
            **dict.fromkeys(("repeat", "tile"), _trace_repeat),
            "repeat_interleave": _trace_repeat_each,
            "roll": _trace_roll,
            "flip": _trace_flip,
        },
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
