"""What each operator of a graph costs on a target that has an array (`zoo.cost.ethos_u.array`)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.cost.ethos_u.array import Array85
from zoo.cost.ethos_u.blocks import up
from zoo.cost.ethos_u.chains import chained, placed
from zoo.cost.ethos_u.cycles85 import SCALE_BYTES
from zoo.cost.ethos_u.lifetimes import buffers, resident
from zoo.cost.ethos_u.lowering import fused_tables, on_host, padded_on_the_way, passes
from zoo.cost.ethos_u.passes import Pass
from zoo.cost.ethos_u.schedule import Memories, Spent, WeightChannels, spent
from zoo.cost.ethos_u.site import VIEWS, OnHostError, Site
from zoo.cost.result import OpCost
from zoo.cost.target import Target
from zoo.cost.work import touched
from zoo.graph.ir import Graph, Op

JOINED = frozenset(("reshape", "concat", "pack"))  # inputs are written into the output


@dataclass(frozen=True, kw_only=True)
class Priced:
    """What a graph costs.

    Attributes:
        ops: one entry for each operator; those that became part of another have none.
        reasons: why an operator runs on the host CPU, by its place in `ops`.
        flash_bytes: encoded weights with their scales, tables and constants.
        moved: bytes that each memory moves.

    """

    ops: tuple[OpCost, ...]
    reasons: Mapping[int, str]
    flash_bytes: int
    moved: Mapping[str, int]


def memories(target: Target) -> Memories:
    """Return the bandwidths of a target's memories in bytes per cycle."""
    clock, fast = target.get("clock_hz"), target.get("sram_bytes_per_s")
    name = "dram" if target.spills else "flash"
    slow = target.get(f"{name}_bytes_per_s")
    assert clock  # all three are checked by Target
    assert fast
    assert slow
    channels = None
    if isinstance(array := target.array, Array85):
        channels = WeightChannels(
            weights=array.weights, copies=array.copies, latency=array.latency_cycles[1]
        )
    elif array is not None and target.spills:
        speeds = fast / clock, slow / clock
        channels = WeightChannels(weights=speeds, copies=speeds[1], latency=array.latency_cycles[1])
    return Memories(fast=fast / clock, slow=slow / clock, name=name, channels=channels)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The passes of a graph.

    Attributes:
        kept: operators with the kind of the table that each applies to its result, or "".
        jobs: passes, in order; `places` are the operators that they belong to, by place in `kept`.
        reasons: why an operator runs on the host CPU, by its place in `kept`.

    """

    kept: list[tuple[Op, str]]
    places: list[int]
    jobs: list[Pass]
    reasons: Mapping[int, str]


def laid_out(graph: Graph, target: Target) -> Layout:
    """Return the passes that a graph becomes on a target with an array."""
    array = target.array
    assert array is not None
    if chains := isinstance(array, Array85):
        graph = chained(graph, fused_tables(graph))
    ends = own(graph) if target.spills else frozenset()
    fused, plain = fused_tables(graph), on_host(graph) | ends
    hidden = set(fused.values())
    fast = None
    if target.spills:
        site = Site(graph, graph.ops[0], array.microblock[2], "", plain)
        bricks = {name: site.bricks(name) for name in graph.lifetimes}
        padded = {op.name for op in graph.ops if op.kind == "pad" and padded_on_the_way(graph, op)}
        held = buffers(graph, bricks, hidden | padded)
        fast = resident(held, ends, target.sram_bytes or 0)
    places: list[int] = []
    jobs: list[Pass] = []
    kept: list[tuple[Op, str]] = []
    reasons: dict[int, str] = {}
    for op in graph.ops:
        if op.name in hidden:
            continue
        table = fused.get(op.name, "")
        kept.append((op, table))
        try:
            made = passes(Site(graph, op, array.microblock[2], table, plain, array.cores, chains))
        except OnHostError as reason:
            reasons[len(kept) - 1] = str(reason)
            continue
        jobs += placed(made, op, fast)
        places += [len(kept) - 1] * len(made)
    return Layout(kept=kept, places=places, jobs=jobs, reasons=reasons)


def priced(graph: Graph, target: Target) -> Priced:
    """Return what a graph costs on a target with an array, operator by operator."""
    assert target.array is not None
    layout = laid_out(graph, target)
    found = list(spent(layout.jobs, target.array, memories(target)))
    run = (layout.places, layout.jobs, found)
    return _summed(graph, target, layout.kept, run, layout.reasons)


def own(graph: Graph) -> frozenset[str]:
    """Return the graph's inputs and outputs and what is a part of them."""
    own = {*graph.inputs, *graph.outputs}
    for op in graph.ops:
        if (op.kind in VIEWS or padded_on_the_way(graph, op)) and op.inputs[0] in own:
            own.update(op.outputs)
    for op in reversed(graph.ops):
        if op.kind in JOINED and op.outputs[0] in own:
            own.update(op.inputs)
    return frozenset(own)


def _summed(
    graph: Graph,
    target: Target,
    kept: list[tuple[Op, str]],
    run: tuple[list[int], list[Pass], list[Spent]],
    reasons: Mapping[int, str],
) -> Priced:
    cycles: Counter[int] = Counter()
    busy: dict[int, Counter[str]] = {}
    encoded: Counter[int] = Counter()
    beside = 0
    moved: Counter[str] = Counter()
    for place, job, one in zip(*run, strict=True):
        cycles[place] += one.cycles  # type: ignore[assignment]  # a counter of floats
        busy.setdefault(place, Counter())[one.bound] += one.cycles  # type: ignore[assignment]
        moved.update({name: int(size) for name, size in one.moved.items()})
        if not job.again:
            encoded[place] += job.encoded
            beside += up(SCALE_BYTES * job.scales, 16) + job.table_bytes
    clock = target.get("clock_hz") or 1.0
    kinds = {op.name: op.kind for op in graph.ops}
    ops = []
    for place, (op, table) in enumerate(kept):
        times = busy.get(place, Counter())
        bound = max(times, key=lambda name: times[name], default="compute")
        slow = _host_seconds(graph, op, target) if place in reasons else cycles[place] / clock
        extra = kinds.get(table) or op.attributes.get("activation")
        ops.append(
            OpCost(
                module=op.module,
                kind=f"{op.kind}+{extra}" if extra else op.kind,
                macs=op.macs,
                latency_ms=slow * 1e3,
                bound="host" if place in reasons else bound,
                encoded_bytes=encoded[place],
                bytes=touched(graph, op, target.dtype),
            )
        )
    stored = sum(encoded.values()) + beside + constant_bytes(graph)
    return Priced(ops=tuple(ops), reasons=reasons, flash_bytes=stored, moved=dict(moved))


def constant_bytes(graph: Graph) -> int:
    """Return the bytes of what elementwise operators read beside activations."""
    kinds = ("slope", "constant")
    return sum(t.bytes("int8") for t in graph.tensors.values() if t.kind in kinds)


def _host_seconds(graph: Graph, op: Op, target: Target) -> float:
    """Return the least that the host CPU takes: one read and one write of the fast memory."""
    names = [n for n in (*op.inputs, *op.outputs) if not graph.tensors[n].is_parameter]
    moved = sum(graph.tensors[name].bytes(target.dtype) for name in names)
    return moved / (target.get("sram_bytes_per_s") or 1.0)
