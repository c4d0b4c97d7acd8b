"""Parts of a tensor: slices with a stride, and a tensor cut into several."""

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import OpKind, Shape, along_dims

_ABSENT = {
    "aten": "so far only files contain it",
    "lower": "it is not traced",
}


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
        aten=None,
        lower=None,
        shape=_slice_shape,
        mixes_samples=_slices_batch,
        absent=_ABSENT,
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
