"""Functions of single elements, and the softmax."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW, NHWC
from zoo.graph.operators.chain import Chain
from zoo.graph.operators.contract import OpKind, Shape, along_dims, never
from zoo.graph.operators.elementwise import broadcast, lower_elementwise, same_shape

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_clamp(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    low, high = a.get("min", a.get("min_val")), a.get("max", a.get("max_val"))
    if len(tracer.operands(low, high)):
        raise tracer.unmapped(node, f"{node.target} with limits that are tensors")
    kind = "clamp"
    if low == 0 and high in (None, 6):
        kind = "relu" if high is None else "relu6"
    attributes = {"min": low, "max": high} if kind == "clamp" else None
    tracer.emit(node, kind, [a["self"]], attributes)


_CLAMPS = dict.fromkeys(("clamp", "clamp_min", "clamp_max", "hardtanh"), _trace_clamp)


def _lower_clamp(lowering: "Lowering", op: Op) -> None:
    shape = lowering.tensors[op.outputs[0]].shape
    limits = {"maximum": op.attributes["min"], "minimum": op.attributes["max"]}
    source, last = op.inputs[0], [kind for kind, limit in limits.items() if limit is not None][-1]
    for kind, limit in limits.items():
        if limit is None:
            continue
        value = np.full((1,) * len(shape), limit, np.float32)
        inputs = (source, lowering.constant(f"{op.name}.{kind}.limit", value))
        source = op.outputs[0] if kind == last else lowering.activation(f"{op.name}.{kind}", shape)
        lowering.emit(op, name=source, kind=kind, inputs=inputs, outputs=(source,), attributes={})


def _lower_prelu(lowering: "Lowering", op: Op) -> None:
    slope, rank = lowering.graph.values[op.inputs[1]], len(lowering.shape(op.inputs[0]))
    shape = (*(1,) * (rank - 2), slope.size)  # without the batch
    slopes = lowering.parameter(op, 1, lambda value: value.reshape(shape))
    lowering.emit(op, inputs=(op.inputs[0], slopes))


def _lower_softmax(lowering: "Lowering", op: Op) -> None:
    """Emit it along the last dimension, to which any other is turned and back."""
    (dim,), shape = lowering.axes(op), lowering.tensors[op.inputs[0]].shape
    last, beta = len(shape) - 1, op.attributes.get("beta", 1.0)
    attributes = {"dim": last, "beta": beta}
    if dim == last:
        lowering.emit(op, attributes=attributes)
        return
    order: tuple[int, ...] = NCHW
    back: tuple[int, ...] = NHWC  # attention goes over the width of (N, heads, rows, columns)
    if len(shape) != 4 or dim != 2:
        swapped = list(range(len(shape)))
        swapped[dim], swapped[last] = last, dim
        order = back = tuple(swapped)
    turned = tuple(shape[place] for place in order)
    source = lowering.before(op, "transpose", turned, {"dims": order})
    made = lowering.activation(f"{op.name}.shares", turned)
    lowering.emit(op, name=made, inputs=(source,), outputs=(made,), attributes=attributes)
    lowering.emit(op, kind="transpose", inputs=(made,), attributes={"dims": back})


def _prelu_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    if op.inputs[1] not in graph.values:
        raise MismatchError(f"{op.label}: its slopes are not constant")
    if broadcast(graph, op, shapes) != shapes[0]:
        raise MismatchError(f"{op.label}: slopes of shape {shapes[1]} for an input of {shapes[0]}")
    return shapes[0]


def _curve(name: str, aten: str, *attributes: str) -> OpKind:
    return OpKind(
        name=name,
        aten={aten: attributes},
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
    )


def _trace_elu(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """a ELU(x) + (1 - a) ReLU(x), times a factor: files have it for a of 1."""
    alpha, factor = float(a["alpha"]), float(a.get("scale", 1.0))
    if a.get("input_scale", 1) != 1:
        raise tracer.unmapped(node, f"{node.target} with input_scale {a['input_scale']}")
    _elu(tracer, node, a["self"], alpha, factor)


def _trace_selu(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    _elu(tracer, node, a["self"], 1.6732632423543772, 1.0507009873554805)


def _trace_celu(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if a["alpha"] != 1:
        raise tracer.unmapped(node, f"aten.celu with alpha {a['alpha']}")
    tracer.emit(node, "elu", [a["self"]])


def _elu(tracer: "Tracer", node: "fx.Node", x: Any, alpha: float, factor: float) -> None:
    if (alpha, factor) == (1, 1):
        tracer.emit(node, "elu", [x])
        return
    chain = Chain(tracer, node)
    shape = chain.shape(node)
    curve = chain.scaled(chain.op("elu", [x], shape), alpha * factor)
    if alpha != 1:
        line = chain.scaled(chain.op("relu", [x], shape), (1 - alpha) * factor)
        curve = chain.op("add", [curve, line], shape)
    chain.end(curve)


ROWS = (
    OpKind(
        name="relu",
        aten={"relu": (), **_CLAMPS},
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
        fusable=True,
    ),
    OpKind(
        name="relu6",
        aten={"relu6": (), **_CLAMPS},
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
        fusable=True,
        shares_quantization=True,
    ),
    OpKind(
        name="clamp",
        aten=_CLAMPS,
        lower=_lower_clamp,
        shape=None,
        mixes_samples=never,
        absent={"shape": "it is fused into the operator before it, or a maximum and a minimum"},
        elementwise=True,
        scalar=True,
        fusable=True,
    ),
    OpKind(
        name="prelu",
        aten={"prelu": ()},
        lower=_lower_prelu,
        shape=_prelu_shape,
        mixes_samples=never,
        roles=("activation", "slope"),
        elementwise=True,
    ),
    OpKind(
        name="softmax",
        aten={"softmax": ("dim",)},
        lower=_lower_softmax,
        shape=same_shape,
        mixes_samples=along_dims,
    ),
    _curve("leaky_relu", "leaky_relu", "negative_slope"),
    _curve("hard_swish", "hardswish"),
    _curve("sigmoid", "sigmoid"),
    _curve("tanh", "tanh"),
    _curve("gelu", "gelu", "approximate"),
    OpKind(
        name="elu",
        aten={"elu": _trace_elu, "selu": _trace_selu, "celu": _trace_celu},
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
    ),
)
