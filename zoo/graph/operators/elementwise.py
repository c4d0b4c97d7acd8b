"""What arithmetic and activations share: their lowering, and the shapes of their outputs."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NHWC
from zoo.graph.operators.contract import Shape

if TYPE_CHECKING:
    from zoo.graph.lower import Lowering


def in_order(value: NDArray[Any]) -> NDArray[Any]:
    """Return a parameter as its channels-last operator has it."""
    return value.transpose(NHWC) if value.ndim == 4 else value


def lower_elementwise(lowering: "Lowering", op: Op) -> None:
    """Emit an op as it is, with parameters of the output's rank and a scalar as a constant."""
    rank = len(lowering.shape(op.outputs[0]))
    names = []

    def move(value: NDArray[Any]) -> NDArray[Any]:
        return in_order(value.reshape((1,) * (rank - value.ndim) + value.shape))

    for place, name in enumerate(op.inputs):
        parameter = lowering.graph.tensors[name].is_parameter
        names.append(lowering.parameter(op, place, move) if parameter else name)
    attributes = dict(op.attributes)
    if "constant" in attributes:
        value = np.full((1,) * rank, attributes.pop("constant"), np.float32)
        names.append(lowering.constant(f"{op.name}.constant", value))
    lowering.emit(op, inputs=tuple(names), attributes=attributes)


def broadcast(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    """Return the shape that operands of these shapes broadcast to."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    sizes = []
    for column in zip(*padded, strict=True):
        if len(set(column) - {1}) > 1:
            raise MismatchError(f"{op.label}: shapes {shapes} do not broadcast")
        sizes.append(max(column))
    return tuple(sizes)


def same_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    """Return the shape of the first operand."""
    return shapes[0]
