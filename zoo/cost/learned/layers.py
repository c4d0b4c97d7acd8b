"""The passes of a network's operators, kept by shape: a layer seen once is not taken apart again.

What a pass needs before its weights and what runs before it are known is the same wherever the
layer comes again, so a search that varies widths finds nearly all of it here. An operator whose
passes depend on more than its own shapes is taken apart each time; its passes are kept.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.cost.ethos_u.array import ACTIVATIONS, OUTPUTS, Array, Array85
from zoo.cost.ethos_u.blocks import BlockSizes, blocks, up, within
from zoo.cost.ethos_u.blocks85 import blocks85, sparse
from zoo.cost.ethos_u.chains import placed
from zoo.cost.ethos_u.encoding import Coding, encoded_bytes
from zoo.cost.ethos_u.layers import LONGEST_STRIDE
from zoo.cost.ethos_u.lowering import CUTS, TABLES, passes
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass
from zoo.cost.ethos_u.schedule import Memories, Still, still
from zoo.cost.ethos_u.site import NUMBERS, OnHostError, Site
from zoo.cost.networks.rows import UNITS as CODED
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

UNITS = ("conv", "depthwise", "vector", "pool", "reduce", "elementwise", "move")
SIZES = (
    "input rows", "input columns", "input channels", "output rows", "output columns",
    "output channels", "kernel rows", "kernel columns", "stride",
)  # fmt: skip
SHARES = (
    "block rows", "block columns", "block channels", "blocks", "input block channels", "filled",
    "last rows", "last columns", "last channels", "input bricks", "output bricks",
)  # fmt: skip
# By how much a size is rounded up to whole steps: logarithms.
ROUNDED = (
    *((f"output {side} by {step}", place, step)
      for place, side in ((3, "rows"), (4, "columns")) for step in (2, 4, 8)),
    *((f"{which} channels by {step}", place, step)
      for place, which in ((2, "input"), (5, "output")) for step in (4, 8, 32, 64)),
)  # fmt: skip
FLAGS = (
    "part kernel", "reads bricks", "bricks", "scattered", "reads slow", "writes slow", "table",
    "scalar", "constant", "doubled", "wide input", "wide output", "chained", "sparse",
)  # fmt: skip
KINDS = (
    *(f"unit {name}" for name in UNITS), *(f"output {name}" for name in OUTPUTS),
    *(f"activation {name}" for name in ACTIVATIONS),
)  # fmt: skip
STILL = (
    *SIZES,
    *SHARES,
    *(name for name, *_ in ROUNDED),
    *FLAGS,
    *KINDS,
)  # what is kept of a pass; sizes are logarithms
# Operators whose passes follow from their shapes, their attributes and where their tensors lie.
LOCAL = frozenset(
    (*CODED, *NUMBERS, *CUTS, *TABLES, "avg_pool2d", "max_pool2d", "mean", "softmax",
     "resize_nearest", "reshape")
)  # fmt: skip
_APART = frozenset(("encoded_bytes", "padding"))  # attributes that no size depends on
MOST = 200_000  # operators that are kept


@dataclass(frozen=True)
class LayerPasses:
    """The passes of an operator.

    Attributes:
        rows: of each pass in `Layers.table`.
        stills: what each takes by itself.
        encoded: bytes of its weights; -1 for those of the layer.
        again: whether its weights were counted with a pass before.
        asks: whether any are those of the layer.
        reason: why it runs on the host CPU instead, or "".
        single: there is one pass, whose weights, if any, are those of the layer.

    """

    rows: tuple[int, ...] = ()
    stills: tuple[Still, ...] = ()
    encoded: tuple[float, ...] = ()
    again: tuple[bool, ...] = ()
    asks: bool = False
    reason: str = ""
    single: bool = False

    def sizes(self, layer: float) -> tuple[list[float], list[float]]:
        """Return the bytes of each pass, all and without those that were counted before."""
        if self.single:
            every = [layer] if self.asks else [self.encoded[0]]
            return every, every
        every = [layer if size < 0 else size for size in self.encoded]
        if True not in self.again:
            return every, every
        counted = zip(every, self.again, strict=True)
        return every, [0.0 if again else size for size, again in counted]


@dataclass(frozen=True)
class TensorPlaces:
    """Where the tensors of a graph lie.

    Attributes:
        bricks: by name of an activation, whether it lies in bricks.
        plain: what operators on the host CPU read or write, and on a device with DRAM the ends.
        fast: activations in the fast memory; None for all.

    """

    bricks: Mapping[str, bool]
    plain: frozenset[str]
    fast: frozenset[str] | None


class Layers:
    """What is kept of the passes on one array with its memories."""

    def __init__(self, array: Array | Array85, memories: Memories) -> None:
        """Start with nothing."""
        self.array, self.memories = array, memories
        self._made: dict[Any, LayerPasses] = {}
        self._passes: dict[Pass, tuple[int, Still]] = {}
        self._rows: list[Floats] = []
        self._table = np.zeros((0, len(STILL)), np.float32)

    @property
    def table(self) -> "Floats":
        """What is kept of all passes, (passes, STILL)."""
        if len(self._table) != len(self._rows):
            new = np.stack(self._rows[len(self._table) :])
            self._table = np.concatenate([self._table, new])
        return self._table

    def tidy(self) -> None:
        """Forget all where there is much."""
        if max(len(self._rows), len(self._made)) > MOST:
            self._made.clear()
            self._passes.clear()
            self._rows.clear()
            self._table = self._table[:0]

    def made(self, graph: Graph, op: Op, lies: TensorPlaces, table: str) -> LayerPasses:
        """Return the passes of an operator.

        Args:
            graph: that it is of.
            op: the operator.
            lies: where its tensors lie.
            table: kind of the function that it applies to its result, or "".

        """
        key = _key(graph, op, lies, table) if op.kind in LOCAL and op.inputs else None
        try:
            found = None if key is None else self._made.get(key)
        except TypeError:  # an attribute cannot be hashed
            key = found = None
        if found is None:
            found, general = self._new(graph, op, lies, table)
            if key is not None and general:
                self._made[key] = found
        return found

    def _new(
        self, graph: Graph, op: Op, lies: TensorPlaces, table: str
    ) -> tuple[LayerPasses, bool]:
        """Return the passes, and whether they are those of any such layer, whatever its weights."""
        array, depth = self.array, self.array.microblock[2]
        chains = isinstance(array, Array85)
        try:
            jobs = passes(Site(graph, op, depth, table, lies.plain, array.cores, chains))
        except OnHostError as reason:
            return LayerPasses(reason=str(reason)), True
        jobs = placed(jobs, op, lies.fast)
        kept = [self._pass(replace(job, encoded=0, again=False)) for job in jobs]
        own = op.kind in CODED and graph.tensors[op.inputs[1]].is_parameter
        asked = own and _whole(graph, op)
        made = LayerPasses(
            rows=tuple(row for row, _ in kept),
            stills=tuple(one for _, one in kept),
            encoded=tuple(-1.0 if asked and job.weights else float(job.encoded) for job in jobs),
            again=tuple(job.again for job in jobs),
            asks=asked,
            single=len(jobs) == 1 and bool(jobs[0].weights) == asked and not jobs[0].again,
        )
        return made, asked or not own

    def _pass(self, job: Pass) -> tuple[int, Still]:
        found = self._passes.get(job)
        if found is None:
            array = self.array
            cut = blocks85(job, array) if isinstance(array, Array85) else blocks(job, array)
            row = np.array(_row(job, cut), np.float32)
            self._rows.append(row)
            found = len(self._rows) - 1, still(job, self.array, self.memories)
            self._passes[job] = found
        return found


def encoded(graph: Graph, op: Op, micro_depth: int, cores: int) -> float:
    """Return the encoded bytes of a layer's weights."""
    known = op.attributes.get("encoded_bytes")
    if known is not None and op.inputs[1] not in graph.values:
        return float(known[min(cores, len(known)) - 1])
    return float(encoded_bytes(graph, op, Coding(CODED[op.kind], micro_depth, cores=cores)))


