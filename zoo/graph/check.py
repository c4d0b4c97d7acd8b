"""Whether a channels-last graph is consistent: order, operands, shapes. Run on every file read."""

from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import SHAPES


def check(graph: Graph) -> None:
    """Raise unless every op reads existing tensors and has the output shape its attributes imply.

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
        _check_shape(graph, op)
    for name in graph.outputs:
        if name not in known:
            raise UnsafeFileError(f"output {name!r} is made by no operator")


def _check_shape(graph: Graph, op: Op) -> None:
    shapes = [graph.tensors[name].shape for name in op.inputs]
    shape = graph.tensors[op.outputs[0]].shape
    if all(name in graph.values for name in op.inputs):
        raise MismatchError(f"{op.label} computes a constant; fold it before writing the file")
    try:
        expected = SHAPES.of(op)(graph, op, shapes)
    except MismatchError:  # a ValueError, too
        raise
    except (IndexError, ValueError) as error:
        raise MismatchError(f"{op.label} has operands of impossible rank: {shapes}") from error
    if expected != shape:
        raise MismatchError(f"{op.label} gives shape {shape}; its operands imply {expected}")
