"""What keeps an Ethos-U busy: the arithmetic of each pass, or a memory while it transfers.

A pass takes the longest of its arithmetic and of what each memory needs for its bytes. Weights
lie in the slow memory, encoded. Those that are read several times are copied to the fast one
first; what is copied while the pass before still computes costs nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from zoo.cost.ethos_u.array import Array
from zoo.cost.ethos_u.blocks import SPLIT, SUBKERNEL, BlockSizes, blocks, cycles, up, within
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass, Shape

SCALE_BYTES = 10  # bias, multiplier and shift of an output channel


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a pass takes.

    Attributes:
        cycles: in all.
        busy: cycles by what is busy: "compute", "sram", and the slow memory by its name.
        moved: bytes by memory.

    """

    cycles: float
    busy: Mapping[str, float]
    moved: Mapping[str, float]

    @property
    def bound(self) -> str:
        """What is busy longest."""
        return max(self.busy, key=lambda name: self.busy[name])


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The two memories of a system.

    Attributes:
        fast: bytes per cycle of the SRAM.
        slow: bytes per cycle of the flash or DRAM.
        name: of the slow one: "flash" or "dram".

    """

    fast: float
    slow: float
    name: str


@dataclass(frozen=True)
class _Side:
    """A pass's input or output, as it is transferred.

    Attributes:
        block: rows, columns and channels of a block of it; `shape` of all of it.
        bits: of an element.
        bricks: it lies in bricks of 16 channels.
        slow: in the slow memory.
        read: it is the input.
        scattered: its elements lie apart, and each is a burst.

    """

    block: Shape
    shape: Shape
    bits: int
    bricks: bool
    slow: bool
    read: bool
    scattered: bool = False

    def wasted(self, array: Array, elements: float) -> float:
        """Return the bytes of elements with what bursts shorter than the longest waste."""
        longest = array.burst_bytes[self.slow]
        return elements * self.bits / 8 * longest / max(min(longest, self._burst(array.cores)), 1)

    def _burst(self, cores: int) -> int:
        item = self.bits // 8
        if self.scattered:
            return item
        if self.bricks:
            return 16 * item * self.block[1] * (1 if self.read else cores)
        whole = self.shape[2] * item == self.block[2]
        if whole and (self.read or self.block[2] <= 16):
            return item * self.block[1] * self.block[2]
        if self.read:
            return item * self.block[2]
        return min(64, 16 * item * cores, self.block[2] * item)


def _sides(job: Pass, found: BlockSizes) -> tuple[_Side, _Side]:
    """Return a pass's input and output."""
    return (
        _Side(found.ifm, job.ifm, job.in_bits, job.reads_bricks, job.reads_slow, read=True),
        _Side(found.ofm, job.ofm, job.out_bits, job.bricks, job.writes_slow, read=False),
    )


