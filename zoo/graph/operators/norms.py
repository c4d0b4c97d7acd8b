"""Norms over what a sample itself holds: of layers, groups and instances.

y = (x - mean) / sqrt(variance + epsilon) * gamma + beta becomes eight operators, as in files that
TensorFlow's converter makes: MEAN, SUB, MUL, MEAN, ADD, RSQRT, MUL and, for gamma and beta, MUL and
ADD. No file has one operator for it. In int8 the variance has 8 bits: where it differs much from
token to token, the small ones are coarse.
"""

import math
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import OpKind, never
from zoo.graph.operators.elementwise import lower_elementwise, same_shape

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer

Shape = tuple[int, ...]


def _factors(
    tracer: "Tracer", node: "fx.Node", source: Any, shape: Shape, dims: Shape, epsilon: float
) -> list[str]:
    """Append what leads to the last product; return x - mean and 1 / sqrt(variance + epsilon)."""
    one = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    along = {"dim": dims, "keepdim": True}
    mean = tracer.step(node, "mean", "mean", [source], along, shape=one)
    centred = tracer.step(node, "centred", "sub", [source, mean], shape=shape)
    squares = tracer.step(node, "squares", "mul", [centred, centred], shape=shape)
    variance = tracer.step(node, "variance", "mean", [squares], along, shape=one)
    above = tracer.step(node, "above", "add", [variance], {"constant": epsilon}, shape=one)
    return [centred, tracer.step(node, "factor", "rsqrt", [above], shape=one)]


def _scaled(
    tracer: "Tracer", node: "fx.Node", factors: list[str], gamma: Any, beta: Any, shape: Shape
) -> None:
    """Append the products and the sum that end with `node`; of one factor, nothing is a product."""
    steps = [("mul", factors), ("mul", [gamma]), ("add", [beta])]
    steps = [(kind, operands) for kind, operands in steps if operands[0] is not None]
    made: list[Any] = []
    if len(factors) == 1:
        made, steps = factors, steps[1:]
    for place, (kind, operands) in enumerate(steps):
        if place == len(steps) - 1:
            tracer.emit(node, kind, made + operands)
        else:
            made = [tracer.step(node, f"normed{place}", kind, made + operands, shape=shape)]


def _sizes(node: "fx.Node") -> Shape:
    return tuple(int(size) for size in node.meta["val"].shape)


def _trace_layer_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape = _sizes(a["input"])
    dims = tuple(range(len(shape) - len(a["normalized_shape"]), len(shape)))
    factors = _factors(tracer, node, a["input"], shape, dims, a["eps"])
    _scaled(tracer, node, factors, a["weight"], a["bias"], shape)


def _trace_rms_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape, epsilon = _sizes(a["input"]), a["eps"]
    dims = tuple(range(len(shape) - len(a["normalized_shape"]), len(shape)))
    one = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
    squares = tracer.step(node, "squares", "mul", [a["input"], a["input"]], shape=shape)
    along = {"dim": dims, "keepdim": True}
    mean = tracer.step(node, "mean", "mean", [squares], along, shape=one)
    least = 2.0**-23 if epsilon is None else epsilon  # of float32
    above = tracer.step(node, "above", "add", [mean], {"constant": least}, shape=one)
    factor = tracer.step(node, "factor", "rsqrt", [above], shape=one)
    _scaled(tracer, node, [a["input"], factor], a["weight"], None, shape)


def _trace_group_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    shape, groups = _sizes(a["input"]), a["num_groups"]
    _normed_groups(tracer, node, a, shape, groups)


def _trace_instance_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if not a["use_input_stats"]:
        raise tracer.unmapped(node, "aten.instance_norm with running statistics")
    shape = _sizes(a["input"])
    _normed_groups(tracer, node, a, shape, shape[1])


def _normed_groups(
    tracer: "Tracer", node: "fx.Node", a: dict[str, Any], shape: Shape, groups: int
) -> None:
    batch, channels, *rest = shape
    around = (channels, *[1] * len(rest))
    gamma, beta = (
        None
        if a[key] is None
        else tracer.weight(a[key], around, lambda v: v.reshape(around), "constant")
        for key in ("weight", "bias")
    )
    if groups in (1, channels):  # all of a sample, or of a channel: nothing moves
        dims = tuple(range(1 if groups == 1 else 2, len(shape)))
        factors = _factors(tracer, node, a["input"], shape, dims, a["eps"])
        _scaled(tracer, node, factors, gamma, beta, shape)
        return
    rows = (batch, groups, channels // groups * math.prod(rest))
    apart = tracer.step(node, "groups", "reshape", [a["input"]], shape=rows)
    factors = _factors(tracer, node, apart, rows, (2,), a["eps"])
    normed = tracer.step(node, "normed", "mul", factors, shape=rows)
    if gamma is None:
        tracer.emit(node, "reshape", [normed])
        return
    whole = tracer.step(node, "whole", "reshape", [normed], shape=shape)
    _scaled(tracer, node, [whole], gamma, beta, shape)


ROWS = (
    OpKind(
        name="rsqrt",
        aten={
            "rsqrt": (),
            "layer_norm": _trace_layer_norm,
            "rms_norm": _trace_rms_norm,
            "group_norm": _trace_group_norm,
            "instance_norm": _trace_instance_norm,
        },
        lower=lower_elementwise,
        shape=same_shape,
        mixes_samples=never,
        elementwise=True,
        scalar=True,
    ),
)
