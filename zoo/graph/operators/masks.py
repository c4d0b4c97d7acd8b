"""Places that a softmax leaves out: a large negative number is added to their scores."""

import math
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.chain import Chain

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer

NEVER = -1e4  # e to this is 0; what files hold in place of -inf, which no integer is


def _only_shares(node: "fx.Node") -> bool:
    """Whether nothing but softmaxes read a tensor, through views at most."""
    views = ("view", "reshape", "transpose", "permute", "contiguous", "clone", "_unsafe_view")
    for user in node.users:
        schema = getattr(user.target, "_schema", None)
        name = schema.name.split("::")[-1] if schema else ""
        if name != "softmax" and not (name in views and _only_shares(user)):
            return False
    return bool(node.users)


def trace_masked_fill(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.masked_fill with a mask that is known beforehand."""
    _choose(tracer, node, a["mask"], a["value"], a["self"])


def trace_where(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
    """Read aten.where with a condition that is known beforehand."""
    _choose(tracer, node, a["condition"], a["self"], a["other"])


def _choose(tracer: "Tracer", node: "fx.Node", where: Any, yes: Any, no: Any) -> None:
    """Append c x + (1 - c) y; scores that lose to all others only have a mask added."""
    chain = Chain(tracer, node)
    if not chain.stored(where):
        raise tracer.unmapped(node, f"{node.target} with a condition that the network computes")
    fixed = [float(value) for value in (yes, no) if isinstance(value, int | float)]
    scores = _only_shares(node)
    if not scores and not all(map(math.isfinite, fixed)):
        raise tracer.unmapped(node, f"{node.target} with a number that is not finite")
    lost, shape = scores and min(fixed, default=0) <= NEVER / 10, chain.shape(node)
    parts: list[Any] = []
    for value, chosen in ((yes, True), (no, False)):
        if isinstance(value, int | float):
            if value:
                parts.append(_constant(chain, where, value, chosen, scores))
        elif chain.stored(value):
            parts.append(_constant(chain, where, value, chosen, scores))
        elif lost:
            parts.append(value)
        else:
            parts.append(
                chain.op("mul", [value, _constant(chain, where, 1, chosen, scores)], shape)
            )
    parts.sort(key=chain.stored)  # what is computed stands first
    chain.end(parts[0] if len(parts) == 1 else chain.op("add", parts, shape))


def _constant(chain: Chain, where: Any, value: Any, chosen: bool, scores: bool) -> str:
    """Return the parameter that has a value where the condition is as chosen, and 0 elsewhere."""

    import torch

    stored = [value] if not isinstance(value, int | float) else []
    shape = torch.broadcast_shapes(chain.shape(where), *map(chain.shape, stored))

    def call(c: torch.Tensor, *v: torch.Tensor) -> torch.Tensor:
        filled = v[0] if v else torch.tensor(float(value))
        masked = torch.where(c.bool() == chosen, filled, 0.0)
        return masked.clamp(min=NEVER) if scores else masked

    tracer, label = chain.tracer, f"{value}{'yes' if chosen else 'no'}"
    refs = [tracer.ref(x) for x in (where, *stored)]
    return tracer.made(f"{chain.node.name}.{label}", tuple(shape), call, "constant", *refs)
