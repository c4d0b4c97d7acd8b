"""Sums, products and extremes of two operands, one of which may be a scalar."""

from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import OpKind, Trace, never
from zoo.graph.operators.elementwise import broadcast, lower_elementwise

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer


def _trace(kind: str) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        if a.get("alpha", 1) != 1 or a.get("rounding_mode") is not None:
            raise tracer.unmapped(node, str(node.target))
        operands, scalar = tracer.operands(a["self"], a["other"]), a["other"]
        if len(operands) == 2:
            tracer.emit(node, kind, operands)
        elif kind in ("add", "sub"):
            tracer.emit(node, "add", operands, {"constant": scalar if kind == "add" else -scalar})
        else:
            tracer.emit(
                node, "mul", operands, {"constant": scalar if kind == "mul" else 1 / scalar}
            )

    return trace


_ADD, _SUB, _MUL, _DIV = (_trace(kind) for kind in ("add", "sub", "mul", "div"))
_MADE = {
    "aten": "so far it occurs only in files, and zoo.graph.rewrite makes it from clamps",
    "lower": "it is made after lowering",
}

ROWS = (
    OpKind(
        name="add",
        aten={"add": _ADD, "sub": _SUB},  # minus a scalar is plus its negative
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
        aten={"mul": _MUL, "div": _DIV},  # over a scalar is times its inverse
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
        lower=None,
        shape=None,
        mixes_samples=never,
        absent=dict.fromkeys(("lower", "shape"), "so far only counted: it has no integer kernel"),
        elementwise=True,
    ),
    *(
        OpKind(
            name=name,
            aten=None,
            lower=None,
            shape=broadcast,
            mixes_samples=never,
            absent=_MADE,
            elementwise=True,
            plain=True,
            shares_quantization=True,
        )
        for name in ("maximum", "minimum")
    ),
)
