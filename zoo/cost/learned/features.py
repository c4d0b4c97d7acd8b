"""What a predictor sees of a network: a row of numbers for each pass of the accelerator."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.cost.ethos_u.array import Array85
from zoo.cost.ethos_u.chains import chained
from zoo.cost.ethos_u.costs import memories, own
from zoo.cost.ethos_u.lifetimes import buffers, live_bytes, resident
from zoo.cost.ethos_u.lowering import fused_tables, on_host, padded_on_the_way
from zoo.cost.ethos_u.schedule import Memories, Still, timed
from zoo.cost.ethos_u.site import Site
from zoo.cost.learned.layers import (
    FLAGS,
    KINDS,
    ROUNDED,
    SHARES,
    STILL,
    UNITS,
    Layers,
    TensorPlaces,
    encoded,
    layers,
)
from zoo.cost.learned.layers import SIZES as _SIZES
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

# Logarithms of counts; of these a range is kept.
SIZES = (*_SIZES, "encoded bytes")
TIMES = (
    "cycles", "compute cycles", "fast cycles", "slow cycles", "slack before", "first weights",
    "bytes live", "bytes live before", "bytes live after", "encoded before", "encoded after",
    "passes", "arena", "buffer", "buffer after", "reads",
    "reads after", "scales read",
)  # fmt: skip
PLACE = (
    "compute share", "slow share", "live share", "weights share", "weights share after", "copied",
    "copied after", "first", "last",
)  # fmt: skip
BESIDE = (
    *(f"unit before {name}" for name in UNITS), *(f"unit after {name}" for name in UNITS),
)  # fmt: skip
_ROUNDED = tuple(name for name, *_ in ROUNDED)
NAMES = (*SIZES, *TIMES, *SHARES, *_ROUNDED, *FLAGS, *KINDS, *PLACE, *BESIDE)
BUSY = ("compute cycles", "fast cycles", "slow cycles")
_KEPT = np.array([NAMES.index(name) for name in STILL])
_UNITS = slice(NAMES.index(f"unit {UNITS[0]}"), NAMES.index(f"unit {UNITS[-1]}") + 1)


@dataclass(frozen=True, kw_only=True)
class SeenPasses:
    """The passes of one network on one target.

    Attributes:
        features: (passes, features) float32, `NAMES`.
        cycles: (passes,) of the cycle model.
        encoded: (passes,) bytes of weights, 0 where they were counted before.
        live: (passes,) bytes of activations in the fast memory then.
        buffer: (passes,) bytes of weights and scales that are copied there for it.
        following: (passes,) those of the next pass.
        operators: (passes,) the operator of each, by its place in the graph.
        host: why operators run on the host CPU, by their place in the graph.

    """

    features: "Floats"
    cycles: "Floats"
    encoded: "Floats"
    live: "Floats"
    buffer: "Floats"
    following: "Floats"
    operators: "NDArray[np.int64]"
    host: dict[int, str]


def passes_of(graph: Graph, target: Target) -> SeenPasses:
    """Return what a predictor sees of an int8 graph on an Ethos-U; see `all_passes_of`."""
    return all_passes_of([graph], target)[0]


def all_passes_of(graphs: Sequence[Graph], target: Target) -> list[SeenPasses]:
    """Return what a predictor sees of some int8 graphs on an Ethos-U, at once.

    Raises:
        MismatchError: the target is no Ethos-U that the cycle model knows, or nothing of a
            network runs on it.

    """
    array = target.array
    if array is None:
        raise MismatchError(f"{target.name} has no array; expected an Ethos-U")
    if not graphs:
        return []
    speeds = memories(target)
    kept = layers(array, speeds)
    kept.tidy()
    found = [_run(graph, target, kept, speeds) for graph in graphs]
    features, numbers = _features(found, kept.table, speeds)
    seen, start = [], 0
    for one in found:
        part = slice(start, start + len(one.rows))
        start = part.stop
        seen.append(
            SeenPasses(
                features=features[part],
                **{name: values[part] for name, values in numbers.items()},
                operators=np.array(one.operators),
                host=one.host,
            )
        )
    return seen


def compiled_order(graph: Graph) -> tuple[Op, ...]:
    """Return the operators in the order in which the compiler runs them.

    It walks back from the last output, and takes an operator's last input first; a concatenation,
    which it makes copies of, is walked from its first.
    """
    seen: set[str] = set()
    found: list[Op] = []
    producers = graph.producers
    waiting: list[tuple[Op, bool]] = [
        (producers[name], False) for name in graph.outputs if name in producers
    ]
    while waiting:
        op, ready = waiting.pop()
        if ready:
            found.append(op)
        elif op.name not in seen:
            seen.add(op.name)
            waiting.append((op, True))
            makers = [producers[name] for name in op.inputs if name in producers]
            makers = makers[::-1] if op.kind == "concat" else makers
            waiting += [(maker, False) for maker in makers if maker.name not in seen]
    return (*found, *(op for op in graph.ops if op.name not in seen))


@dataclass(frozen=True)
class _Run:
    """The passes of a network, in order.

    Attributes:
        rows: of each pass in `Layers.table`; `sizes` bytes of its weights, `counted` 0 of those
            that were counted before.
        times: cycles in all, of the arithmetic, of the fast and of the slow memory.
        beside: cycles that the pass before leaves the slow memory idle, share of the weights that
            come first, how often they are read, whether the cycle model copies them, their bytes
            with the scales'.
        live: bytes of activations.
        operators, host: see `SeenPasses`.

    """

    rows: list[int]
    sizes: list[float]
    counted: list[float]
    times: list[tuple[float, float, float, float]]
    beside: list[tuple[float, float, int, bool, float]]
    live: "NDArray[np.float64]"
    operators: list[int]
    host: dict[int, str]


def _run(graph: Graph, target: Target, kept: Layers, speeds: Memories) -> _Run:
    if not graph.ops:
        raise MismatchError("the network has no operator")
    order = compiled_order(graph)
    numbers = {op.name: place for place, op in enumerate(graph.ops)}
    if order != graph.ops:
        graph = dataclasses.replace(graph, ops=order)
    fused = fused_tables(graph)
    if isinstance(kept.array, Array85):
        graph = chained(graph, fused)
    ends = own(graph) if target.spills else frozenset()
    plain, hidden = on_host(graph) | ends, set(fused.values())
    site = Site(graph, graph.ops[0], kept.array.microblock[2], "", plain)
    bricks = {name: site.bricks(name) for name in graph.lifetimes}
    padded = {op.name for op in graph.ops if op.kind == "pad" and padded_on_the_way(graph, op)}
    held = buffers(graph, bricks, hidden | padded)
    fast = resident(held, ends, target.sram_bytes or 0) if target.spills else None
    lies = TensorPlaces(bricks, plain, fast)
    rows: list[int] = []
    stills: list[Still] = []
    sizes, counted, places, steps = [], [], [], []
    host: dict[int, str] = {}
    for step, op in enumerate(graph.ops):
        if op.name in hidden:
            continue
        made = kept.made(graph, op, lies, fused.get(op.name, ""))
        if made.reason:
            host[numbers[op.name]] = made.reason
            continue
        if not made.rows:
            continue
        layer = encoded(graph, op, site.micro_depth, kept.array.cores) if made.asks else 0.0
        every, once = made.sizes(layer)
        rows += made.rows
        stills += made.stills
        sizes += every
        counted += once
        places += [numbers[op.name]] * len(made.rows)
        steps += [step] * len(made.rows)
    if not rows:
        raise MismatchError(f"nothing of this network runs on {target.name}")
    live = live_bytes(held, len(graph.ops), fast)
    found = list(timed(stills, sizes, speeds))
    beside = [
        (slack, alone.first, alone.reads, one.copied, size + alone.scales if size else 0.0)
        for slack, one, size, alone in zip(
            [0.0, *(one.slack for one in found[:-1])], found, sizes, stills, strict=True
        )
    ]
    return _Run(rows, sizes, counted, [one[:4] for one in found], beside, live[steps], places, host)


def _features(
    found: Sequence[_Run], table: "Floats", speeds: Memories
) -> "tuple[Floats, dict[str, Floats]]":
    """Return the features of all passes of some networks, and `SeenPasses`' other numbers."""
    lengths = np.array([len(one.rows) for one in found])
    ends = np.cumsum(lengths)
    first = np.zeros(ends[-1], bool)
    last = first.copy()
    first[ends - lengths], last[ends - 1] = True, True
    times, beside = (
        np.array([row for one in found for row in getattr(one, name)], np.float64)
        for name in ("times", "beside")
    )
    sizes, counted = (
        np.array([value for one in found for value in getattr(one, name)], np.float64)
        for name in ("sizes", "counted")
    )
    live = np.concatenate([one.live for one in found])
    cycles, compute, fast, slow = times.T
    slack, share, reads, copied, buffer = beside.T
    reads[buffer == 0] = 0
    scales = buffer - sizes
    scales[buffer == 0] = 0
    arena = np.repeat(np.maximum.reduceat(live, ends - lengths), lengths)
    following = _after(buffer, last)
    logs = [
        sizes, cycles, compute, fast, slow, slack, sizes * share / speeds.slow,
        live, _before(live, first), _after(live, last), _before(counted, first),
        _after(counted, last), _counts(found), arena, buffer, following,
        reads, _after(reads, last), scales * reads,
    ]  # fmt: skip
    features = np.zeros((ends[-1], len(NAMES)), np.float32)
    features[:, _KEPT] = table[[row for one in found for row in one.rows]]
    start = NAMES.index("encoded bytes")
    features[:, start : start + len(logs)] = np.log1p(logs).T
    total = np.maximum(cycles, 1.0)
    loading = np.minimum(buffer / speeds.slow / np.maximum(compute, 1.0), 4.0)
    start = NAMES.index(PLACE[0])
    features[:, start : start + len(PLACE)] = np.stack(
        [compute / total, slow / total, live / np.maximum(arena, 1), loading,
         _after(loading, last), copied, _after(copied, last), first, last], axis=1,
    )  # fmt: skip
    units, start = features[:, _UNITS], start + len(PLACE)
    features[:, start : start + len(UNITS)] = _before(units, first)
    features[:, start + len(UNITS) :] = _after(units, last)
    numbers = {
        "cycles": cycles, "encoded": counted, "live": live, "buffer": buffer,
        "following": following,
    }  # fmt: skip
    return features, {name: values.astype(np.float32) for name, values in numbers.items()}


def _counts(found: Sequence[_Run]) -> "NDArray[np.int64]":
    """Return how many passes the operator of each pass has."""
    counts = []
    for one in found:
        own_counts = np.bincount(one.operators)
        counts.append(own_counts[one.operators])
    return np.concatenate(counts)


def _before(values: Any, first: "NDArray[np.bool_]") -> Any:
    """Return the values of the pass before; 0 at the start of a network."""
    shifted = np.empty_like(values)
    shifted[1:] = values[:-1]
    shifted[first] = 0
    return shifted


def _after(values: Any, last: "NDArray[np.bool_]") -> Any:
    """Return the values of the pass after; 0 at the end of a network."""
    shifted = np.empty_like(values)
    shifted[:-1] = values[1:]
    shifted[last] = 0
    return shifted
