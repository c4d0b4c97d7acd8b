"""What keeps an Ethos-U busy: the arithmetic of each pass, or a memory while it transfers.

A pass takes the longest of its arithmetic and of what each memory needs for its bytes. Weights
lie in the slow memory, encoded. Those that are read several times are copied to the fast one
first; what is copied while the pass before still computes costs nothing.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from zoo.cost.ethos_u.array import Array, Array85
from zoo.cost.ethos_u.blocks import SPLIT, SUBKERNEL, BlockSizes, blocks, cycles, up, within
from zoo.cost.ethos_u.blocks85 import blocks85
from zoo.cost.ethos_u.cycles85 import ISSUED, SCALE_BYTES, moved, refetched, scale_bytes
from zoo.cost.ethos_u.cycles85 import compute as compute85
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass, Shape

SCALE_BURST = 256  # bytes of scales that one wait for the memory brings


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
class WeightChannels:
    """The channels of weights.

    Attributes:
        weights: bytes per cycle from the fast and from the slow memory.
        copies: from the slow to the fast one.
        latency: cycles before the first byte of a copy.

    """

    weights: tuple[float, float]
    copies: float
    latency: float


@dataclass(frozen=True, kw_only=True)
class Memories:
    """The two memories of a system.

    Attributes:
        fast: bytes per cycle of the SRAM.
        slow: bytes per cycle of the flash or DRAM.
        name: of the slow one: "flash" or "dram".
        channels: how fast weights come, where that is slower than the memories themselves.

    """

    fast: float
    slow: float
    name: str
    channels: WeightChannels | None = None


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


def _edges(
    job: Pass, found: BlockSizes, array: Array, memories: Memories
) -> tuple[float, float, float]:
    """Return the cycles to load the first block, to store the last one, and to load a table."""
    if job.unit in ("elementwise", "move"):
        return 0.0, 0.0, 0.0
    loaded, stored = within(job.ifm, found.ifm), within(job.ofm, found.ofm)
    windows = math.prod(-(-k // SUBKERNEL) for k in job.kernel)
    source, sink = _sides(job, found)
    load = source.wasted(array, math.prod(loaded)) * (
        min(windows, job.ifm[0] * job.ifm[1] / (loaded[0] * loaded[1]))
    )
    store = sink.wasted(array, math.prod(stored))
    speeds, waits = (memories.fast, memories.slow), array.latency_cycles
    table = job.table_bytes / memories.slow + waits[1] if job.table_bytes else 0.0
    return (
        load / speeds[job.reads_slow] + waits[job.reads_slow],
        store / speeds[job.writes_slow] + waits[job.writes_slow],
        table,
    )


class Still(NamedTuple):
    """What a pass takes whatever runs before it and however its weights are encoded.

    Attributes:
        compute: cycles of the arithmetic, with the first block's load and the last one's store.
        fast: bytes that the fast memory moves for it; `slow` the slow one.
        reads: how often its weights are read.
        scales: bytes of its channels' scales.
        first: the share of its weights that it needs before it starts.
        fast_least: cycles of the busiest channel to the fast memory; `slow_least` to the slow one.
        far_scales: cycles for the scales of a block, where they are read from the slow memory.
        planned: cycles that the compiler reckons with before it knows what the fast memory holds.

    """

    compute: float
    fast: float
    slow: float
    reads: int
    scales: int
    first: float
    fast_least: float = 0.0
    slow_least: float = 0.0
    far_scales: float = 0.0
    planned: float = 0.0


def still(job: Pass, array: Array | Array85, memories: Memories) -> Still:
    """Return what a pass takes by itself."""
    first = _first(job.ofm[2], halves=memories.channels is not None)
    if isinstance(array, Array85):
        scales = scale_bytes(job)
        moves = moved(job, array)
        speeds = memories.fast, memories.slow
        compute, planned = (compute85(one, array, speeds) for one in (job, _far(job)))
        reads = refetched(job, array) if job.weights else 1
        far = _far_scales(job, blocks85(job, array), array)
        return Still(
            compute, moves.fast, moves.slow, reads, scales, first, *moves[2:], far, planned
        )
    scales = up(SCALE_BYTES * job.scales, 16)
    found = blocks(job, array)
    if job.unit == "move":
        compute = planned = math.prod(job.ifm) / 4 + array.latency_cycles[0]
    else:
        compute = cycles(job, found, array)
        compute, planned = (
            _issued(one, found, array, memories, compute) for one in (job, _far(job))
        )
    read, written, area = _transfers(job, found, array)
    near, far = _second(job, found, array)
    slow = far + (read if job.reads_slow else 0.0) + (written if job.writes_slow else 0.0)
    reads = area if job.unit in MAC_UNITS else 1
    fast, scaled = read + written + near + far - slow, _far_scales(job, found, array)
    return Still(compute, fast, slow, reads, scales, first, far_scales=scaled, planned=planned)


def _first(outputs: int, *, halves: bool) -> float:
    """Return the share of a layer's weights that is copied first: a brick's, or about half."""
    return min(1.0, (up(-(-outputs // 2), SPLIT) if halves else SPLIT) / max(outputs, 1))


def _far(job: Pass) -> Pass:
    return replace(job, reads_slow=True, writes_slow=True)


def _issued(job: Pass, found: BlockSizes, array: Array, memories: Memories, work: float) -> float:
    """Return the cycles of a pass's arithmetic with its first load, last store and its commands.

    Where the slow memory is DRAM, the commands of a block wait for what it loads and stores.
    """
    load, store, table = _edges(job, found, array, memories)
    if memories.channels is not None and job.unit not in ("elementwise", "move"):
        block = within(job.ofm, found.ofm)
        number = math.prod(n / b for n, b in zip(job.ofm, block, strict=True))
        waits = abs(load - store) if number > 1 else 0.0
        work = max(work, (waits * number + work) / ISSUED)
    return work + load + store + table


def _far_scales(job: Pass, found: BlockSizes, array: Array | Array85) -> float:
    depth = min(job.scales, found.ofm[2])
    return SCALE_BYTES * depth * array.latency_cycles[1] / SCALE_BURST


class Timed(NamedTuple):
    """What a pass takes in its place.

    Attributes:
        cycles: in all.
        compute: cycles of the arithmetic, with the wait for weights.
        fast: cycles that the fast memory is busy meanwhile; `slow` the slow one.
        slack: cycles in which the weights of the next pass can be copied.
        fast_bytes: that the fast memory moves meanwhile; `slow_bytes` the slow one.
        hidden: bytes that were copied from the slow to the fast one while the pass before ran.
        copied: its weights lie in the fast memory.

    """

    cycles: float
    compute: float
    fast: float
    slow: float
    slack: float
    fast_bytes: float
    slow_bytes: float
    hidden: float
    copied: bool


def timed(stills: Iterable[Still], encoded: Iterable[float], memories: Memories) -> Iterator[Timed]:
    """Give what each pass takes, in order, from the bytes of its encoded weights."""
    slack, fast_speed, slow_speed = 0.0, memories.fast, memories.slow
    if memories.channels is not None:
        yield from _in_channels(stills, encoded, memories, memories.channels)
        return
    for (compute, fast, slow, reads, scale, first, *_), size in zip(stills, encoded, strict=True):
        hidden, copied = 0.0, False
        if size:
            scales = float(scale * reads)
            hidden, waits, copied = _weights(
                size, first * size, compute, slow_speed, (reads, scales, slack)
            )
            compute += waits
            slow += scales + (size - hidden if copied else size * reads)
            fast += size * (1 + reads) - hidden if copied else 0.0
        near, far = fast / fast_speed, slow / slow_speed
        slack = max(compute - far, 0.0)
        busiest = max(compute, near, far)
        yield Timed(busiest, compute, near, far, slack, fast, slow, hidden, copied)


def _in_channels(
    stills: Iterable[Still], encoded: Iterable[float], memories: Memories, channels: WeightChannels
) -> Iterator[Timed]:
    """Give what each pass takes where the slow memory is DRAM.

    Weights are copied whole, with their scales, while the pass before runs; what takes longer is
    waited for. Scales are read from DRAM for every block none the less.
    """
    slack, started = 0.0, False
    for one, size in zip(stills, encoded, strict=True):
        compute, fast, slow, hidden, copied = one.compute, one.fast, one.slow, 0.0, False
        near, far, left = one.fast_least, one.slow_least, one.planned
        if size:
            whole, slow = size + one.scales, slow + one.scales * one.reads
            copying = channels.latency + whole / channels.copies
            waits, rest = max(copying - slack, 0.0), left
            if waits and one.first < 1.0 and started:  # the rest is copied meanwhile
                first = channels.latency + one.first * whole / channels.copies
                waits, rest = max(first - slack, 0.0), max(left - copying, 0.0)
            # What is read once is copied if most of that is hidden, as the compiler decides it.
            copied = one.reads > 1 or (copying <= one.planned and slack >= copying / 2)
            if copied:
                hidden, left = whole if started else 0.0, rest
                compute = max(compute + waits, copying - slack + rest)
                near = max(near, size * one.reads / channels.weights[0])
                fast, slow = fast + size * one.reads + whole, slow + whole - hidden
            else:
                compute += one.far_scales
                far = max(far, size * one.reads / channels.weights[1])
                slow += size * one.reads
        near, far = max(near, fast / memories.fast), max(far, slow / memories.slow)
        slack, started = left, True
        yield Timed(max(compute, near, far), compute, near, far, slack, fast, slow, hidden, copied)


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


def spent(jobs: Sequence[Pass], array: Array | Array85, memories: Memories) -> Iterator[Spent]:
    """Give what each pass takes, in order."""
    stills = [still(job, array, memories) for job in jobs]
    for one in timed(stills, [job.encoded for job in jobs], memories):
        busy = {
            "compute": one.compute,
            "sram": one.fast,
            memories.name: one.slow,
        }
        bytes_moved = {
            "sram": one.fast_bytes + one.hidden,
            memories.name: one.slow_bytes + one.hidden,
        }
        yield Spent(cycles=one.cycles, busy=busy, moved=bytes_moved)
