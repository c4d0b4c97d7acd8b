"""What lies in memory while each operator runs: the sizes and the lifetimes of activations.

The compiler keeps activations in bricks of 16 channels or as they are; views, parts that are
joined, padding and tables that a layer does itself have no buffer of their own, and elementwise
operators write over an input that nothing reads later. All that follows from the graph.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from zoo.cost.ethos_u.site import NUMBERS, VIEWS
from zoo.graph.ir import ITEM_BYTES, Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALIGNMENT = 16
JOINING = frozenset(("concat", "pack"))


def stored_bytes(graph: Graph, name: str, bricks: bool) -> int:
    """Return the bytes of an activation, channels in whole bricks where it lies in them."""
    tensor = graph.tensors[name]
    size = math.prod(tensor.shape)
    if bricks:
        channels = tensor.shape[1 if graph.layout == "torch" and len(tensor.shape) == 4 else -1]
        size = size // max(channels, 1) * (-(-channels // 16) * 16)
    return -(-size * ITEM_BYTES[tensor.dtype] // ALIGNMENT) * ALIGNMENT


def live_bytes(
    held: Iterable["HeldBuffer"], steps: int, fast: frozenset[str] | None = None
) -> "NDArray[np.float64]":
    """Return the bytes of activations that exist while each operator runs.

    Args:
        held: all buffers.
        steps: operators of the graph.
        fast: activations in the fast memory alone count; None for all.

    """
    change = [0] * (steps + 1)
    for one in held:
        if fast is None or fast.intersection(one.names):
            change[one.first] += one.size
            change[one.last + 1] -= one.size
    return np.cumsum(change[:-1], dtype=np.float64)


class HeldBuffer(NamedTuple):
    """A buffer of activations.

    Attributes:
        size: in bytes.
        first: step of the graph in which it is written; `last` in which it is read.
        names: of the activations that lie in it.

    """

    size: int
    first: int
    last: int
    names: tuple[str, ...]


def buffers(graph: Graph, bricks: Mapping[str, bool], hidden: Collection[str]) -> list[HeldBuffer]:
    """Return the buffers of activations.

    Args:
        graph: in the order in which it runs.
        bricks: by name of an activation, whether it lies in bricks.
        hidden: names of operators that are part of the one before: padding and tables.

    """
    spans = graph.lifetimes
    padded = {op.outputs[0] for op in graph.ops if op.kind == "pad" and op.name in hidden}
    found: dict[str, HeldBuffer] = {}
    for name, owner in _owners(graph, spans, bricks, hidden).items():
        size = 0 if name in padded else stored_bytes(graph, name, bricks[name])
        one = HeldBuffer(size, *spans[name], (name,))
        if (known := found.get(owner)) is not None:
            one = HeldBuffer(
                max(known.size, size), min(known.first, one.first), max(known.last, one.last),
                (*known.names, name),
            )  # fmt: skip
        found[owner] = one
    return list(found.values())


def resident(held: Iterable[HeldBuffer], own: frozenset[str], sram_bytes: int) -> frozenset[str]:
    """Choose the activations that stay in a fast memory of this size; the rest go to the slow one.

    Small buffers first: for each byte of fast memory they save as much traffic as large ones, and
    more of them fit. Each is kept if it fits next to those already chosen during its whole life.

    Args:
        held: all buffers.
        own: activations that lie in the slow memory in any case.
        sram_bytes: of the fast memory.

    """
    chosen: list[str] = []
    some = [one for one in held if not own.intersection(one.names)]
    used = [0] * (max((one.last for one in some), default=0) + 1)
    for one in sorted(some, key=lambda one: (one.size, one.first)):
        span = range(one.first, one.last + 1)
        if max(used[step] for step in span) + one.size <= sram_bytes:
            chosen += one.names
            for step in span:
                used[step] += one.size
    return frozenset(chosen)


def _owners(
    graph: Graph,
    spans: Mapping[str, tuple[int, int]],
    bricks: Mapping[str, bool],
    hidden: Collection[str],
) -> dict[str, str]:
    """Map every activation to the one whose buffer it lies in: itself, if it has its own."""
    owners = {name: name for name in spans}
    ends = {name: last for name, (_, last) in spans.items()}  # of buffers
    for place, op in enumerate(graph.ops):
        source = None
        if op.name in hidden or op.kind in VIEWS:
            source = op.inputs[0] if op.inputs[0] in owners else None
        elif op.kind in NUMBERS:
            free = [n for n in op.inputs if n in owners and ends[owners[n]] == place]
            source = _overwritten(graph, op, free, bricks)
        if source is not None:
            for name in op.outputs:
                owners[name] = owners[source]
                ends[owners[name]] = max(ends[owners[name]], spans[name][1])
    for op in reversed(graph.ops):
        if op.kind in JOINING:
            for name in op.inputs:
                if name in owners and owners[name] == name and written_in_place(graph, name):
                    owners[name] = owners[op.outputs[0]]
    return {name: _end(owners, name) for name in owners}


def _end(owners: Mapping[str, str], name: str) -> str:
    while owners[name] != name:
        name = owners[name]
    return name


def written_in_place(graph: Graph, name: str) -> bool:
    """Return whether a part of a joint is written where the joint needs it, not copied there."""
    maker = graph.producers.get(name)
    kept = len(graph.consumers[name]) > 1 or name in graph.outputs
    return maker is not None and not kept and maker.kind not in VIEWS


def _overwritten(
    graph: Graph, op: Op, free: Sequence[str], bricks: Mapping[str, bool]
) -> str | None:
    """Return the input that an elementwise operator writes over, or None."""
    (output,) = op.outputs
    if any(graph.tensors[name].shape != graph.tensors[output].shape for name in op.inputs):
        return None  # what is repeated is read again
    size = stored_bytes(graph, output, bricks[output])
    fitting = (n for n in free if stored_bytes(graph, n, bricks[n]) == size)
    return next((name for name in fitting if name not in graph.outputs), None)
