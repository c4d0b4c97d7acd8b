"""How much memory a graph's activations need: their lifetimes packed into one arena.

Runtimes without a heap (TFLite Micro, Ethos-U drivers) place every activation at a fixed offset
of one block, the tensor arena. Two activations may overlap in space when they never exist at the
same time. The packing here is greedy by size, as in TFLite Micro (Pisarchyk and Lee,
arXiv 2001.03288): buffers from large to small (equal ones from the last to the first, as there),
each at the lowest offset that is free during its life. No packing can be smaller than the live
bytes at the busiest moment; `ArenaPlan` gives both. `zoo.cost.planner` finds the smallest one.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import ELEMENTWISE

ALIGNMENT = 16  # bytes, as TFLite Micro aligns its arena


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A block of the arena: an activation, or several that take each other's place.

    Attributes:
        name: of the activation, or of the first of them.
        size: bytes, aligned.
        first: index of the op before which it exists.
        last: index of the op after which its bytes are free again.

    """

    name: str
    size: int
    first: int
    last: int


Place = Callable[[Sequence[Buffer]], Mapping[str, int]]  # to the byte offset of each


@dataclass(frozen=True, kw_only=True)
class ArenaPlan:
    """Where every activation lies in the arena.

    Attributes:
        offsets: byte offset of each activation; those computed in place share one. The extra
            buffer of an op is named after the op, with ".scratch".
        sizes: bytes of each activation, aligned.
        lifetimes: first and last op index of each activation, as the graph gives them.
        arena_bytes: size of the arena: the peak activation memory.
        lower_bound_bytes: the most bytes that exist at one time; no plan needs fewer.

    """

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    lifetimes: Mapping[str, tuple[int, int]]
    arena_bytes: int
    lower_bound_bytes: int


def greedy(buffers: Sequence[Buffer]) -> dict[str, int]:
    """Return the offsets that TFLite Micro's planner gives buffers in the order of their tensors.

    It takes them from the end, sorts by size without moving equal ones, and gives each the lowest
    gap among those that exist at some time with it (`greedy_memory_planner.cc`).
    """
    return first_fit(sorted(reversed(buffers), key=lambda buffer: -buffer.size))


def first_fit(buffers: Sequence[Buffer]) -> dict[str, int]:
    """Return the offsets of giving each buffer in turn the lowest one that is free for it."""
    placed: dict[str, int] = {}
    done: list[Buffer] = []
    for buffer in buffers:
        rivals = [
            (placed[other.name], placed[other.name] + other.size)
            for other in done
            if other.first <= buffer.last and buffer.first <= other.last
        ]
        placed[buffer.name] = _lowest_gap(rivals, buffer.size)
        done.append(buffer)
    return placed


def arena_bytes(buffers: Sequence[Buffer], offsets: Mapping[str, int]) -> int:
    """Return the size of the arena in which buffers lie at these offsets."""
    return max((offsets[buffer.name] + buffer.size for buffer in buffers), default=0)


def live_bytes(buffers: Sequence[Buffer]) -> int:
    """Return the most bytes that exist at one time."""
    steps = {buffer.first for buffer in buffers}  # the peak is where one begins
    live = [sum(b.size for b in buffers if b.first <= step <= b.last) for step in steps]
    return max(live, default=0)


def plan(
    graph: Graph,
    dtype: str | None,
    *,
    in_place: bool = True,
    scratch: frozenset[str] = frozenset(),
    place: Place = greedy,
) -> ArenaPlan:
    """Pack the activations of `graph`, deployed in `dtype` or each in its own, into one arena.

    With `in_place`, an elementwise op writes over an input of the same size that nothing reads
    later, and a reshape costs nothing. The graph's inputs lie in the arena and may be written
    over too; its outputs and states may not. Kinds in `scratch` are lowered to several passes: they
    never run in place and need one more buffer of their output's size while they run.
    """
    spans = dict(graph.lifetimes)
    sizes = {name: aligned(graph.tensors[name].bytes(dtype)) for name in spans}
    owners = _share(graph, sizes, scratch) if in_place else {name: name for name in spans}
    for index, op in enumerate(graph.ops):
        if op.kind in scratch:
            name = f"{op.name}.scratch"
            spans[name], sizes[name], owners[name] = (index, index), sizes[op.outputs[0]], name
    buffers = _buffers(graph, spans, sizes, owners)
    placed = place(buffers)
    return ArenaPlan(
        offsets={name: placed[owner] for name, owner in owners.items()},
        sizes=sizes,
        lifetimes=spans,
        arena_bytes=arena_bytes(buffers, placed),
        lower_bound_bytes=live_bytes(buffers),
    )


