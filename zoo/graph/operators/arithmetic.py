"""Sums, products and extremes of two operands, one of which may be a scalar."""

from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.graph.ir import Op
from zoo.graph.layout import NHWC
from zoo.graph.operators.chain import Chain
from zoo.graph.operators.contract import OpKind, Trace, never
from zoo.graph.operators.elementwise import broadcast, lower_elementwise
from zoo.graph.operators.masks import trace_masked_fill, trace_where
from zoo.graph.operators.statistics import trace_quotient, trace_root

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.lower import Lowering
    from zoo.graph.trace import Tracer


def _trace(kind: str) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        if a.get("alpha", 1) != 1 or a.get("rounding_mode") is not None:
            raise tracer.unmapped(node, str(node.target))
        operands, scalar = tracer.operands(a["self"], a["other"]), a["other"]
        if len(operands) == 2:
            if kind != "div" or not trace_quotient(tracer, node, a):
                tracer.emit(node, kind, operands)
        elif kind in ("add", "sub"):
            tracer.emit(node, "add", operands, {"constant": scalar if kind == "add" else -scalar})
        else:
            tracer.emit(
                node, "mul", operands, {"constant": scalar if kind == "mul" else 1 / scalar}
            )

    return trace


def _trace_negative(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    tracer.emit(node, "mul", [a["self"]], {"constant": -1})


def _trace_reversed(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    if a["alpha"] != 1 or tracer.operands(a["other"]):
        raise tracer.unmapped(node, str(node.target))
    negative = tracer.step(node, "negative", "mul", [a["self"]], {"constant": -1})
    tracer.emit(node, "add", [negative], {"constant": a["other"]})


def _trace_power(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read a power that is made of products and roots."""
    chain, power = Chain(tracer, node), a.get("exponent", 2)
    if power == 2:
        tracer.emit(node, "mul", [a["self"], a["self"]])
    elif power == 0.5:
        trace_root(tracer, node, a)
    elif power == -0.5:
        tracer.emit(node, "rsqrt", [a["self"]])
    elif power in (3, 4) and tracer.operands(a["self"]):
        square = chain.op("mul", [a["self"], a["self"]], chain.shape(node))
        tracer.emit(node, "mul", [square, a["self"] if power == 3 else square])
    else:
        raise tracer.unmapped(node, f"aten.pow with exponent {power}")


def _trace_hard_sigmoid(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    above = tracer.step(node, "above", "add", [a["self"]], {"constant": 3.0})
    clipped = tracer.step(node, "clipped", "relu6", [above])
    tracer.emit(node, "mul", [clipped], {"constant": 1 / 6})


def _lower_div(lowering: "Lowering", op: Op) -> None:
    """Multiply with the inverse of a constant, which every runtime has."""
    divisor = op.inputs[1]
    if not lowering.graph.tensors[divisor].is_parameter:
        raise MismatchError(
            f"{op.label} divides by what it computes, and no integer kernel does: multiply instead"
        )
    inverse = f"{op.name}.inverse"
    value = 1 / lowering.graph.values[divisor].reshape(
        (1,) * (len(lowering.shape(op.outputs[0])) - len(lowering.shape(divisor)))
        + lowering.shape(divisor)
    )
    value = value.transpose(NHWC) if value.ndim == 4 else value
    inputs = (op.inputs[0], lowering.constant(inverse, value))
    lowering.emit(op, kind="mul", inputs=inputs)


def _trace_silu(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """x times its sigmoid: no file has an operator for it."""
    share = tracer.step(node, "sigmoid", "sigmoid", [a["self"]])
    tracer.emit(node, "mul", [a["self"], share])


def _trace_glu(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """One half times the sigmoid of the other."""
    chain = Chain(tracer, node)
    shape, half = chain.shape(a["self"]), chain.shape(node)
    dim = a["dim"] % len(shape)
    first = chain.cut(a["self"], dim, 0, half[dim])
    second = chain.cut(a["self"], dim, half[dim], shape[dim])
    tracer.emit(node, "mul", [first, chain.op("sigmoid", [second], half)])


def _trace_absolute(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    negative = tracer.step(node, "negative", "mul", [a["self"]], {"constant": -1})
    tracer.emit(node, "maximum", [a["self"], negative])


def _trace_product_added(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """x + value y z."""

    import torch

    chain = Chain(tracer, node)
    first, second = a["tensor1"], a["tensor2"]
    shape = tuple(torch.broadcast_shapes(chain.shape(first), chain.shape(second)))
    product = chain.op("mul", [first, second], shape)
    tracer.emit(node, "add", [a["self"], chain.scaled(product, a["value"])])


def _trace_mixed(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """x + weight (y - x)."""
    if "weight" not in a or tracer.operands(a["weight"]):
        raise tracer.unmapped(node, f"{node.target} with weights that are tensors")
    chain = Chain(tracer, node)
    apart = chain.op("sub", [a["end"], a["self"]], chain.shape(node))
    tracer.emit(node, "add", [a["self"], chain.scaled(apart, a["weight"])])


_ADD, _SUB, _MUL, _DIV = (_trace(kind) for kind in ("add", "sub", "mul", "div"))

ROWS = (
    OpKind(
        name="add",
        aten={
            "add": _ADD,
            "sub": _SUB,  # minus a scalar is plus its negative
            "rsub": _trace_reversed,
            "hardsigmoid": _trace_hard_sigmoid,
            "addcmul": _trace_product_added,
            "lerp": _trace_mixed,
        },
        lower=lower_elementwise,
        shape=broadcast,
        mixes_samples=never,
        elementwise=True,
        fuses=True,
        plain=True,
    ),
    OpKind(
        name="sub",
        aten={"sub": _SUB},
        lower=lower_elementwise,
        shape=broadcast,
        mixes_samples=never,
        elementwise=True,
        fuses=True,
        plain=True,
    ),
    OpKind(
        name="mul",
        aten={
            "mul": _MUL,
            "div": _DIV,  # over a scalar is times its inverse
            "neg": _trace_negative,
            "pow": _trace_power,
            "square": _trace_power,
            "silu": _trace_silu,
            "glu": _trace_glu,
            "sqrt": trace_root,
            "masked_fill": trace_masked_fill,
            "where": trace_where,
        },
        lower=lower_elementwise,
        shape=broadcast,
        mixes_samples=never,
        elementwise=True,
        fuses=True,
        plain=True,
    ),
    OpKind(
        name="div",
        aten={"div": _DIV},
        lower=_lower_div,
        shape=None,
        mixes_samples=never,
        absent={"shape": "by a constant it is a product; another divisor is only counted"},
        elementwise=True,
        fuses=True,
    ),
    *(
        OpKind(
            name=name,
            aten={name: (), **({"abs": _trace_absolute} if name == "maximum" else {})},
            lower=lower_elementwise,
            shape=broadcast,
            mixes_samples=never,
            elementwise=True,
            plain=True,
            shares_quantization=True,
        )
        for name in ("maximum", "minimum")
    ),
)
