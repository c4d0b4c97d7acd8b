"""Averages and maxima of windows, and means along dimensions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.contract import OpKind, Shape, Trace, along_dims, never
from zoo.graph.windows import padded, pair, positions

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_pool(kind: str) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        kernel, (vertical, horizontal) = pair(a["kernel_size"]), pair(a["padding"])
        if a["ceil_mode"] or a.get("divisor_override") is not None:
            raise tracer.unmapped(node, f"{node.target} with ceil_mode or divisor_override")
        if pair(a.get("dilation", 1)) != (1, 1):
            raise tracer.unmapped(node, f"{node.target} with dilation")
        attributes = {
            "kernel": kernel,
            "stride": pair(a["stride"]) if a["stride"] else kernel,
            "padding": (vertical, vertical, horizontal, horizontal),
            "dilation": (1, 1),
            "count_padding": bool(a.get("count_include_pad", False)),
        }
        tracer.emit(node, kind, [a["self"]], attributes)

    return trace


def _trace_adaptive(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    size, wanted = a["self"].meta["val"].shape[-2:], pair(a["output_size"])
    if any(int(have) % want for have, want in zip(size, wanted, strict=True)):
        raise tracer.unmapped(node, f"aten.adaptive_avg_pool2d from {tuple(size)} to {wanted}")
    kernel = (int(size[0]) // wanted[0], int(size[1]) // wanted[1])
    attributes: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": (0, 0, 0, 0)}
    attributes |= {"dilation": (1, 1), "count_padding": False}
    tracer.emit(node, "avg_pool2d", [a["self"]], attributes)


def _lower_pool(lowering: "Lowering", op: Op) -> None:
    if op.kind == "avg_pool2d" and any(op.attributes["padding"]):
        a = op.attributes
        if not a["count_padding"]:
            _, attributes = padded(lowering, op, 0.0)
            if attributes["padding"] != a["padding"]:
                raise MismatchError(f"{op.label}: its padding is not SAME; pad before it instead")
    source, attributes = padded(lowering, op, -np.inf if op.kind == "max_pool2d" else 0.0)
    lowering.emit(op, inputs=(source,), attributes=attributes)


def _lower_mean(lowering: "Lowering", op: Op) -> None:
    dims, keep = lowering.axes(op), bool(op.attributes["keepdim"])
    rank = len(lowering.shape(op.inputs[0]))
    if not keep and rank == 4 and set(dims) not in ({1, 2}, {1, 2, 3}):
        raise MismatchError(
            f"{op.label}: average height and width (dim=(2, 3)), or keep dimensions"
        )
    lowering.emit(op, attributes={"dim": tuple(sorted(dims)), "keepdim": keep})


def _pool_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    kernel, padding = op.attributes["kernel"], op.attributes["padding"]
    if any(p >= k for p, k in zip(padding, (kernel[0], *kernel, kernel[1]), strict=True)):
        raise MismatchError(f"{op.label}: its padding is not smaller than its window")
    return (shapes[0][0], *positions(op, shapes[0]), shapes[0][3])


def _mean_shape(graph: Graph, op: Op, shapes: list[Shape]) -> Shape:
    dims, keep = op.attributes["dim"], op.attributes["keepdim"]
    sizes = [1 if dim in dims else size for dim, size in enumerate(shapes[0])]
    return tuple(size for dim, size in enumerate(sizes) if keep or dim not in dims)


ROWS = (
    OpKind(
        name="avg_pool2d",
        aten={"avg_pool2d": _trace_pool("avg_pool2d"), "adaptive_avg_pool2d": _trace_adaptive},
        lower=_lower_pool,
        shape=_pool_shape,
        mixes_samples=never,
        fuses=True,
        shares_quantization=True,
    ),
    OpKind(
        name="max_pool2d",
        aten={"max_pool2d": _trace_pool("max_pool2d")},
        lower=_lower_pool,
        shape=_pool_shape,
        mixes_samples=never,
        shares_quantization=True,
    ),
    OpKind(
        name="mean",
        aten={"mean": ("dim", "keepdim")},
        lower=_lower_mean,
        shape=_mean_shape,
        mixes_samples=along_dims,
    ),
)
