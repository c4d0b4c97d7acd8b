"""What a predictor sees of a network: a row of numbers for each pass of the accelerator."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.cost.ethos_u.array import ACTIVATIONS, OUTPUTS
from zoo.cost.ethos_u.blocks import BlockSizes, blocks, up, within
from zoo.cost.ethos_u.costs import Layout, laid_out, memories
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass
from zoo.cost.ethos_u.schedule import Memories, Spent, spent
from zoo.cost.target import Target
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

UNITS = ("conv", "depthwise", "vector", "pool", "reduce", "elementwise", "move")
# Logarithms of counts, in the order of `_sizes`; these are what a range is kept of.
SIZES = (
    "input rows", "input columns", "input channels", "output rows", "output columns",
    "output channels", "kernel rows", "kernel columns", "stride", "encoded bytes",
)  # fmt: skip
TIMES = (
    "cycles", "compute cycles", "fast cycles", "slow cycles", "slack before", "first weights",
    "bytes live", "bytes live before", "bytes live after", "encoded before", "encoded after",
    "passes", "arena",
)  # fmt: skip
SHARES = (
    "block rows", "block columns", "block channels", "blocks", "input block channels", "filled",
    "last rows", "last columns", "last channels", "compute share", "slow share", "input bricks",
    "output bricks", "live share",
)  # fmt: skip
FLAGS = (
    "part kernel", "reads bricks", "bricks", "scattered", "reads slow", "writes slow", "table",
    "scalar", "constant", "doubled", "wide input", "wide output", "first", "last",
)  # fmt: skip
NAMES = (
    *SIZES, *TIMES, *SHARES, *FLAGS, *(f"unit {name}" for name in UNITS),
    *(f"output {name}" for name in OUTPUTS), *(f"activation {name}" for name in ACTIVATIONS),
    *(f"unit before {name}" for name in UNITS), *(f"unit after {name}" for name in UNITS),
)  # fmt: skip
COUNTED = len(SIZES) + len(TIMES)  # features that are logarithms


@dataclass(frozen=True, kw_only=True)
class SeenPasses:
    """The passes of one network on one target.

    Attributes:
        features: (passes, features) float32, `NAMES`.
        cycles: (passes,) of the cycle model.
        encoded: (passes,) bytes of weights, 0 where they were counted before.
        live: (passes,) bytes of activations that exist then, in bricks.
        operators: (passes,) the operator of each, by its place in the graph.
        host: why operators run on the host CPU, by their place in the graph.

    """

    features: "Floats"
    cycles: "Floats"
    encoded: "Floats"
    live: "Floats"
    operators: "NDArray[np.int64]"
    host: dict[int, str]


def passes_of(graph: Graph, target: Target) -> SeenPasses:
    """Return what a predictor sees of an int8 graph on an Ethos-U.

    Raises:
        MismatchError: the target is no Ethos-U that the cycle model knows, or nothing of the
            network runs on it.

    """
    if target.array is None:
        raise MismatchError(f"{target.name} has no array; expected an Ethos-U55 or U65")
    numbers = {op.name: place for place, op in enumerate(graph.ops)}
    graph = dataclasses.replace(graph, ops=compiled_order(graph))
    layout = laid_out(graph, target)
    if not layout.jobs:
        raise MismatchError(f"nothing of this network runs on {target.name}")
    order = [numbers[op.name] for op, _ in layout.kept]
    operators = np.array([order[place] for place in layout.places])
    return SeenPasses(
        **_arrays(graph, layout, operators, target),
        operators=operators,
        host={order[place]: why for place, why in layout.reasons.items()},
    )


def compiled_order(graph: Graph) -> tuple[Op, ...]:
    """Return the operators in the order in which the compiler runs them.

    It walks back from the last output, and takes an operator's last input first; a concatenation,
    which it makes copies of, is walked from its first.
    """
    seen: set[str] = set()
    found: list[Op] = []
    waiting: list[tuple[Op, bool]] = [
        (graph.producers[name], False) for name in graph.outputs if name in graph.producers
    ]
    while waiting:
        op, ready = waiting.pop()
        if ready:
            found.append(op)
        elif op.name not in seen:
            seen.add(op.name)
            waiting.append((op, True))
            makers = [graph.producers[name] for name in op.inputs if name in graph.producers]
            makers = makers[::-1] if op.kind == "concat" else makers
            waiting += [(maker, False) for maker in makers if maker.name not in seen]
    return (*found, *(op for op in graph.ops if op.name not in seen))


def _arrays(
    graph: Graph, layout: Layout, operators: "NDArray[np.int64]", target: Target
) -> "dict[str, Floats]":
    assert target.array is not None
    speeds, jobs = memories(target), layout.jobs
    found = list(spent(jobs, target.array, speeds))
    cut = [blocks(job, target.array) for job in jobs]
    slack = [0.0]
    for one in found:
        slack.append(max(one.busy["compute"] - one.busy[speeds.name], 0.0))
    live = _live(graph)
    times = np.array([_times(*given, speeds) for given in zip(jobs, found, slack, strict=False)])
    held = live[operators]
    counts = np.bincount(operators, minlength=len(graph.ops))[operators]
    encoded = np.array([0.0 if job.again else job.encoded for job in jobs])
    context = np.stack(
        [
            held, *_beside(held), *_beside(encoded), counts,
            np.full(len(jobs), live.max()),
        ],
        axis=1,
    )  # fmt: skip
    sizes = np.array([_sizes(job) for job in jobs], np.float64)
    shares = np.array([_shares(*given) for given in zip(jobs, cut, found, strict=True)])
    shares = np.concatenate([shares, (held / max(live.max(), 1))[:, None]], axis=1)
    units = np.array([_one(job.unit, UNITS) for job in jobs])
    kinds = [[*_one(job.output, OUTPUTS), *_one(job.activation, ACTIVATIONS)] for job in jobs]
    ends = np.zeros((len(jobs), 2))
    ends[0, 0] = ends[-1, 1] = 1
    flags = np.concatenate(
        [np.array([_flags(*pair) for pair in zip(jobs, cut, strict=True)]), ends], 1
    )
    none = np.zeros((1, len(UNITS)))
    features = np.concatenate(
        [
            np.log1p(np.concatenate([sizes, times, context], axis=1)), shares, flags, units,
            np.array(kinds), np.concatenate([none, units[:-1]]), np.concatenate([units[1:], none]),
        ],
        axis=1,
    )  # fmt: skip
    single = np.float32
    return {
        "features": features.astype(single),
        "cycles": np.array([one.cycles for one in found], single),
        "encoded": encoded.astype(single),
        "live": held.astype(single),
    }


def _beside(values: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the values of the pass before and of the pass after; 0 at the ends."""
    padded = np.concatenate([[0.0], values, [0.0]])
    return padded[:-2], padded[2:]


