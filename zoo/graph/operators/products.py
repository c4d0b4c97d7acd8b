"""Products of matrices that the network itself computes, and the attention made of them."""

from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW, NHWC
from zoo.graph.operators.contract import OpKind, Shape

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def trace_product(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read a product of matrices; one with a stored matrix is a layer."""
    first, second = a["self"], a["mat2"] if "mat2" in a else a["other"]
    shapes = [tuple(int(size) for size in part.meta["val"].shape) for part in (first, second)]
    if tracer.names[second] in tracer.sources and len(shapes[1]) == 2:
        rows, columns = shapes[1]
        weight = tracer.weight(second, (columns, rows), lambda matrix: matrix.t().contiguous())
        tracer.emit(node, "fully_connected", [first, weight])
        return
    if len(shapes[0]) < 2 or len(shapes[0]) != len(shapes[1]) or shapes[0][:-2] != shapes[1][:-2]:
        raise tracer.unmapped(node, f"{node.target} of {shapes[0]} and {shapes[1]}")
    tracer.emit(node, "batch_matmul", [first, second], {"adj_x": False, "adj_y": False})


def _trace_attention(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """softmax(scale Q K^T) V; the scale is the softmax's own factor, `beta`."""
    query, key, value = a["query"], a["key"], a["value"]
    shapes = [tuple(int(n) for n in part.meta["val"].shape) for part in (query, key, value)]
    if a["attn_mask"] is not None or a["is_causal"]:
        raise tracer.unmapped(node, "attention with a mask")
    if len({shape[:-2] for shape in shapes}) > 1 or a["dropout_p"]:
        raise tracer.unmapped(node, f"attention of {shapes} or with dropout")
    scale = a["scale"] if a["scale"] is not None else shapes[0][-1] ** -0.5
    places = (*shapes[0][:-1], shapes[1][-2])
    near = tracer.step(
        node, "scores", "batch_matmul", [query, key], {"adj_x": False, "adj_y": True}, shape=places
    )
    weights = {"dim": len(places) - 1, "beta": float(scale)}
    shares = tracer.step(node, "shares", "softmax", [near], weights, shape=places)
    tracer.emit(node, "batch_matmul", [shares, value], {"adj_x": False, "adj_y": False})


def _lower(lowering: "Lowering", op: Op) -> None:
    """Emit the product; what lies like an image is turned to (..., rows, columns) and back."""
    names = tuple(_stored(lowering, op, place) for place in range(2))
    if len(lowering.shape(op.outputs[0])) != 4:
        lowering.emit(op, inputs=names)
        return
    made = lowering.activation(f"{op.name}.product", lowering.shape(op.outputs[0]))
    lowering.emit(op, name=made, inputs=names, outputs=(made,))
    lowering.emit(op, kind="transpose", inputs=(made,), attributes={"dims": NHWC}, macs=0)


def _stored(lowering: "Lowering", op: Op, place: int) -> str:
    name, shape = op.inputs[place], lowering.shape(op.inputs[place])
    if lowering.graph.tensors[name].is_parameter:
        return lowering.parameter(op, place)
    if len(shape) != 4:
        return name
    turned = lowering.activation(f"{op.name}.operand{place}", shape)
    lowering.emit(
        op, name=turned, kind="transpose", inputs=(name,), outputs=(turned,),
        attributes={"dims": NCHW}, macs=0,
    )  # fmt: skip
    return turned


def _matrix(shape: Shape, turned: bool) -> tuple[int, int]:
    rows, columns = shape[-2:]
    return (columns, rows) if turned else (rows, columns)


def _shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    if min(map(len, shapes)) < 2 or shapes[0][:-2] != shapes[1][:-2]:
        raise MismatchError(f"{op.label}: matrices of shapes {shapes} do not go together")
    rows, depth = _matrix(shapes[0], op.attributes["adj_x"])
    same, columns = _matrix(shapes[1], op.attributes["adj_y"])
    if depth != same:
        raise MismatchError(f"{op.label}: {shapes[0]} has {depth} values a row, the other {same}")
    return (*shapes[0][:-2], rows, columns)


def _mixes_rows(graph: Graph, op: Op) -> bool:
    return len(graph.tensors[op.inputs[0]].shape) < 3


def _dot_products(graph: Graph, op: Op) -> int:
    _, depth = _matrix(graph.tensors[op.inputs[0]].shape, op.attributes["adj_x"])
    return graph.tensors[op.outputs[0]].elements * depth


ROWS = (
    OpKind(
        name="batch_matmul",
        aten={
            **dict.fromkeys(("matmul", "mm", "bmm"), trace_product),
            "scaled_dot_product_attention": _trace_attention,
        },
        lower=_lower,
        shape=_shape,
        mixes_samples=_mixes_rows,
        macs=_dot_products,
    ),
)
