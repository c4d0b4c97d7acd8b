"""What a pass of an Ethos-U85 takes: its blocks' arithmetic, and what its channels transfer.

While the array works on a block, the outputs of the block before are written and commands for the
next one are issued, so a block takes the longest of the three. Each kind of data has a channel
of its own to a memory, slower than the memory itself where latency is long: scales read from DRAM
for every block are what many small layers wait for.
"""

import math
from typing import NamedTuple

from zoo.cost.ethos_u.array import Array85
from zoo.cost.ethos_u.blocks import SUBKERNEL, BlockSizes, up, within
from zoo.cost.ethos_u.blocks85 import BRICK, PLANES, blocks85, sparse
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass, Shape

SCALE_BYTES = 10  # bias, multiplier and shift of an output channel
LAYERS = frozenset((*MAC_UNITS, "vector"))
ISSUED = 4  # blocks' commands at a time
STALL = 2  # cycles that a single micro-block waits for itself


class Moved(NamedTuple):
    """What a pass moves besides weights and their scales.

    Attributes:
        fast: bytes of the fast memory; `slow` of the slow one.
        fast_cycles: that the busiest channel to the fast memory takes; `slow_cycles` likewise, with
            that of scales.

    """

    fast: float
    slow: float
    fast_cycles: float
    slow_cycles: float