def _sizes(job: Pass) -> Sequence[float]:
    return (*job.ifm, *job.ofm, *job.kernel, max(job.stride), job.encoded)


def _times(job: Pass, one: Spent, slack: float, speeds: Memories) -> Sequence[float]:
    first = job.encoded * min(1.0, 16 / max(job.ofm[2], 1)) / speeds.slow
    busy = one.busy
    return (one.cycles, busy["compute"], busy["sram"], busy[speeds.name], slack, first)


def _shares(job: Pass, cut: BlockSizes, one: Spent) -> Sequence[float]:
    """Return how a pass fills its blocks, and what it waits for."""
    block = within(job.ofm, cut.ofm)
    number = math.prod(-(-n // b) for n, b in zip(job.ofm, block, strict=True))
    rest = [(n - 1) % b + 1 for n, b in zip(job.ofm, block, strict=True)]
    filled = 1.0
    if job.unit in MAC_UNITS:
        filled = job.ofm[2] / up(job.ofm[2], 8) * job.ifm[2] / up(job.ifm[2], 8)
    total = max(one.cycles, 1.0)
    slow = sum(value for name, value in one.busy.items() if name not in ("compute", "sram"))
    return (
        *(math.log2(b) / 5 for b in block), math.log2(number) / 5, math.log2(cut.ifm[2] + 1) / 5,
        filled, *(r / b for r, b in zip(rest, block, strict=True)),
        one.busy["compute"] / total, slow / total, job.ifm[2] / up(job.ifm[2], 16),
        job.ofm[2] / up(job.ofm[2], 16),
    )  # fmt: skip


def _flags(job: Pass, cut: BlockSizes) -> Sequence[float]:
    return (
        cut.part_kernel, job.reads_bricks, job.bricks, job.scattered, job.reads_slow,
        job.writes_slow, job.table_bytes > 0, job.scalar, job.constant, job.upscale > 1,
        job.in_bits > 8, job.out_bits > 8,
    )  # fmt: skip


def _one(name: str, names: Sequence[str]) -> list[float]:
    return [float(name == other) for other in names]


def _live(graph: Graph) -> "NDArray[np.float64]":
    """Return the bytes of activations that exist at each operator, channels in whole bricks.

    A view lies in what it is a view of, so it is not counted again.
    """
    count = len(graph.ops)
    change = np.zeros(count + 1)
    ends = {name: list(span) for name, span in graph.lifetimes.items()}
    views = {op.outputs[0]: op.inputs[0] for op in graph.ops if op.kind == "reshape"}
    for view, whole in reversed(views.items()):
        if whole in ends:
            ends[whole][1] = max(ends[whole][1], ends[view][1])
    for name, (first, last) in ends.items():
        if name in views:
            continue
        *sides, channels = graph.tensors[name].shape
        size = math.prod(sides) * (up(channels, 16) if len(sides) == 3 else channels)
        change[first] += size
        change[last + 1] -= size
    return np.cumsum(change)[:count]
