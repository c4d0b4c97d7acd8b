"""Estimated latency: every op takes the longer of its computation and its memory traffic.

For each op, seconds = max(compute, bytes of each memory / its bandwidth) + overhead, and the
network takes the sum. Compute is the op's work at the rate of its kind, rounded up to whole steps
of the multiplier array; MAC ops are also bound by how fast outputs leave the accumulators.
Activations move through SRAM; on a device with DRAM the network's input and output, and
whatever does not fit SRAM, move through DRAM. Weights are read once per run, uncompressed.

A target with an `array` (Ethos-U) is priced by that instead: blocks, passes, encoded weights and
their copies, see `zoo.cost.ethos_u`, on the int8 graph that `zoo export` would write.

How far off it is, `benchmarks/cost_roofline.py` measures on networks that nothing was fitted to.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zoo.cost import memory
from zoo.cost.estimators.contract import Subject, counts, drawn, energy_mj, obtained
from zoo.cost.ethos_u.costs import priced
from zoo.cost.memory import resident
from zoo.cost.result import Cost, Fit, OpCost, TiledRun, exceeds, readable
from zoo.cost.target import FLOATS, Target
from zoo.cost.tiling import Tile, best_tile
from zoo.cost.work import WORK, touched
from zoo.errors import MismatchError
from zoo.graph.fuse import fuse
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import MAC_KINDS

if TYPE_CHECKING:
    from zoo.graph.inputs import Shapes

SUMMARY = "every op takes the longer of its computation and its memory traffic"


@dataclass(frozen=True, kw_only=True)
class Options:
    """There are no settings: the target has all the numbers."""


def refusal(target: Target) -> str | None:
    """Return why a target has no roofline, or None where it has one."""
    if target.method != "roofline":
        return f"target {target.name!r} is {target.method}, not roofline"
    return None


def estimate(subject: Subject, target: Target, options: Options) -> Cost:
    """Return the cost of a network, whole or in the tiles that fit the target's memory."""
    graph, module = subject.graph, subject.module
    halo = getattr(module, "halo", None) if len(graph.input_shape) == 4 else None
    whole = _run(graph, target, _integers(subject, target, subject.shape))
    tiled, tile_run = None, None
    sram = target.sram_bytes
    if halo is not None and sram is not None and whole.plan.arena_bytes > sram:
        multiple = getattr(module, "multiple", 1)
        tiled, tile_run = _tiled(whole, target, subject, (halo, multiple))
    fits = _fit(graph, whole, target, tiled)
    if tiled and fits.sram and tiled.latency_ms >= whole.latency_ms:
        tiled = None  # DRAM holds the whole image, and tiles would not be faster
    best = tile_run if tiled and tile_run else whole
    latency = tiled.latency_ms if tiled else whole.latency_ms
    return Cost(
        **counts(graph, whole.plan, target),
        method="roofline",
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
        bound=bound(best.ops),
        fits=fits,
        tiled=tiled,
        obtained=obtained("estimated (roofline)", target),
        host=_host(best),
        notes=(*_notes(best, target), *(() if best.flash_bytes is None else drawn(subject))),
        ops=best.ops,
        interval_ms=interval(latency, target),
        flash_bytes=best.flash_bytes,
        moved_bytes=best.moved,
    )


@dataclass(frozen=True)
class _Run:
    """One shape on one target, by roofline."""

    graph: Graph
    plan: memory.ArenaPlan
    ops: tuple[OpCost, ...]
    flash_bytes: int | None = None
    moved: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)
    rough: bool = False

    @property
    def latency_ms(self) -> float:
        return sum(op.latency_ms for op in self.ops)


def _integers(subject: Subject, target: Target, shape: "Shapes") -> Graph | None:
    """Return the int8 graph that a target with an array runs; None where there is none."""
    if target.array is None:
        return None
    if subject.module is None:
        return subject.graph
    try:
        return subject.integer(shape, parts=True)
    except MismatchError:
        return None


def _run(graph: Graph, target: Target, integers: Graph | None) -> _Run:
    fused = deployed(graph, target)
    plan = memory.plan(fused, target.dtype, scratch=target.scratch)
    if target.array is None:
        ops = op_costs(fused, target)
        return _Run(graph=graph, plan=plan, ops=ops, moved=_moved(fused, target))
    found = priced(integers or fused, target)
    return _Run(
        graph=graph,
        plan=plan,
        ops=found.ops,
        flash_bytes=found.flash_bytes,
        moved=found.moved,
        reasons=found.reasons,
        rough=integers is None,
    )


def _tiled(
    whole: _Run, target: Target, subject: Subject, sides: tuple[int, int]
) -> tuple[TiledRun | None, _Run | None]:
    batch, channels, height, width = whole.graph.input_shape
    sram = target.sram_bytes or 0
    budget = sram * height * width // max(whole.plan.arena_bytes, 1)  # memory goes with pixels
    halo, multiple = sides
    while tile := best_tile(height, width, halo, budget, multiple):
        shape = (batch, channels, tile.height, tile.width)
        graph = subject.retraced(shape)
        fused = deployed(graph, target)
        if memory.plan(fused, target.dtype, scratch=target.scratch).arena_bytes <= sram:
            run = _run(graph, target, _integers(subject, target, shape))
            return _tiled_run(tile, run, target), run
        budget = tile.height * tile.width - 1  # alignment, or a pool that rounds up
    return None, None


def _tiled_run(tile: Tile, run: _Run, target: Target) -> TiledRun:
    latency = run.latency_ms * tile.count
    return TiledRun(
        height=tile.height,
        width=tile.width,
        halo=tile.halo,
        count=tile.count,
        macs=run.graph.macs * tile.count,
        peak_activation_bytes=run.plan.arena_bytes,
        latency_ms=latency,
        energy_mj=energy_mj(latency, target),
    )