def _whole(graph: Graph, op: Op) -> bool:
    """Return whether all weights of a layer are one stream: it has no groups."""
    outputs, inputs, _ = graph.kernel(op)
    shape = graph.tensors[op.inputs[0]].shape
    channels = shape[1 if graph.layout == "torch" and len(shape) == 4 else -1]
    if op.kind == "depthwise_conv2d":
        return channels in (1, outputs)
    return op.kind != "conv2d" or channels == inputs


def _key(graph: Graph, op: Op, lies: TensorPlaces, table: str) -> Any:
    """Return all that the passes of a local operator depend on; None where that is more."""
    bricks, fast = lies.bricks, lies.fast
    tensors, inputs, attributes = graph.tensors, op.inputs, op.attributes
    x, y, stride = inputs[0], op.outputs[0], attributes.get("stride", (1, 1))
    second = None
    if len(inputs) > 1:
        other = tensors[inputs[1]]
        second = other.shape, other.is_parameter
        if op.kind in CODED and not (other.is_parameter and max(stride) <= LONGEST_STRIDE):
            return None
    options = tuple([item for item in attributes.items() if item[0] not in _APART])
    padded = any(attributes.get("padding") or ())
    beside = inputs[len(inputs) - attributes.get("operands", 0) :]
    near = None if fast is None else tuple([name in fast for name in (x, y, *beside)])
    return (
        op.kind, table, tensors[x].shape, tensors[y].shape, second, bricks.get(x), bricks.get(y),
        options, padded, graph.layout, near,
    )  # fmt: skip


