"""Convolutions and fully connected layers, and the norms that are folded into them."""

import math
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.graph.ir import BIAS_DTYPE, Graph, Op
from zoo.graph.layout import NCHW, NHWC
from zoo.graph.operators.contract import OpKind, Shape, never
from zoo.graph.operators.products import trace_product
from zoo.graph.operators.signals import trace_conv1d
from zoo.graph.windows import padded, pair, positions

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_conv2d(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    weight, groups = a["weight"].meta["val"].shape, a["groups"]
    kernel, dilation = (int(weight[2]), int(weight[3])), pair(a["dilation"])
    if a["padding"] == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        top, left = total[0] // 2, total[1] // 2
        padding = (top, total[0] - top, left, total[1] - left)
    else:
        vertical, horizontal = (0, 0) if a["padding"] == "valid" else pair(a["padding"])
        padding = (vertical, vertical, horizontal, horizontal)
    depthwise = groups > 1 and groups == a["input"].meta["val"].shape[1]
    attributes = {
        "kernel": kernel,
        "stride": pair(a["stride"]),
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
    }
    operands = tracer.operands(a["input"], a["weight"], a["bias"])
    tracer.emit(node, "depthwise_conv2d" if depthwise else "conv2d", operands, attributes)


def _trace_linear(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    operands = tracer.operands(a["input"], a["weight"], a["bias"])
    tracer.emit(node, "fully_connected", operands)


def _trace_batch_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    names = [n for n in ("running_mean", "running_var", "weight", "bias") if a[n] is not None]
    stored = all(a[name].name in tracer.sources for name in names)
    if a.get("training") or names[:2] != ["running_mean", "running_var"] or not stored:
        raise tracer.unmapped(node, "aten.batch_norm without running statistics")
    attributes = {"epsilon": a["eps"], "parameters": tuple(names)}
    tracer.emit(node, "batch_norm", [a[name] for name in ("input", *names)], attributes)


def _lower_conv2d(lowering: "Lowering", op: Op) -> None:
    source, attributes = padded(lowering, op, 0.0)
    order = (1, 2, 3, 0) if op.kind == "depthwise_conv2d" else NHWC
    lowering.layer(op, source, lambda weight: weight.transpose(order), attributes=attributes)


def _lower_fully_connected(lowering: "Lowering", op: Op) -> None:
    if len(lowering.shape(op.inputs[0])) == 4:  # on the last dimension, which lies in between
        source = lowering.before(op, "transpose", lowering.shape(op.inputs[0]), {"dims": NCHW})
        made = lowering.activation(f"{op.name}.rows", lowering.shape(op.outputs[0]))
        lowering.layer(op, source, name=made, outputs=(made,))
        lowering.emit(op, kind="transpose", inputs=(made,), macs=0, attributes={"dims": NHWC})
        return
    flat = lowering.graph.producers.get(op.inputs[0])
    if flat is None or flat.kind != "reshape" or not lowering.reads_flat(flat):
        lowering.layer(op, op.inputs[0])
        return
    # The flattened image is channels last here, so the weights are reordered to match.
    _, c, h, w = lowering.shape(flat.inputs[0])

    def move(weight: NDArray[Any]) -> NDArray[Any]:
        return weight.reshape(-1, c, h, w).transpose(NHWC).reshape(len(weight), -1)

    lowering.layer(op, op.inputs[0], move)


def refuse(op: Op, reason: str) -> MismatchError:
    """Return the error that an op's operands do not fit."""
    return MismatchError(f"{op.label}: {reason}")


def check_bias(graph: Graph, op: Op, outputs: int) -> None:
    """Raise a MismatchError unless a layer's parameters are constants that fit its outputs."""
    for name in op.inputs[1:]:
        if name not in graph.values:
            raise refuse(op, f"its parameter {name!r} is not constant")
    dtype = graph.tensors[op.inputs[0]].dtype
    if dtype not in (*BIAS_DTYPE, "float32"):
        raise refuse(
            op, f"its input is {dtype}; expected float32, int8, uint8 or int16: convert the file"
        )
    if len(op.inputs) == 3:
        bias = graph.tensors[op.inputs[2]]
        wanted = BIAS_DTYPE.get(dtype, dtype)
        if bias.shape != (outputs,) or bias.dtype != wanted:
            raise refuse(
                op,
                f"its bias is {bias.dtype} {bias.shape} for {outputs} outputs; expected {wanted}",
            )
    quantization = graph.tensors[op.inputs[1]].quantization
    if quantization is not None and len(quantization.scales) not in (1, outputs):
        raise refuse(op, f"{len(quantization.scales)} scales for {outputs} output channels")


def _conv2d_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    outputs, inputs, _ = graph.kernel(op)
    channels = shapes[0][3]
    if op.kind == "depthwise_conv2d":
        fits = shapes[1][0] == 1 and outputs % channels == 0
    else:
        fits = channels % inputs == 0 and outputs % (channels // inputs) == 0
    if not fits:
        raise refuse(op, f"a kernel of shape {shapes[1]} does not fit {channels} channels")
    check_bias(graph, op, outputs)
    return (shapes[0][0], *positions(op, shapes[0]), outputs)


def _fully_connected_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    if len(shapes[1]) != 2:
        raise refuse(op, f"its weights have shape {shapes[1]}; expected 2 dimensions")
    outputs, inputs, _ = graph.kernel(op)
    elements = math.prod(shapes[0])
    if elements % inputs:
        raise refuse(op, f"{elements} values do not divide into rows of {inputs}")
    check_bias(graph, op, outputs)
    output = graph.tensors[op.outputs[0]].shape
    whole = math.prod(output) == elements // inputs * outputs and output[-1] == outputs
    return output if whole else (elements // inputs, outputs)


def _dot_products(graph: Graph, op: Op) -> int:
    """Each element of the output is a dot product with one kernel."""
    _, inputs, window = graph.kernel(op)
    return graph.tensors[op.outputs[0]].elements * inputs * window


def _joins_rows(graph: Graph, op: Op) -> bool:
    return graph.tensors[op.outputs[0]].shape[-1] != graph.kernel(op)[0]


ROWS = (
    OpKind(
        name="conv2d",
        aten={"conv2d": _trace_conv2d, "conv1d": trace_conv1d},
        lower=_lower_conv2d,
        shape=_conv2d_shape,
        mixes_samples=never,
        roles=("activation", "weight", "bias"),
        macs=_dot_products,
        fuses=True,
    ),
    OpKind(
        name="depthwise_conv2d",
        aten={"conv2d": _trace_conv2d, "conv1d": trace_conv1d},
        lower=_lower_conv2d,
        shape=_conv2d_shape,
        mixes_samples=never,
        roles=("activation", "weight", "bias"),
        macs=_dot_products,
        fuses=True,
    ),
    OpKind(
        name="fully_connected",
        aten={"linear": _trace_linear, "matmul": trace_product, "mm": trace_product},
        lower=_lower_fully_connected,
        shape=_fully_connected_shape,
        mixes_samples=_joins_rows,
        roles=("activation", "weight", "bias"),
        macs=_dot_products,
        fuses=True,
    ),
    OpKind(
        name="batch_norm",
        aten={
            "batch_norm": _trace_batch_norm,
            # What becomes of it where an operator in place is made pure, see `export_program`.
            "_native_batch_norm_legit_no_training": _trace_batch_norm,
        },
        lower=None,
        shape=None,
        mixes_samples=never,
        absent=dict.fromkeys(("lower", "shape"), "zoo.graph.fold makes it part of a layer"),
    ),
)
