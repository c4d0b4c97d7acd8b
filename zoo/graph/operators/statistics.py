"""Sums, variances, norms and roots, as means, products and 1 / sqrt(x): these have integer kernels.

A division by a root is a product with the inverse root.
"""

import math
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.chain import Chain

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer

_LEAST = 1e-12  # of what a root is taken: sqrt(x) is x / sqrt(max(x, this))


def _along(chain: Chain, a: dict[str, Any]) -> tuple[int, ...]:
    """Return the dimensions that a reduction names; all of them if it names none."""
    rank, dims = len(chain.shape(a["self"])), a.get("dim")
    several = [dims] if isinstance(dims, int) else dims or range(rank)
    return tuple(sorted({dim % rank for dim in several}))


def trace_mean(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.mean."""
    chain = Chain(tracer, node)
    dims, keep = _along(chain, a), bool(a.get("keepdim"))
    rank = len(chain.shape(a["self"]))
    as_it_is = dims in ((2, 3), (1, 2, 3)) if rank == 4 else rank - len(dims) not in (0, 4)
    if keep or as_it_is:
        tracer.emit(node, "mean", [a["self"]], {"dim": dims, "keepdim": keep})
    else:  # what is left has another order on devices
        chain.end(chain.mean(a["self"], dims, keepdim=False))


def trace_sum(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.sum."""
    chain = Chain(tracer, node)
    dims, keep = _along(chain, a), bool(a.get("keepdim"))
    chain.end(_sum(chain, a["self"], dims, keep))


def _sum(chain: Chain, x: Any, dims: tuple[int, ...], keep: bool) -> Any:
    count = math.prod(chain.shape(x)[dim] for dim in dims)
    mean = chain.mean(x, dims, keepdim=keep)
    return chain.op("mul", [mean], chain.shape(mean), {"constant": count})


def _variance(chain: Chain, a: dict[str, Any]) -> Any:
    dims, keep, x = _along(chain, a), bool(a.get("keepdim")), a["self"]
    shape = chain.shape(x)
    count = math.prod(shape[dim] for dim in dims)
    correction = a.get("correction", int(a.get("unbiased", True)))
    correction = 1 if correction is None else correction
    if count <= correction:
        raise chain.tracer.unmapped(chain.node, f"a variance of {count} values")
    centred = chain.op("sub", [x, chain.mean(x, dims)], shape)
    squares = chain.op("mul", [centred, centred], shape)
    mean = chain.mean(squares, dims, keepdim=keep)
    if not correction:
        return mean
    return chain.op("mul", [mean], chain.shape(mean), {"constant": count / (count - correction)})


def _rooted(chain: Chain, square: Any) -> None:
    """Let the node stand for the root of what is never negative."""
    shape = chain.shape(square)
    above = chain.op("maximum", [square], shape, {"constant": _LEAST})
    inverse = chain.op("rsqrt", [above], shape)
    chain.tracer.squares[chain.node] = square
    chain.end(chain.op("mul", [square, inverse], shape))


def trace_variance(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.var."""
    chain = Chain(tracer, node)
    chain.end(_variance(chain, a))


def trace_deviation(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.std."""
    chain = Chain(tracer, node)
    _rooted(chain, _variance(chain, a))


def trace_root(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.sqrt."""
    chain = Chain(tracer, node)
    _rooted(chain, a["self"])


def trace_norm(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read the Euclidean norm."""
    if a.get("ord", a.get("p", 2)) not in (2, None):
        raise tracer.unmapped(node, f"{node.target} of order {a.get('ord', a.get('p'))}")
    chain = Chain(tracer, node)
    squares = chain.op("mul", [a["self"], a["self"]], chain.shape(a["self"]))
    _rooted(chain, _sum(chain, squares, _along(chain, a), bool(a.get("keepdim"))))


def root_of(tracer: "Tracer", node: Any) -> Any:
    """Return the square of a root that a divisor is, maybe limited from below; else None."""
    if (square := tracer.squares.get(node)) is not None:
        return square
    schema = getattr(node.target, "_schema", None)
    name = schema.name.split("::")[-1] if schema else ""
    if name in ("expand", "expand_as", "alias"):
        return root_of(tracer, node.args[0])
    if name in ("clamp_min", "clamp") and len(node.args) == 2:
        square = root_of(tracer, node.args[0])
        if square is not None:
            chain = Chain(tracer, node)
            least = {"constant": max(float(node.args[1]), 1e-18) ** 2}
            made = chain.op("maximum", [square], chain.shape(square), least)
            tracer.squares[node] = made
            return made
    return None


def trace_quotient(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> bool:
    """Append x / sqrt(y) as a product; return whether the divisor is a root."""
    square = root_of(tracer, a["other"])
    if square is None:
        return False
    chain = Chain(tracer, node)
    inverse = chain.op("rsqrt", [square], chain.shape(square))
    chain.end(chain.op("mul", [a["self"], inverse], chain.shape(node)))
    return True