def _fit(graph: Graph, whole: _Run, target: Target, tiled: TiledRun | None) -> Fit:
    reasons = []
    weights, flash = graph.weight_bytes(target.dtype), target.flash_bytes
    weights = weights if whole.flash_bytes is None else whole.flash_bytes
    flash_fits = flash is None or weights <= flash
    if not flash_fits:
        limit = exceeds("weights", weights, flash or 0, "flash")
        reasons.append(f"{limit}; take a smaller network")
    arena, sram = whole.plan.arena_bytes, target.sram_bytes
    sram_fits = target.spills or sram is None or arena <= sram
    if not sram_fits:
        advice = "give a smaller input"
        if tiled:
            advice = (
                f"run {tiled.count} tiles of {tiled.height}x{tiled.width} pixels "
                f"(halo {tiled.halo}), {readable(tiled.peak_activation_bytes)} each"
            )
        reasons.append(f"{exceeds('activations', arena, sram or 0, 'SRAM')}; {advice}")
    return Fit(sram=sram_fits, flash=flash_fits, reasons=tuple(reasons))


def _notes(run: _Run, target: Target) -> tuple[str, ...]:
    notes = [*target.notes, *_host(run)]
    if run.rough:
        notes.append(
            "not every operator has an integer form here: priced on the float graph, with weights "
            "encoded as those of trained layers usually are"
        )
    kinds = [cost.kind.partition("+")[0] for cost in run.ops if cost.bound != "host"]
    rates = {f"rates.{kind if kind in target.rates else 'default'}" for kind in kinds}
    rates |= set(target.numbers) - set(FLOATS)  # of front ends, which say so themselves
    used = [name for name in target.assumed if name in rates]
    if used:
        notes.append(f"assumed, not measured by anybody: {', '.join(used)}")
    return tuple(dict.fromkeys(notes))


def _host(run: _Run) -> tuple[str, ...]:
    """Return a line for each op that the device hands to its host CPU."""
    return tuple(
        f"{op.kind.upper()} at {op.module or 'the top level'} is "
        f"{run.reasons.get(place, 'not an operator of this device')} and runs on its host CPU; "
        "counted as one read and one write of SRAM, a lower bound"
        for place, op in enumerate(run.ops)
        if op.bound == "host"
    )


def interval(latency_ms: float, target: Target) -> tuple[float, float] | None:
    """Return between what nine of ten latencies lie, by the target's own record."""
    if target.interval is None:
        return None
    low, high = target.interval
    return low * latency_ms, high * latency_ms


def deployed(graph: Graph, target: Target) -> Graph:
    """Return the graph as the target runs it: its fused activations folded in."""
    return fuse(graph, target.fuses)


def op_costs(graph: Graph, target: Target) -> tuple[OpCost, ...]:
    """Estimate each op of a `deployed` graph, in order."""
    if target.array is not None:
        return priced(graph, target).ops
    fast = _fast(graph, target)
    return tuple(_op_cost(graph, op, target, fast) for op in graph.ops)


def _fast(graph: Graph, target: Target) -> frozenset[str] | None:
    """Return the activations that stay in SRAM, on a device whose others go to DRAM."""
    if not target.spills:
        return None
    fast = resident(graph, target.dtype, target.sram_bytes or 0)
    return fast - {*graph.inputs, *graph.outputs}


def _moved(graph: Graph, target: Target) -> dict[str, int]:
    """Return the bytes that each memory moves, weights and activations once for each op."""
    moved: Counter[str] = Counter()
    for op in graph.ops:
        if not WORK.of(op).free:
            moved += _bytes(graph, op, target, _fast(graph, target))
    return dict(moved)


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
        bytes=touched(graph, op, target.dtype),
    )


def _compute_seconds(graph: Graph, op: Op, target: Target) -> float:
    rate, work = target.rates.get(op.kind), WORK.of(op)
    if op.kind == "conv2d" and graph.kernel(op)[2] == 1:
        rate = target.rates.get("pointwise", rate)
    if rate is None and work.moves and "sram_bytes_per_s" in target.numbers:
        return 0.0
    cycles = work.amount(graph, op, target.steps) / (rate or target.rates["default"]).value
    outputs_per_cycle = target.get("outputs_per_cycle")
    if op.kind in MAC_KINDS and outputs_per_cycle is not None:
        cycles = max(cycles, graph.tensors[op.outputs[0]].elements / outputs_per_cycle)
    if op.kind == "conv2d":
        cycles += graph.tensors[op.outputs[0]].elements * (target.get("cycles_per_output") or 0.0)
    clock = target.get("clock_hz")
    assert clock is not None  # checked by Target
    return cycles / clock


def _traffic_seconds(
    graph: Graph, op: Op, target: Target, fast: frozenset[str] | None
) -> dict[str, float]:
    """Seconds that each memory is busy for one op; a memory without a bandwidth costs nothing."""
    return _seconds(_bytes(graph, op, target, fast), target)


def _bytes(graph: Graph, op: Op, target: Target, fast: frozenset[str] | None) -> Counter[str]:
    """Bytes that each memory moves for one op."""
    moved: Counter[str] = Counter()
    for name in (*op.inputs, *op.outputs):
        tensor = graph.tensors[name]
        if tensor.is_parameter:
            memory = "dram" if target.spills else "flash"
        else:
            memory = "sram" if fast is None or name in fast else "dram"
        moved[memory] += tensor.bytes(target.dtype)
    return moved


def _seconds(moved: Mapping[str, int], target: Target) -> dict[str, float]:
    bandwidths = {memory: target.get(f"{memory}_bytes_per_s") for memory in moved}
    return {memory: moved[memory] / speed for memory, speed in bandwidths.items() if speed}