def compute(job: Pass, array: Array85, speeds: tuple[float, float]) -> float:
    """Return the cycles of a pass's arithmetic, with the first block's load and the last's store.

    Args:
        job: the pass.
        array: of the accelerator.
        speeds: bytes per cycle of the fast and of the slow memory.

    """
    found = blocks85(job, array)
    each = (array.output_cycles if job.in_bits == job.out_bits == 8 else array.wide_cycles) * (
        1 + job.chained
    )
    if job.unit in ("elementwise", "move"):
        h, w, c = job.ofm
        return math.ceil(each * h * w * (up(c, BRICK) if job.bricks else c))
    block = within(job.ofm, found.ofm)
    output = float(math.ceil(each * math.prod(block)))
    if job.unit in LAYERS:
        output = max(output, SCALE_BYTES * block[2] * array.latency_cycles[0] / 256)
    work = float(_work(job, found, block))
    counts = [-(-a // m) for a, m in zip(job.ofm, found.micro, strict=True)]
    number = math.prod(counts) / math.prod(
        -(-b // m) for b, m in zip(block, found.micro, strict=True)
    )
    load, store = _edges(job, found, array, speeds)
    waits = abs(load - store) if number > 1 else 0.0
    issue = (waits + work + output) / ISSUED
    work, output = max(work, issue), max(output, issue)
    longest, other = max(work, output), min(work, output)
    return longest * number + other + load + store


def _work(job: Pass, found: BlockSizes, block: Shape) -> int:
    """Return the cycles of the arithmetic of one block."""
    high, wide, deep = (-(-b // m) for b, m in zip(block, found.micro, strict=True))
    area, depth = high * wide, min(job.ifm[2], found.ifm[2])
    slowest, eights = 32 * found.micro[2] // 8, -(-depth // 8)
    total = 0
    for elements in _windows(job):
        steps, times = 1, 1
        if job.unit == "pool":
            spent = max(4, elements) * area * deep * job.in_bits // 2
        elif job.unit == "depthwise":
            steps = -(-elements // 4)
            spent = max(slowest, 4 * area * job.in_bits // 8) * steps * deep
        elif found.part_kernel:
            steps, times = -(-elements // 4), eights
            spent = max(slowest, 4 * area) * steps * deep * times
        else:
            steps = elements
            spent = max(slowest, depth // 8 * area) * steps * deep * (job.in_bits // 8)
        spent //= 2 if sparse(job) else 1
        if area == 1:
            spent += STALL * (steps if deep == 1 else (steps - 1) * deep) * times
        total += spent
    if job.unit in ("conv", "vector", "reduce"):
        total *= -(-job.ifm[2] // depth)
    return total


def _windows(job: Pass) -> list[int]:
    """Return the elements of the windows in which a kernel is worked through."""
    side = 1 if job.unit == "vector" else SUBKERNEL
    rows, columns = ([min(side, k - start) for start in range(0, k, side)] for k in job.kernel)
    return [a * b for a in rows for b in columns]


def _edges(
    job: Pass, found: BlockSizes, array: Array85, speeds: tuple[float, float]
) -> tuple[float, float]:
    """Return the cycles to load a block of inputs and to store one of outputs."""
    loaded, stored = within(job.ifm, found.ifm), within(job.ofm, found.ofm)
    load = _transferred(job, found, array, math.prod(loaded), read=True)
    store = _transferred(job, found, array, math.prod(stored), read=False)
    # What a chain takes over has no place yet, and the compiler counts it as if it were far.
    reads, writes = job.reads_slow, job.writes_slow or job.chained > 0
    return (
        array.latency_cycles[reads] + load // speeds[reads],
        array.write_cycles[writes] + store // speeds[writes],
    )


def _transferred(
    job: Pass, found: BlockSizes, array: Array85, elements: int, *, read: bool
) -> float:
    """Return the bytes that elements take, with what short bursts waste."""
    block, shape = (found.ifm, job.ifm) if read else (found.ofm, job.ofm)
    bits, slow = (job.in_bits, job.reads_slow) if read else (job.out_bits, job.writes_slow)
    item, longest = bits // 8, array.burst_bytes[slow]
    if job.reads_bricks if read else job.bricks:
        whole = shape[1] * 16 * item == block[2]
        burst = item * block[1] * (block[2] if whole else 16)
    else:
        whole = shape[2] * item == block[2]
        if whole and (read or block[2] <= 16):
            burst = item * block[1] * block[2]
        else:
            burst = item * block[2] if read else min(64, 16 * item, item * block[2])
    return elements * item * longest // max(min(longest, burst), 1)


def scale_bytes(job: Pass) -> int:
    """Return the bytes of a layer's scales: channels are filled up to whole bricks."""
    return SCALE_BYTES * up(job.scales, BRICK)


def refetched(job: Pass, array: Array85) -> int:
    """Return how often a layer's weights and scales are read."""
    block = within(job.ofm, blocks85(job, array).ofm)
    return math.prod(-(-n // b) for n, b in zip(job.ofm[:2], block[:2], strict=True))


def moved(job: Pass, array: Array85) -> Moved:
    """Return what a pass moves besides weights and their scales."""
    found = blocks85(job, array)
    rounded = up(job.ifm[2], BRICK) if job.reads_bricks else job.ifm[2]
    if job.unit in ("elementwise", "move"):
        read = math.prod(job.ifm[:2]) * rounded
    else:
        block, rows, columns = within(job.ofm, found.ofm), *within(job.ifm, found.ifm)[:2]
        areas = [-(-n // b) for n, b in zip(job.ofm, block, strict=True)]
        repeats = math.prod(areas[:2]) * (1 if job.unit in PLANES else areas[2])
        side = 1 if job.unit == "vector" else SUBKERNEL
        windows = math.prod(-(-k // side) for k in job.kernel)
        read = rows * columns * rounded * windows * repeats
    h, w, c = job.ofm
    whole = h * w * (up(c, BRICK) if job.bricks else c)
    size = {False: [0.0, 0.0], True: [0.0, 0.0]}  # by memory: read and written
    size[job.reads_slow][0] += _transferred(job, found, array, read, read=True)
    if job.ifm2 is not None and not job.scalar and job.unit == "elementwise":
        second = job.ifm2[0] * job.ifm2[1] * (up(job.ifm2[2], BRICK) if job.bricks else job.ifm2[2])
        size[job.constant][0] += second * job.in_bits // 8
    for slow in job.operands:
        size[slow][0] += whole
    size[job.writes_slow][1] += _transferred(job, found, array, whole, read=False)
    scales = scale_bytes(job) * refetched(job, array)
    near, far = size[False], size[True]
    return Moved(
        fast=sum(near),
        slow=sum(far),
        fast_cycles=max(near[0] / array.inputs[0], near[1] / array.outputs[0]),
        slow_cycles=max(
            far[0] / array.inputs[1], far[1] / array.outputs[1], scales / array.scales[1]
        ),
    )
