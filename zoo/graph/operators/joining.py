"""Tensors stacked along a new dimension and taken apart again; places of extremes."""

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import OpKind, Shape, along_dims

_ABSENT = {
    "aten": "so far only files contain it: unsqueeze and torch.cat do the same in a module",
    "lower": "it is not traced",
}
_EXTREMES = {
    "aten": "so far only files contain it: a module returns its scores",
    "lower": "it is not traced",
}


def _check_dim(op: Op, rank: int) -> int:
    dim: int = op.attributes["dim"]
    if not 0 <= dim < rank:
        raise MismatchError(f"{op.label}: there is no dimension {dim}")
    return dim


def _pack_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    first = shapes[0]
    dim = _check_dim(op, len(first) + 1)
    if len(set(shapes)) > 1:
        raise MismatchError(f"{op.label}: shapes {shapes} cannot be stacked")
    return (*first[:dim], len(shapes), *first[dim:])


def _unpack_shape(graph: Graph, op: Op, shapes: list[Shape]) -> list[Shape]:
    (source,) = shapes
    dim = _check_dim(op, len(source))
    return [source[:dim] + source[dim + 1 :]] * source[dim]


def _extreme_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dim = _check_dim(op, len(shapes[0]))
    return shapes[0][:dim] + shapes[0][dim + 1 :]


ROWS = (
    OpKind(
        name="pack",
        aten=None,
        lower=None,
        shape=_pack_shape,
        mixes_samples=along_dims,
        absent=_ABSENT,
        plain=True,
        shares_quantization=True,
    ),
    OpKind(
        name="unpack",
        aten=None,
        lower=None,
        shape=_unpack_shape,
        mixes_samples=along_dims,
        absent=_ABSENT,
        plain=True,
        shares_quantization=True,
    ),
    *(
        OpKind(
            name=name,
            aten=None,
            lower=None,
            shape=_extreme_shape,
            mixes_samples=along_dims,
            absent=_EXTREMES,
            plain=True,
        )
        for name in ("arg_max", "arg_min")
    ),
)