def _buffers(
    graph: Graph,
    spans: Mapping[str, tuple[int, int]],
    sizes: Mapping[str, int],
    owners: Mapping[str, str],
) -> list[Buffer]:
    """Return a buffer for each owner, in the order of the graph's tensors."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, owner in owners.items():
        first[owner] = min(first.get(owner, spans[name][0]), spans[name][0])
        last[owner] = max(last.get(owner, spans[name][1]), spans[name][1])
    return [
        Buffer(name=name, size=sizes[name], first=first[name], last=last[name])
        for name in dict.fromkeys((*graph.tensors, *sizes))
        if name in first
    ]


def aligned(size: int) -> int:
    """Return a size rounded up to the arena's alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lowest_gap(taken: list[tuple[int, int]], size: int) -> int:
    offset = 0
    for start, end in sorted(taken):
        if start - offset >= size:
            break
        offset = max(offset, end)
    return offset


def _share(graph: Graph, sizes: Mapping[str, int], scratch: frozenset[str]) -> dict[str, str]:
    """Map every activation to the one whose buffer it lives in (itself, if it has its own)."""
    owners = {name: name for name in graph.lifetimes}
    lasting = kept(graph)
    for index, op in enumerate(graph.ops):
        free = {n for n in op.inputs if n in owners and graph.lifetimes[n][1] == index} - lasting
        source = overwritten(graph, op, sizes, free) if op.kind not in scratch else None
        if source is not None:
            owners[op.outputs[0]] = owners[source]
    return owners


def overwritten(
    graph: Graph, op: Op, sizes: Mapping[str, int], free: Collection[str]
) -> str | None:
    """Return the activation that an op writes its output over, or None if it needs a buffer.

    Args:
        graph: that the op is of.
        op: which one.
        sizes: bytes of each activation.
        free: those of its inputs that nothing needs any more when it has run.

    """
    if op.kind not in ELEMENTWISE and op.kind != "reshape":
        return None
    output = op.outputs[0]
    for name in op.inputs:
        # Broadcasting would overwrite elements that are still to be read.
        same = graph.tensors[name].elements == graph.tensors[output].elements
        if name in free and same and sizes[name] == sizes[output]:
            return name
    return None


def kept(graph: Graph) -> frozenset[str]:
    """Return what is needed after the last op: outputs, and states as they were and will be."""
    states = {name for state in graph.states for name in (state.name, state.next)}
    return frozenset(states.union(graph.outputs))


def resident(graph: Graph, dtype: str, sram_bytes: int) -> frozenset[str]:
    """Choose the activations that stay in a fast memory of this size; the rest go to the slow one.

    Small ones first: per byte of fast memory they save as much traffic as large ones, and more
    of them fit. Each is kept if it fits next to those already chosen during its whole life.
    """
    spans = graph.lifetimes
    sizes = {name: aligned(graph.tensors[name].bytes(dtype)) for name in spans}
    used = [0] * max(len(graph.ops), 1)
    chosen = set()
    for name in sorted(spans, key=lambda name: (sizes[name], name)):
        start, end = spans[name]
        if max(used[start : end + 1]) + sizes[name] <= sram_bytes:
            chosen.add(name)
            for step in range(start, end + 1):
                used[step] += sizes[name]
    return frozenset(chosen)
