"""Whether a channels-last graph is consistent: order, operands, shapes. Run on every file read."""

from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op, State
from zoo.graph.kinds import SHAPES


def check(graph: Graph) -> None:
    """Raise unless every op reads existing tensors and has the output shape its attributes imply.

    Raises:
        UnsafeFileError: a tensor is used before it is made, is made twice or is missing.
        MismatchError: operands or shapes do not fit an operator; it is named.

    """
    given = [*graph.inputs, *(state.name for state in graph.states)]
    known = {*given, *graph.values}
    if len(given) != len(set(given)) or set(given) & set(graph.values):
        raise UnsafeFileError("an input of the graph is named twice or is also a constant")
    for op in graph.ops:
        for name in op.inputs:
            if name not in known:
                raise UnsafeFileError(f"{op.label} reads {name!r} before anything has made it")
        for name in op.outputs:
            if name in known:
                raise UnsafeFileError(f"{op.label} writes {name!r}, which exists already")
            known.add(name)
        _check_shape(graph, op)
    for name in (*graph.outputs, *(state.next for state in graph.states)):
        if name not in known:
            raise UnsafeFileError(f"output {name!r} is made by no operator")
    for state in graph.states:
        _check_state(graph, state)


def _check_state(graph: Graph, state: State) -> None:
    before, after = graph.tensors[state.name], graph.tensors[state.next]
    if (before.shape, before.dtype) != (after.shape, after.dtype):
        raise MismatchError(
            f"the state {state.name!r} is {before.dtype} {before.shape}, and {state.next!r}, which "
            f"follows it, {after.dtype} {after.shape}"
        )


def _check_shape(graph: Graph, op: Op) -> None:
    shapes = [graph.tensors[name].shape for name in op.inputs]
    made = [graph.tensors[name].shape for name in op.outputs]
    if all(name in graph.values for name in op.inputs):
        raise MismatchError(f"{op.label} computes a constant; fold it before writing the file")
    try:
        expected = SHAPES.of(op)(graph, op, shapes)
    except MismatchError:  # a ValueError, too
        raise
    except (IndexError, ValueError) as error:
        raise MismatchError(f"{op.label} has operands of impossible rank: {shapes}") from error
    implied = expected if isinstance(expected, list) else [expected]
    if len(implied) != len(made):
        raise UnsafeFileError(f"{op.label} has {len(made)} outputs; expected {len(implied)}")
    for shape, wanted in zip(made, implied, strict=True):
        if shape != wanted:
            raise MismatchError(f"{op.label} gives shape {shape}; its operands imply {wanted}")