def _row(job: Pass, cut: BlockSizes) -> Sequence[float]:
    sizes = (*job.ifm, *job.ofm, *job.kernel, max(job.stride))
    return (
        *(math.log1p(size) for size in sizes), *_shares(job, cut),
        *(math.log(up(sizes[place], step) / sizes[place]) for _, place, step in ROUNDED),
        *_flags(job, cut),
        *_one(job.unit, UNITS), *_one(job.output, OUTPUTS), *_one(job.activation, ACTIVATIONS),
    )  # fmt: skip


def _shares(job: Pass, cut: BlockSizes) -> Sequence[float]:
    """Return how a pass fills its blocks."""
    block = within(job.ofm, cut.ofm)
    number = math.prod(-(-n // b) for n, b in zip(job.ofm, block, strict=True))
    rest = [(n - 1) % b + 1 for n, b in zip(job.ofm, block, strict=True)]
    filled = 1.0
    if job.unit in MAC_UNITS:
        filled = job.ofm[2] / up(job.ofm[2], 8) * job.ifm[2] / up(job.ifm[2], 8)
    return (
        *(math.log2(b) / 5 for b in block), math.log2(number) / 5, math.log2(cut.ifm[2] + 1) / 5,
        filled, *(r / b for r, b in zip(rest, block, strict=True)),
        job.ifm[2] / up(job.ifm[2], 16), job.ofm[2] / up(job.ofm[2], 16),
    )  # fmt: skip


def _flags(job: Pass, cut: BlockSizes) -> Sequence[float]:
    return (
        cut.part_kernel, job.reads_bricks, job.bricks, job.scattered, job.reads_slow,
        job.writes_slow, job.table_bytes > 0, job.scalar, job.constant, job.upscale > 1,
        job.in_bits > 8, job.out_bits > 8, job.chained > 0, cut.micro[2] > 0 and sparse(job),
    )  # fmt: skip


def _one(name: str, names: Sequence[str]) -> list[float]:
    return [float(name == other) for other in names]


@functools.lru_cache(maxsize=32)
def layers(array: Array | Array85, memories: Memories) -> Layers:
    """Return what is kept of an array with its memories."""
    return Layers(array, memories)
