"""Estimated latency: every op takes the longest of its computing and its memory traffic.

For each op, seconds = max(compute, bytes of each memory / its bandwidth) + overhead, and the
network takes the sum. Compute is the op's work at the rate of its kind, rounded up to whole steps
of the multiplier array; MAC ops are also bound by how fast outputs leave the accumulators.
Activations move through SRAM; on a device with DRAM the network's input and output, and
whatever does not fit SRAM, move through DRAM. Weights are read once per run, uncompressed.

How far off it is was measured for `ethos-u55-256` against the compiler's own estimate (Vela 5.2,
High_End_Embedded, Shared_Sram), with no constant fitted: on 870 random convolutional networks the
mean error is 10 %, nearly always low (5th to 95th percentile: -20 to -2 %); a roofline sees no
stalls between memory and arithmetic. SESR-M5 at 90 x 160: -9 % with ReLU, -4 % with PReLU.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.cost.memory import resident
from zoo.cost.target import Target
from zoo.cost.work import WORK
from zoo.errors import MismatchError
from zoo.graph.fuse import fuse
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import MAC_KINDS


@dataclass(frozen=True, kw_only=True)
class OpCost:
    """What one op of the deployed graph takes.

    Attributes:
        module: path of the module it came from.
        kind: of the op; a fused activation follows a plus sign.
        macs: multiply-accumulates.
        latency_ms: estimated.
        bound: what it waits for: "compute", "sram", "flash", "dram" or "host".

    """

    module: str
    kind: str
    macs: int
    latency_ms: float
    bound: str


def deployed(graph: Graph, target: Target) -> Graph:
    """Return the graph as the target runs it: its fused activations folded in."""
    return fuse(graph, target.fuses)


def op_costs(graph: Graph, target: Target) -> tuple[OpCost, ...]:
    """Estimate each op of a `deployed` graph, in order."""
    if target.method != "roofline":
        raise MismatchError(
            f"target {target.name!r} has no roofline; it is {target.method}: "
            "give a module and the method 'measured'"
        )
    fast = None
    if target.spills:
        fast = resident(graph, target.dtype, target.sram_bytes or 0)
        fast -= {*graph.inputs, *graph.outputs}
    return tuple(_op_cost(graph, op, target, fast) for op in graph.ops)


def bound(costs: tuple[OpCost, ...]) -> str:
    """Return what most of the time is spent waiting for."""
    time: Counter[str] = Counter()
    for cost in costs:
        time[cost.bound] += cost.latency_ms  # type: ignore[assignment]  # a counter of floats
    return max(time, key=lambda name: time[name], default="compute")


def _op_cost(graph: Graph, op: Op, target: Target, fast: frozenset[str] | None) -> OpCost:
    on_host = op.kind in target.host
    times = _traffic_seconds(graph, op, target, fast)
    if not on_host:
        times["compute"] = _compute_seconds(graph, op, target)
    limit = max(times, key=lambda name: times[name], default="compute")
    seconds = times.get(limit, 0.0)
    if WORK.of(op).free:
        seconds = 0.0
    else:
        seconds += (target.get("op_overhead_us") or 0.0) * 1e-6
    activation = op.attributes.get("activation")
    return OpCost(
        module=op.module,
        kind=f"{op.kind}+{activation}" if activation else op.kind,
        macs=op.macs,
        latency_ms=seconds * 1e3,
        bound="host" if on_host else limit,
    )


def _compute_seconds(graph: Graph, op: Op, target: Target) -> float:
    rate, work = target.rates.get(op.kind), WORK.of(op)
    if rate is None and work.moves and "sram_bytes_per_s" in target.numbers:
        return 0.0
    cycles = work.amount(graph, op, target.steps) / (rate or target.rates["default"]).value
    outputs_per_cycle = target.get("outputs_per_cycle")
    if op.kind in MAC_KINDS and outputs_per_cycle is not None:
        cycles = max(cycles, graph.tensors[op.outputs[0]].elements / outputs_per_cycle)
    clock = target.get("clock_hz")
    assert clock is not None  # checked by Target
    return cycles / clock


def _traffic_seconds(
    graph: Graph, op: Op, target: Target, fast: frozenset[str] | None
) -> dict[str, float]:
    """Seconds that each memory is busy for one op; a memory without a bandwidth costs nothing."""
    moved: Counter[str] = Counter()
    for name in (*op.inputs, *op.outputs):
        tensor = graph.tensors[name]
        if tensor.is_parameter:
            memory = "dram" if target.spills else "flash"
        else:
            memory = "sram" if fast is None or name in fast else "dram"
        moved[memory] += tensor.bytes(target.dtype)
    return _seconds(moved, target)


def _seconds(moved: Mapping[str, int], target: Target) -> dict[str, float]:
    bandwidths = {memory: target.get(f"{memory}_bytes_per_s") for memory in moved}
    return {memory: moved[memory] / speed for memory, speed in bandwidths.items() if speed}
