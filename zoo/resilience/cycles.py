"""How long each operator of an integer graph keeps an NPU busy, as `zoo.cost` estimates it."""

from zoo.cost.ethos_u.costs import laid_out, priced
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph

ESTIMATOR = "roofline"


def cycles(graph: Graph, target: Target) -> dict[str, float]:
    """Return the cycles of each operator by name; those that became part of another have none.

    Raises:
        MismatchError: the target has no array of multipliers.

    """
    clock = target.get("clock_hz")
    if target.array is None or clock is None:
        raise MismatchError(f"target {target.name!r} has no array of multipliers")
    kept = laid_out(graph, target).kept
    ops = priced(graph, target).ops
    return {op.name: cost.latency_ms / 1e3 * clock for (op, _), cost in zip(kept, ops, strict=True)}
