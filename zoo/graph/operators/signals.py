"""Layers of signals (N, C, L), read as those of images (N, C, 1, L): devices have no others."""

from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import Trace

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer


def _number(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def image_of(tracer: "Tracer", node: "fx.Node", source: "fx.Node") -> str:
    """Append the reshape of a signal to an image of one row; return its output."""
    *batch, channels, length = (int(size) for size in source.meta["val"].shape)
    if len(batch) != 1:
        raise tracer.unmapped(node, f"{node.target} without a batch")
    shape = (*batch, channels, 1, length)
    return tracer.step(node, "image", "reshape", [source], shape=shape)


def emit_signal(
    tracer: "Tracer", node: "fx.Node", kind: str, operands: list[Any], attributes: dict[str, Any]
) -> None:
    """Append a layer of such an image, and the reshape of its result to the signal of `node`."""
    value = node.meta["val"]
    batch, channels, length = (value[0] if isinstance(value, tuple) else value).shape
    shape = (int(batch), int(channels), 1, int(length))
    made = tracer.step(node, kind, kind, operands, attributes, shape=shape)
    tracer.emit(node, "reshape", [made])


def trace_conv1d(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.conv1d."""
    outputs, inputs, window = (int(size) for size in a["weight"].meta["val"].shape)
    dilation, groups = _number(a["dilation"]), a["groups"]
    if a["padding"] == "same":
        total = dilation * (window - 1)
        sides = (total // 2, total - total // 2)
    else:
        sides = (0 if a["padding"] == "valid" else _number(a["padding"]),) * 2
    attributes = {
        "kernel": (1, window),
        "stride": (1, _number(a["stride"])),
        "padding": (0, 0, *sides),
        "dilation": (1, dilation),
        "groups": groups,
    }
    weight = tracer.weight(a["weight"], (outputs, inputs, 1, window), lambda w: w.unsqueeze(2))
    operands = [image_of(tracer, node, a["input"]), weight, *tracer.operands(a["bias"])]
    depthwise = groups > 1 and groups == a["input"].meta["val"].shape[1]
    emit_signal(tracer, node, "depthwise_conv2d" if depthwise else "conv2d", operands, attributes)


def trace_pool1d(kind: str) -> Trace:
    """Return the reader of a pool with a window of fixed size."""

    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        window, side = _number(a["kernel_size"]), _number(a["padding"])
        if a["ceil_mode"] or _number(a.get("dilation", 1)) != 1:
            raise tracer.unmapped(node, f"{node.target} with ceil_mode or dilation")
        attributes = {
            "kernel": (1, window),
            "stride": (1, _number(a["stride"]) if a["stride"] else window),
            "padding": (0, 0, side, side),
            "dilation": (1, 1),
            "count_padding": bool(a.get("count_include_pad", False)),
        }
        emit_signal(tracer, node, kind, [image_of(tracer, node, a["self"])], attributes)

    return trace


def trace_adaptive1d(kind: str) -> Trace:
    """Return the reader of a pool to a fixed number of windows."""

    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        length, wanted = int(a["self"].meta["val"].shape[-1]), _number(a["output_size"])
        if length % wanted:
            raise tracer.unmapped(node, f"{node.target} from {length} to {wanted}")
        window = (1, length // wanted)
        attributes: dict[str, Any] = {"kernel": window, "stride": window, "padding": (0, 0, 0, 0)}
        attributes |= {"dilation": (1, 1), "count_padding": False}
        emit_signal(tracer, node, kind, [image_of(tracer, node, a["self"])], attributes)

    return trace
