"""Transposed convolutions: each pixel spreads over a window of a larger picture."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NHWC
from zoo.graph.operators.contract import OpKind, Shape, never
from zoo.graph.operators.layers import check_bias, refuse
from zoo.graph.operators.signals import emit_signal, image_of
from zoo.graph.windows import pair, positions, same_padding

if TYPE_CHECKING:
    import torch
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _dense(weight: "torch.Tensor", groups: int) -> "torch.Tensor":
    """Return (O, I, kH, kW) of torch's (I, O / groups, kH, kW): zeros between groups.

    No file has groups in a transposed convolution, so devices multiply with those zeros.
    """
    weight = weight.unsqueeze(2) if weight.ndim == 3 else weight
    blocks = [block.transpose(0, 1) for block in weight.chunk(groups)]
    outputs, inputs, *window = blocks[0].shape
    dense = weight.new_zeros(groups * outputs, groups * inputs, *window)
    for place, block in enumerate(blocks):
        rows = slice(place * outputs, (place + 1) * outputs)
        dense[rows, place * inputs : (place + 1) * inputs] = block
    return dense


def _trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    inputs, per_group, *window = (int(size) for size in a["weight"].meta["val"].shape)
    signal = len(window) == 1

    def sizes(key: str, along: int) -> tuple[int, int]:
        """Return an argument for height and width; a signal has a height of 1."""
        high, wide = pair(a[key])
        return (along, wide) if signal else (high, wide)

    if sizes("dilation", 1) != (1, 1):
        raise tracer.unmapped(node, f"{node.target} with dilation {a['dilation']}")
    kernel: tuple[int, int] = (1, window[0]) if signal else (window[0], window[1])
    (top, left), (more, wider) = sizes("padding", 0), sizes("output_padding", 0)
    out = [int(size) for size in node.meta["val"].shape]
    attributes = {
        "kernel": kernel,
        "stride": sizes("stride", 1),
        "padding": (top, top - more, left, left - wider),  # cut off from the whole of all windows
        "size": (1 if signal else out[2], out[-1]),
    }
    shape = (a["groups"] * per_group, inputs, *kernel)
    weight = tracer.weight(a["weight"], shape, partial(_dense, groups=a["groups"]), form="dense")
    others: list[Any] = [weight, *tracer.operands(a["bias"])]
    if signal:
        operands = [image_of(tracer, node, a["input"]), *others]
        emit_signal(tracer, node, "transpose_conv2d", operands, attributes)
    else:
        tracer.emit(node, "transpose_conv2d", [a["input"], *others], attributes)


def _lower(lowering: "Lowering", op: Op) -> None:
    """Emit the layer with TFLite's SAME if that is its padding, else all of it, and cut."""
    a, (batch, height, width, _) = op.attributes, lowering.tensors[op.inputs[0]].shape
    padding, size = a["padding"], a["size"]
    fits = tuple(-(-n // s) for n, s in zip(size, a["stride"], strict=True)) == (height, width)
    same = same_padding(size, a["kernel"], a["stride"], (1, 1))
    if fits and padding == same:
        lowering.layer(op, op.inputs[0], lambda weight: weight.transpose(NHWC))
        return
    cut = [(max(0, side), max(0, -side)) for side in padding]
    whole = tuple(
        (n - 1) * s + k + more
        for n, s, k, (_, more) in zip(
            (height, width), a["stride"], a["kernel"], (cut[1], cut[3]), strict=True
        )
    )
    attributes = {**a, "padding": (0, 0, 0, 0), "size": whole}
    changes: dict[str, Any] = {"attributes": attributes}
    if whole != size:
        outputs, _, _ = lowering.graph.kernel(op)
        name = lowering.activation(f"{op.name}.whole", (batch, *whole, outputs))
        changes |= {"name": name, "outputs": (name,)}
    lowering.layer(op, op.inputs[0], lambda weight: weight.transpose(NHWC), **changes)
    if whole == size:
        return
    (top, _), _, (left, _), _ = cut
    rows, columns = (top, top + size[0], 1), (left, left + size[1], 1)
    slices = {"slices": ((0, batch, 1), rows, columns, (0, outputs, 1)), "squeeze": ()}
    lowering.emit(op, kind="strided_slice", inputs=(name,), macs=0, attributes=slices)


def _shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    """Return the shape that the op itself names: strides leave several that fit."""
    outputs, inputs, _ = graph.kernel(op)
    a, (batch, height, width, channels) = op.attributes, shapes[0]
    if len(shapes[1]) != 4 or inputs != channels or len(a["size"]) != 2:
        raise refuse(op, f"a kernel of shape {shapes[1]} does not fit {channels} channels")
    check_bias(graph, op, outputs)
    window = {"kernel": a["kernel"], "stride": a["stride"], "dilation": (1, 1)}
    forward = replace(op, attributes={**window, "padding": a["padding"]})
    if min(a["size"]) < 1 or positions(forward, (batch, *a["size"], outputs)) != (height, width):
        raise refuse(op, f"{height}x{width} do not come from {a['size']} by its stride")
    return (batch, *a["size"], outputs)


def _spread_products(graph: Graph, op: Op) -> int:
    """Each element of the input is multiplied with one weight per output channel and place."""
    outputs, _, window = graph.kernel(op)
    return graph.tensors[op.inputs[0]].elements * outputs * window


ROWS = (
    OpKind(
        name="transpose_conv2d",
        aten={"conv_transpose2d": _trace, "conv_transpose1d": _trace},
        lower=_lower,
        shape=_shape,
        mixes_samples=never,
        roles=("activation", "weight", "bias"),
        macs=_spread_products,
        fuses=True,
    ),
)
