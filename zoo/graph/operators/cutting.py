"""Parts of a tensor: slices with a stride, and a tensor cut into several."""

import math
from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NHWC
from zoo.graph.operators.contract import OpKind, Shape, along_dims

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer

_SPLITS = ("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
_ABSENT = {
    "aten": "so far only files contain it: each part of a module's split is traced as a slice",
    "lower": "it is not traced",
}


def slice_of(
    tracer: "Tracer", node: "fx.Node", source: "fx.Node", dim: int, part: range, *, gone: bool
) -> None:
    """Append the slice of a tensor that a node stands for; of the whole, the tensor itself.

    Args:
        tracer: collects the ops.
        node: stands for the result.
        source: what is cut.
        dim: along which.
        part: which places stay.
        gone: whether the dimension, of which one place stays, goes.

    """
    shape = [int(size) for size in source.meta["val"].shape]
    whole = part == range(shape[dim])
    if whole and not gone:
        tracer.names[node] = tracer.names[source]
        return
    slices = [(0, size, 1) for size in shape]
    slices[dim] = (part.start, part.stop, part.step)
    attributes = {"slices": tuple(slices), "squeeze": ()}
    if not gone:
        tracer.emit(node, "strided_slice", [source], attributes)
        return
    shape[dim] = 1
    cut = tracer.names[source]
    if not whole:
        cut = tracer.step(node, "slice", "strided_slice", [source], attributes, shape=tuple(shape))
    tracer.emit(node, "reshape", [cut])


def _trace_slice(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    source = a["self"]
    dim = a["dim"] % len(source.meta["val"].shape)
    size = int(source.meta["val"].shape[dim])
    part = range(*slice(a["start"], a["end"], a["step"]).indices(size))
    slice_of(tracer, node, source, dim, part, gone=False)


def _trace_narrow(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    source = a["self"]
    dim = a["dim"] % len(source.meta["val"].shape)
    start = a["start"] % int(source.meta["val"].shape[dim])
    slice_of(tracer, node, source, dim, range(start, start + a["length"]), gone=False)


def _trace_select(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    source = a["self"]
    dim = a["dim"] % len(source.meta["val"].shape)
    place = a["index"] % int(source.meta["val"].shape[dim])
    slice_of(tracer, node, source, dim, range(place, place + 1), gone=True)


def _trace_parts(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Note where each result of a split begins and ends; those that are used become slices."""
    source, results = a["self"], node.meta["val"]
    dim = a["dim"] % len(source.meta["val"].shape)
    gone = len(results[0].shape) < len(source.meta["val"].shape)  # unbind
    start, parts = 0, []
    for result in results:
        size = 1 if gone else int(result.shape[dim])
        parts.append((source, dim, range(start, start + size), gone))
        start += size
    tracer.parts[node] = parts


def _lower_slice(lowering: "Lowering", op: Op) -> None:
    slices, shape = op.attributes["slices"], lowering.tensors[op.inputs[0]].shape
    if len(slices) == 4:
        slices = tuple(slices[dim] for dim in NHWC)
    cut = [dim for dim, part in enumerate(slices) if part != (0, shape[dim], 1)]
    if len(slices) < 5 or len(cut) != 1:
        lowering.emit(op, attributes={**op.attributes, "slices": slices})
        return
    (dim,) = cut  # runtimes cut 4 dimensions at most; what lies before and after needs one each
    sides = math.prod(shape[:dim]), math.prod(shape[dim + 1 :])
    source = lowering.before(op, "reshape", (sides[0], shape[dim], sides[1]), {})
    size = len(range(*slices[dim]))
    part = lowering.activation(f"{op.name}.part", (sides[0], size, sides[1]))
    slices = ((0, sides[0], 1), slices[dim], (0, sides[1], 1))
    attributes = {**op.attributes, "slices": slices}
    lowering.emit(op, name=part, inputs=(source,), outputs=(part,), attributes=attributes)
    lowering.emit(op, kind="reshape", inputs=(part,), attributes={})


def _slice_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    slices, gone = op.attributes["slices"], op.attributes["squeeze"]
    if len(slices) != len(shapes[0]):
        raise MismatchError(f"{op.label} has {len(slices)} slices of {len(shapes[0])} dimensions")
    places = [range(*part) for part in slices]
    for part, size in zip(places, shapes[0], strict=True):
        if not part or not (0 <= part[0] < size and 0 <= part[-1] < size):
            raise MismatchError(f"{op.label}: the slice {part} is empty or outside of {size}")
    return tuple(len(part) for dim, part in enumerate(places) if dim not in gone)


def _slices_batch(graph: Graph, op: Op) -> bool:
    return op.attributes["slices"][:1] != ((0, 1, 1),) or 0 in op.attributes["squeeze"]


def _split_shape(graph: Graph, op: Op, shapes: list[Shape]) -> list[Shape]:
    (source,), dim, sizes = shapes, op.attributes["dim"], op.attributes["sizes"]
    if not 0 <= dim < len(source) or sum(sizes) != source[dim] or min(sizes) < 1:
        raise MismatchError(f"{op.label}: {source} cannot be cut into {sizes} along {dim}")
    return [(*source[:dim], size, *source[dim + 1 :]) for size in sizes]


ROWS = (
    OpKind(
        name="strided_slice",
        aten={
            "slice": _trace_slice,
            "narrow": _trace_narrow,
            "select": _trace_select,
            **dict.fromkeys(_SPLITS, _trace_parts),
        },
        lower=_lower_slice,
        shape=_slice_shape,
        mixes_samples=_slices_batch,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="split",
        aten=None,
        lower=None,
        shape=_split_shape,
        mixes_samples=along_dims,
        absent=_ABSENT,
        plain=True,
        shares_quantization=True,
    ),
)