def _transfers(job: Pass, found: BlockSizes, array: Array) -> tuple[float, float, int]:
    """Return bytes read and written with what short bursts waste, and how often weights are."""
    block = within(job.ofm, found.ofm)
    area = math.prod(-(-n // b) for n, b in zip(job.ofm[:2], block[:2], strict=True))
    depth = -(-job.ofm[2] // block[2])
    rounded = up(job.ifm[2], 16) if job.reads_bricks else job.ifm[2]
    if job.unit == "move":
        read = float(math.prod(job.ifm))
    elif job.unit == "elementwise":
        h, w, c = job.ofm
        read = h * w * (up(c, 16) if job.reads_bricks else c) if math.prod(job.ifm) > 1 else 4
    else:
        rows, columns = (min(pair) for pair in zip(job.ifm[:2], found.ifm[:2], strict=True))
        windows = math.prod(-(-k // SUBKERNEL) for k in job.kernel)
        repeats = 1 if job.unit in ("depthwise", "pool") else depth
        read = rows * columns * rounded * windows * area * repeats
    h, w, c = job.ofm
    written = h * w * (c if job.scattered or not job.bricks else up(c, 16))
    source, sink = _sides(job, found)
    sink = replace(sink, scattered=job.scattered)
    return source.wasted(array, read), sink.wasted(array, written), area


def _second(job: Pass, found: BlockSizes, array: Array) -> tuple[float, float]:
    """Return the bytes of the second operand from the fast and from the slow memory."""
    if job.unit != "elementwise" or job.ifm2 is None:
        return 0.0, 0.0
    if job.scalar:
        return 0.0, (4.0 * array.burst_bytes[1] / 4 if job.constant and job.in_bits > 8 else 0.0)
    h, w, c = job.ofm
    size = h * w * (up(c, 16) if job.reads_bricks else c) * job.in_bits / 8
    if not job.constant:
        return size, 0.0
    whole = job.ifm2[2] == found.ifm[2]
    burst = min(array.burst_bytes[1], found.ifm[2] * (found.ifm[1] if whole else 1))
    return 0.0, h * w * c * job.in_bits / 8 * array.burst_bytes[1] / burst


def _edges(job: Pass, found: BlockSizes, array: Array, memories: Memories) -> float:
    """Return the cycles to load the first block and to store the last one."""
    if job.unit in ("elementwise", "move"):
        return 0.0
    loaded, stored = within(job.ifm, found.ifm), within(job.ofm, found.ofm)
    windows = math.prod(-(-k // SUBKERNEL) for k in job.kernel)
    source, sink = _sides(job, found)
    load = source.wasted(array, math.prod(loaded)) * (
        min(windows, job.ifm[0] * job.ifm[1] / (loaded[0] * loaded[1]))
    )
    store = sink.wasted(array, math.prod(stored))
    speeds, waits = (memories.fast, memories.slow), array.latency_cycles
    table = job.table_bytes / memories.slow + waits[1] if job.table_bytes else 0
    return (
        load / speeds[job.reads_slow]
        + store / speeds[job.writes_slow]
        + waits[job.reads_slow]
        + waits[job.writes_slow]
        + table
    )


class Still(NamedTuple):
    """What a pass takes whatever runs before it and however its weights are encoded.

    Attributes:
        compute: cycles of the arithmetic, with the first block's load and the last one's store.
        fast: bytes that the fast memory moves for it; `slow` the slow one.
        reads: how often its weights are read.
        scales: bytes of its channels' scales.
        first: the share of its weights that it needs before it starts.

    """

    compute: float
    fast: float
    slow: float
    reads: int
    scales: int
    first: float


def still(job: Pass, array: Array, memories: Memories) -> Still:
    """Return what a pass takes by itself."""
    found = blocks(job, array)
    if job.unit == "move":
        compute = math.prod(job.ifm) / 4 + array.latency_cycles[0]
    else:
        compute = cycles(job, found, array) + _edges(job, found, array, memories)
    read, written, area = _transfers(job, found, array)
    near, far = _second(job, found, array)
    slow = far + (read if job.reads_slow else 0.0) + (written if job.writes_slow else 0.0)
    return Still(
        compute=compute,
        fast=read + written + near + far - slow,
        slow=slow,
        reads=area if job.unit in MAC_UNITS else 1,
        scales=up(SCALE_BYTES * job.scales, 16),
        first=min(1.0, SPLIT / max(job.ofm[2], 1)),
    )


class Timed(NamedTuple):
    """What a pass takes in its place.

    Attributes:
        cycles: in all.
        compute: cycles of the arithmetic, with the wait for weights.
        fast: bytes that the fast memory moves meanwhile; `slow` the slow one.
        hidden: bytes that were copied from the slow to the fast one while the pass before ran.
        copied: its weights lie in the fast memory.

    """

    cycles: float
    compute: float
    fast: float
    slow: float
    hidden: float
    copied: bool


def timed(stills: Iterable[Still], encoded: Iterable[float], memories: Memories) -> Iterator[Timed]:
    """Give what each pass takes, in order, from the bytes of its encoded weights."""
    slack, fast_speed, slow_speed = 0.0, memories.fast, memories.slow
    for (compute, fast, slow, reads, scale, first), size in zip(stills, encoded, strict=True):
        hidden, copied = 0.0, False
        if size:
            scales = float(scale * reads)
            hidden, waits, copied = _weights(
                size, first * size, compute, slow_speed, (reads, scales, slack)
            )
            compute += waits
            slow += scales + (size - hidden if copied else size * reads)
            fast += size * (1 + reads) - hidden if copied else 0.0
        waited = slow / slow_speed
        yield Timed(max(compute, fast / fast_speed, waited), compute, fast, slow, hidden, copied)
        slack = max(compute - waited, 0.0)


def _weights(
    size: float, first: float, compute: float, speed: float, known: tuple[int, float, float]
) -> tuple[float, float, bool]:
    """Return bytes copied before the pass, cycles it waits for its first, whether copying pays."""
    reads, scales, slack = known
    hidden = min(float(size), slack * speed)
    if hidden < first:
        hidden = 0.0
    waits = 0.0 if hidden else (first if reads > 1 else 0.0) / speed
    copied = max(compute + waits, (size - hidden + scales) / speed)
    direct = max(compute, (size * reads + scales) / speed)
    if copied < direct:
        return hidden, waits, True
    return 0.0, 0.0, False


def spent(jobs: Sequence[Pass], array: Array, memories: Memories) -> Iterator[Spent]:
    """Give what each pass takes, in order."""
    stills = [still(job, array, memories) for job in jobs]
    for one in timed(stills, [job.encoded for job in jobs], memories):
        busy = {
            "compute": one.compute,
            "sram": one.fast / memories.fast,
            memories.name: one.slow / memories.slow,
        }
        moved = {"sram": one.fast + one.hidden, memories.name: one.slow + one.hidden}
        yield Spent(cycles=one.cycles, busy=busy, moved=moved)
