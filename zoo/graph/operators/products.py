"""Products of matrices that the network itself computes, and the attention made of them."""

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW, NHWC
from zoo.graph.operators.chain import Chain
from zoo.graph.operators.contract import OpKind, Shape
from zoo.graph.operators.einsum import trace_einsum
from zoo.graph.operators.masks import NEVER

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def trace_product(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read a product of matrices or vectors; one with a stored matrix is a layer."""
    first, second = a["self"], a["mat2"] if "mat2" in a else a["vec"] if "vec" in a else a["other"]
    chain = Chain(tracer, node)
    shapes = [chain.shape(part) for part in (first, second)]
    if not chain.stored(first) and chain.stored(second) and len(shapes[1]) == 2:
        rows, columns = shapes[1]
        weight = tracer.weight(second, (columns, rows), lambda m: m.t(), form="t")
        tracer.emit(node, "fully_connected", [first, weight])
        return
    if min(map(len, shapes)) > 1 and shapes[0][:-2] == shapes[1][:-2]:
        tracer.emit(node, "batch_matmul", [first, second], {"adj_x": False, "adj_y": False})
        return
    if len(shapes[0]) == 1:
        first = chain.reshape(first, (1, *shapes[0]))
    if len(shapes[1]) == 1:
        second = chain.reshape(second, (*shapes[1], 1))
    chain.end(chain.reshape(chain.matmul(first, second), chain.shape(node)))


def _trace_sum(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """beta x + alpha y z, for a matrix or each of a batch."""
    chain = Chain(tracer, node)
    first, second = (a[key] for key in (("mat1", "mat2") if "mat1" in a else ("batch1", "batch2")))
    product = chain.scaled(chain.matmul(first, second), a["alpha"])
    if chain.stored(a["self"]) and a["beta"] != 1:
        raise tracer.unmapped(node, f"{node.target} with beta {a['beta']}")
    tracer.emit(node, "add", [product, chain.scaled(a["self"], a["beta"])])


def _trace_attention(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """softmax(scale Q K^T + mask) V; the scale is the softmax's own factor, `beta`."""
    query, key, value = a["query"], a["key"], a["value"]
    chain = Chain(tracer, node)
    if a["dropout_p"]:
        raise tracer.unmapped(node, "attention with dropout")
    shape = chain.shape(query)
    scale = float(a["scale"]) if a["scale"] is not None else shape[-1] ** -0.5
    heads = shape[-3] // chain.shape(key)[-3] if a.get("enable_gqa") else 1
    if heads > 1:
        key, value = (_for_each_head(chain, x, heads) for x in (key, value))
    scores = chain.product(query, chain.swap(key))
    places = chain.shape(scores)
    if (mask := _mask(chain, a, places[-2:], scale)) is not None:
        scores = chain.op("add", [scores, mask], places)
    weights = {"dim": len(places) - 1, "beta": scale}
    chain.end(chain.product(chain.op("softmax", [scores], places, weights), value))


def _for_each_head(chain: Chain, x: Any, heads: int) -> Any:
    """Repeat each head of keys or values for the heads of queries that share it."""
    *batch, groups, count, width = chain.shape(x)
    apart = chain.reshape(x, (*batch, groups, 1, count, width))
    return chain.reshape(
        chain.repeat(apart, len(batch) + 1, heads), (*batch, groups * heads, count, width)
    )


def _mask(chain: Chain, a: dict[str, Any], places: Shape, scale: float) -> Any:
    """Return what is added to scores before they are scaled; None without a mask."""

    import torch

    mask = a["attn_mask"]
    if a["is_causal"]:
        later = torch.triu(torch.full(places, NEVER / scale), diagonal=1)
        name = f"{chain.node.name}.causal"
        return chain.tracer.made(name, tuple(places), later.clone, "constant")
    if mask is None:
        return None
    if not chain.stored(mask):
        boolean = mask.meta["val"].dtype == torch.bool
        if boolean:
            raise chain.tracer.unmapped(
                chain.node, "attention with a mask that is computed of the input"
            )
        return chain.op("mul", [mask], chain.shape(mask), {"constant": 1 / scale})
    return chain.tracer.weight(
        mask,
        chain.shape(mask),
        lambda m: (
            (torch.zeros(m.shape).masked_fill(~m, NEVER) if m.dtype == torch.bool else m)
            .clamp(min=NEVER)
            .div(scale)
        ),
        "constant",
        f"over{scale}",
    )


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
    # Files may repeat the matrices of one side for those of the other.
    batches = list(zip_longest(shapes[0][-3::-1], shapes[1][-3::-1], fillvalue=1))
    if min(map(len, shapes)) < 2 or any(x != y and 1 not in (x, y) for x, y in batches):
        raise MismatchError(f"{op.label}: matrices of shapes {shapes} do not go together")
    rows, depth = _matrix(shapes[0], op.attributes["adj_x"])
    same, columns = _matrix(shapes[1], op.attributes["adj_y"])
    if depth != same:
        raise MismatchError(f"{op.label}: {shapes[0]} has {depth} values a row, the other {same}")
    return (*(max(pair) for pair in batches[::-1]), rows, columns)


def _mixes_rows(graph: Graph, op: Op) -> bool:
    return min(len(graph.tensors[name].shape) for name in op.inputs) < 3


def _dot_products(graph: Graph, op: Op) -> int:
    _, depth = _matrix(graph.tensors[op.inputs[0]].shape, op.attributes["adj_x"])
    return graph.tensors[op.outputs[0]].elements * depth


ROWS = (
    OpKind(
        name="batch_matmul",
        aten={
            **dict.fromkeys(("matmul", "mm", "bmm", "mv"), trace_product),
            "einsum": trace_einsum,
            **dict.fromkeys(("addmm", "baddbmm"), _trace_sum),
            "scaled_dot_product_attention": _trace_attention,
        },
        lower=_lower,
        shape=_shape,
        mixes_samples=_mixes_rows,
        macs=_dot_products,
    ),
)
