"""Averages and maxima of windows, and means along dimensions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.operators.chain import Chain
from zoo.graph.operators.contract import OpKind, Shape, Trace, along_dims, never
from zoo.graph.operators.signals import trace_adaptive1d, trace_pool1d
from zoo.graph.operators.statistics import (
    trace_deviation,
    trace_mean,
    trace_norm,
    trace_sum,
    trace_variance,
)
from zoo.graph.windows import padded, pair, positions

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace_pool(kind: str) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        kernel, (vertical, horizontal) = pair(a["kernel_size"]), pair(a["padding"])
        stride = pair(a["stride"]) if a["stride"] else kernel
        if a.get("divisor_override") is not None:
            raise tracer.unmapped(node, f"{node.target} with divisor_override")
        padding = (vertical, vertical, horizontal, horizontal)
        if a["ceil_mode"]:
            padding = _reaching(tracer, node, kernel, stride, (vertical, horizontal))
            if padding != (vertical, vertical, horizontal, horizontal) and a.get(
                "count_include_pad"
            ):
                # torch counts what `padding` adds, and not what the last window adds.
                if vertical or horizontal:
                    raise tracer.unmapped(node, f"{node.target} with ceil_mode and counted padding")
                a = {**a, "count_include_pad": False}
        if pair(a.get("dilation", 1)) != (1, 1):
            raise tracer.unmapped(node, f"{node.target} with dilation")
        attributes = {
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
            "dilation": (1, 1),
            "count_padding": bool(a.get("count_include_pad", False)),
        }
        tracer.emit(node, kind, [a["self"]], attributes)

    return trace


def _reaching(
    tracer: "Tracer",
    node: "fx.Node",
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Return a padding with which the last window of `ceil_mode` is whole, or ends too early."""
    before, value = node.all_input_nodes[0].meta["val"].shape[-2:], node.meta["val"]
    after = (value[0] if isinstance(value, tuple) else value).shape[-2:]
    ends = [
        max(p, (int(made) - 1) * s + k - int(size) - p)
        for made, size, k, s, p in zip(after, before, kernel, stride, padding, strict=True)
    ]
    return (padding[0], ends[0], padding[1], ends[1])


def _trace_extreme(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape = a["self"].meta["val"].shape
    several = [a["dim"]] if isinstance(a["dim"], int) else a["dim"]
    dims = {dim % len(shape) for dim in several}
    if 0 in dims or not dims:
        raise tracer.unmapped(node, f"{node.target} along {a['dim']} of {tuple(shape)}")
    if len(shape) != 4 or dims != {2, 3}:
        chain = Chain(tracer, node)
        chain.end(chain.extreme(a["self"], sorted(dims), keepdim=a["keepdim"]))
        return
    size = (int(shape[2]), int(shape[3]))
    attributes = _window(size)
    if a["keepdim"]:
        tracer.emit(node, "max_pool2d", [a["self"]], attributes)
        return
    pooled = (int(shape[0]), int(shape[1]), 1, 1)
    most = tracer.step(node, "pooled", "max_pool2d", [a["self"]], attributes, shape=pooled)
    tracer.emit(node, "reshape", [most])


def _trace_max(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if "other" in a:
        tracer.emit(node, "maximum", [a["self"], a["other"]])
    elif "dim" in a:
        _trace_extreme(tracer, node, a)
    else:
        raise tracer.unmapped(node, f"{node.target} of a whole batch")


def _window(size: tuple[int, int]) -> dict[str, Any]:
    attributes: dict[str, Any] = {"kernel": size, "stride": size, "padding": (0, 0, 0, 0)}
    return attributes | {"dilation": (1, 1), "count_padding": False}


def _trace_adaptive(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    size, wanted = a["self"].meta["val"].shape[-2:], pair(a["output_size"])
    if any(int(have) % want for have, want in zip(size, wanted, strict=True)):
        raise tracer.unmapped(node, f"{node.target} from {tuple(size)} to {wanted}")
    kernel = (int(size[0]) // wanted[0], int(size[1]) // wanted[1])
    kind = "max_pool2d" if "max" in str(node.target) else "avg_pool2d"
    tracer.emit(node, kind, [a["self"]], _window(kernel))


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
        aten={
            "avg_pool2d": _trace_pool("avg_pool2d"),
            "adaptive_avg_pool2d": _trace_adaptive,
            "avg_pool1d": trace_pool1d("avg_pool2d"),
            "adaptive_avg_pool1d": trace_adaptive1d("avg_pool2d"),
        },
        lower=_lower_pool,
        shape=_pool_shape,
        mixes_samples=never,
        fuses=True,
        shares_quantization=True,
    ),
    OpKind(
        name="max_pool2d",
        aten={
            "max_pool2d": _trace_pool("max_pool2d"),
            "adaptive_max_pool2d": _trace_adaptive,
            "amax": _trace_extreme,
            "max": _trace_max,
            "max_pool1d": trace_pool1d("max_pool2d"),
            "adaptive_max_pool1d": trace_adaptive1d("max_pool2d"),
        },
        lower=_lower_pool,
        shape=_pool_shape,
        mixes_samples=never,
        shares_quantization=True,
    ),
    OpKind(
        name="mean",
        aten={
            "mean": trace_mean,
            "sum": trace_sum,
            "var": trace_variance,
            "std": trace_deviation,
            "linalg_vector_norm": trace_norm,
            "norm": trace_norm,
        },
        lower=_lower_mean,
        shape=_mean_shape,
        mixes_samples=along_dims,
    ),
)
