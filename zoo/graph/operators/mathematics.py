"""Functions and reductions of real numbers that files contain, and modules so far do not."""

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import OpKind, Shape, along_dims, never
from zoo.graph.operators.elementwise import broadcast, same_shape

_ABSENT = dict.fromkeys(("aten", "lower"), "so far only files contain it, and only in floats")
FUNCTIONS = ("neg", "exp", "log", "sqrt", "square", "floor")
REDUCTIONS = ("sum", "reduce_max", "reduce_min")


def _reduced(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dims, keep = op.attributes["dim"], op.attributes["keepdim"]
    sizes = [1 if dim in dims else size for dim, size in enumerate(shapes[0])]
    return tuple(size for dim, size in enumerate(sizes) if keep or dim not in dims)


def _tiled(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    times = op.attributes["times"]
    if len(times) != len(shapes[0]) or min(times, default=1) < 1:
        raise MismatchError(f"{op.label}: {shapes[0]} cannot be repeated {times} times")
    return tuple(size * count for size, count in zip(shapes[0], times, strict=True))


def _repeats_batch(graph: Graph, op: Op) -> bool:
    return op.attributes["times"][:1] != (1,)


ROWS = (
    *(
        OpKind(
            name=name,
            aten=None,
            lower=None,
            shape=same_shape,
            mixes_samples=never,
            absent=_ABSENT,
            elementwise=True,
            scalar=True,
        )
        for name in FUNCTIONS
    ),
    OpKind(
        name="squared_difference",
        aten=None,
        lower=None,
        shape=broadcast,
        mixes_samples=never,
        absent=_ABSENT,
        elementwise=True,
    ),
    *(
        OpKind(
            name=name,
            aten=None,
            lower=None,
            shape=_reduced,
            mixes_samples=along_dims,
            absent=_ABSENT,
        )
        for name in REDUCTIONS
    ),
    OpKind(
        name="tile",
        aten=None,
        lower=None,
        shape=_tiled,
        mixes_samples=_repeats_batch,
        absent=dict.fromkeys(("aten", "lower"), "so far only files contain it"),
        plain=True,
        shares_quantization=True,
    ),
)
