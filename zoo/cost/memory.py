"""How much memory a graph's activations need: their lifetimes packed into one arena.

Runtimes without a heap (TFLite Micro, Ethos-U drivers) place every activation at a fixed offset
of one block, the tensor arena. Two activations may overlap in space when they never exist at the
same time. The packing here is greedy by size, as in TFLite Micro (Pisarchyk and Lee,
arXiv 2001.03288): buffers from large to small (equal ones from the last to the first, as there),
each at the lowest offset that is free during its life. No packing can be smaller than the live
bytes at the busiest moment; `ArenaPlan` gives both.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from zoo.graph.ir import Graph
from zoo.graph.kinds import ELEMENTWISE

ALIGNMENT = 16  # bytes, as TFLite Micro aligns its arena


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


def plan(
    graph: Graph,
    dtype: str | None,
    *,
    in_place: bool = True,
    scratch: frozenset[str] = frozenset(),
) -> ArenaPlan:
    """Pack the activations of `graph`, deployed in `dtype` or each in its own, into one arena.

    With `in_place`, an elementwise op writes over an input of the same size that nothing reads
    later, and a reshape costs nothing. The graph's inputs lie in the arena and may be written
    over too; its outputs may not. Kinds in `scratch` are lowered to several passes: they never
    run in place and need one more buffer of their output's size while they run.
    """
    spans = dict(graph.lifetimes)
    sizes = {name: _aligned(graph.tensors[name].bytes(dtype)) for name in spans}
    owners = _share(graph, sizes, scratch) if in_place else {name: name for name in spans}
    for index, op in enumerate(graph.ops):
        if op.kind in scratch:
            name = f"{op.name}.scratch"
            spans[name], sizes[name], owners[name] = (index, index), sizes[op.outputs[0]], name
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for name, owner in owners.items():
        first[owner] = min(first.get(owner, spans[name][0]), spans[name][0])
        last[owner] = max(last.get(owner, spans[name][1]), spans[name][1])
    placed: dict[str, int] = {}
    order = {name: place for place, name in enumerate(dict.fromkeys((*graph.tensors, *sizes)))}
    for owner in sorted(first, key=lambda name: (-sizes[name], -order[name])):
        rivals = [
            (placed[other], placed[other] + sizes[other])
            for other in placed
            if first[other] <= last[owner] and first[owner] <= last[other]
        ]
        placed[owner] = _lowest_gap(rivals, sizes[owner])
    live = [
        sum(sizes[owner] for owner in first if first[owner] <= step <= last[owner])
        for step in range(max(len(graph.ops), 1))
    ]
    return ArenaPlan(
        offsets={name: placed[owner] for name, owner in owners.items()},
        sizes=sizes,
        lifetimes=spans,
        arena_bytes=max((placed[owner] + sizes[owner] for owner in placed), default=0),
        lower_bound_bytes=max(live, default=0),
    )


def _aligned(size: int) -> int:
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
    for index, op in enumerate(graph.ops):
        if op.kind in scratch or (op.kind not in ELEMENTWISE and op.kind != "reshape"):
            continue
        output = op.outputs[0]
        for name in op.inputs:
            if (
                name in owners
                and graph.lifetimes[name][1] == index
                and name not in graph.outputs
                # Broadcasting would overwrite elements that are still to be read.
                and graph.tensors[name].elements == graph.tensors[output].elements
                and sizes[name] == sizes[output]
            ):
                owners[output] = owners[name]
                break
    return owners


def resident(graph: Graph, dtype: str, sram_bytes: int) -> frozenset[str]:
    """Choose the activations that stay in a fast memory of this size; the rest go to the slow one.

    Small ones first: per byte of fast memory they save as much traffic as large ones, and more
    of them fit. Each is kept if it fits next to those already chosen during its whole life.
    """
    spans = graph.lifetimes
    sizes = {name: _aligned(graph.tensors[name].bytes(dtype)) for name in spans}
    used = [0] * max(len(graph.ops), 1)
    chosen = set()
    for name in sorted(spans, key=lambda name: (sizes[name], name)):
        start, end = spans[name]
        if max(used[start : end + 1]) + sizes[name] <= sram_bytes:
            chosen.add(name)
            for step in range(start, end + 1):
                used[step] += sizes[name]
    return frozenset(chosen)
