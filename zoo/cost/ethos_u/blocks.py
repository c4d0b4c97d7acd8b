"""The block of outputs that one pass works on at a time, and the cycles that all blocks take.

The accelerator computes a block of outputs from a block of inputs, both held in its own buffer
while the next pair is loaded. The compiler takes the block that fetches the fewest bytes for each
output; rounding a layer up to whole blocks and micro-blocks is where small layers lose.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.cost.ethos_u.array import Array
from zoo.cost.ethos_u.passes import MAC_UNITS, Pass, Shape

LARGEST = (32, 64, 128)  # rows, columns and channels of a block of outputs
SUBKERNEL = 8  # a kernel is worked through in windows of this side
SPLIT = 16  # channels of a block are cut here
BANK_BYTES = 1024


@dataclass(frozen=True)
class BlockSizes:
    """A pass's blocks.

    Attributes:
        ifm: rows, columns, channels of a block of inputs.
        ofm: likewise of outputs.
        part_kernel: 4 kernel elements of 8 channels a step, not 1 of 32.
        micro: outputs that are made at once, where the compiler chooses that for each pass.

    """

    ifm: Shape
    ofm: Shape
    part_kernel: bool
    micro: Shape = (0, 0, 0)


def up(value: int, step: int) -> int:
    """Round up to a whole number of steps."""
    return -(-value // step) * step


def within(shape: Shape, block: Shape) -> Shape:
    """Return a block, as far as it lies in a shape."""
    return min(shape[0], block[0]), min(shape[1], block[1]), min(shape[2], block[2])


def _part_kernel(job: Pass) -> bool:
    depth, kernel = job.ifm[2], math.prod(job.kernel)
    if job.unit != "conv":
        return False
    part = depth / up(depth, 8) * kernel / up(kernel, 4)
    return depth <= 8 or part >= depth / up(depth, 32)


@functools.lru_cache(maxsize=4096)
def blocks(job: Pass, array: Array) -> BlockSizes:
    """Return the blocks that fetch the least for each output, among all that fit."""
    part = _part_kernel(job)
    found = _candidates(job, array, part)
    cost = np.where(_fits(job, array, found), _cost(job, found), np.inf).astype(np.float32)
    best = _first(cost, job, found)
    return BlockSizes(
        (int(found.rows[best]), int(found.columns[best]), int(found.channels[best])),
        (int(found.high[best]), int(found.wide[best]), int(found.deep[best])),
        part,
    )


Sizes = NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """All blocks of outputs that come into question, and the inputs they need.

    Attributes:
        high: rows of outputs, one entry for each candidate; `wide` columns, `deep` channels.
        rows: of inputs; `columns` and `channels` likewise.

    """

    high: Sizes
    wide: Sizes
    deep: Sizes
    rows: Sizes
    columns: Sizes
    channels: Sizes


def _candidates(job: Pass, array: Array, part: bool) -> Candidates:
    micro = array.microblock
    most = [up(min(*pair), m) for *pair, m in zip(job.ofm, LARGEST, micro, strict=True)]
    deep, high, wide = (
        grid.ravel()
        for grid in np.meshgrid(
            _depths(job.ofm[2], most[2], micro[2] * array.cores),
            np.arange(micro[0], most[0] + 1, micro[0]),
            np.arange(micro[1], most[1] + 1, micro[1]),
            indexing="ij",
        )
    )
    sides = [
        up_all(-(-((size - 1) * stride + min(kernel, SUBKERNEL)) // job.upscale), m)
        for size, stride, kernel, m in zip(
            (high, wide), job.stride, _window(job), micro[:2], strict=True
        )
    ]
    fixed = np.full_like(deep, up(min(job.ifm[2], 16 if part else 32), 8))
    if job.ofm[0] == job.kernel[0] == 1:
        high = np.minimum(high, 1)
    return Candidates(high, wide, deep, sides[0], sides[1], deep if _same_depth(job) else fixed)


def _same_depth(job: Pass) -> bool:
    return job.unit in ("depthwise", "pool", "elementwise")


def _window(job: Pass) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(job.kernel, job.dilation, strict=True))


def up_all(values: Sizes, step: int) -> Sizes:
    """Round all up to whole steps."""
    return -(-values // step) * step


def _depths(outputs: int, largest: int, micro: int) -> list[int]:
    depth = max(micro, min(largest, SPLIT))
    if depth < outputs:
        depth = up(depth, SPLIT)
    found: list[int] = []
    while depth <= largest or not found:
        found.append(depth)
        depth += micro
        if depth < outputs:
            depth = up(depth, SPLIT)
    return found


def _fits(job: Pass, array: Array, found: Candidates) -> NDArray[np.bool_]:
    """Return which candidates' inputs and accumulators fit the buffer, each of them twice."""
    depth = -(-found.channels // (array.cores if _same_depth(job) else 1))
    area = found.rows * found.columns
    banks = -(-(area * up_all(depth * job.in_bits // 8, 8)) // BANK_BYTES) * 2
    inputs = up_all(banks, array.wide_granule if job.in_bits == 32 else array.input_granule)
    free = array.banks - sum(array.reserved_banks)
    if job.unit == "elementwise":
        both = job.ifm2 is not None and not job.scalar
        return np.asarray(inputs * (2 if both else 1) <= free)
    sums = found.high * found.wide * up_all(-(-found.deep // array.cores), 8) * 4
    return np.asarray(
        inputs + up_all(-(-sums // BANK_BYTES) * 2, array.accumulator_granule) <= free
    )


def _cost(job: Pass, found: Candidates) -> NDArray[np.float32]:
    """Return what each candidate fetches for an output, in single precision: it decides ties."""
    single = np.float32
    high, wide = found.high.astype(single), found.wide.astype(single)
    if job.unit == "elementwise":
        cost = single(math.prod(job.ofm)) / (high * wide * found.deep.astype(single))
    else:
        repeats = math.prod(-(-k // SUBKERNEL) for k in _window(job))
        inputs = (found.rows * found.columns * job.ifm[2] * repeats).astype(single)
        inputs = inputs * (single(job.ofm[1]) / wide) * (single(job.ofm[0]) / high)
        if not _same_depth(job):
            inputs = inputs * (-(-job.ofm[2] // found.deep)).astype(single)
        whole = -(-job.ofm[0] // found.high) * -(-job.ofm[1] // found.wide)
        outputs = 1 if job.unit == "depthwise" else job.ofm[2]
        weights = math.prod(job.kernel) * job.ifm[2] * outputs if job.unit in MAC_UNITS else 0
        cost = (inputs + (weights * whole).astype(single)) / single(math.prod(job.ofm))
    held = math.prod(job.ifm) < 2 * found.rows * found.columns * found.channels
    return np.where(held, cost / single(2), cost).astype(single)


def _first(cost: NDArray[np.float32], job: Pass, found: Candidates) -> int:
    """Return the first cheapest, or the last small one that covers as much of the input."""
    ties = np.flatnonzero(cost == cost.min())
    best, coverage = int(ties[0]), math.inf
    for place in ties[1:]:
        if found.high[place] > 4 or found.wide[place] > 4:
            continue
        covered = min(job.ifm[0], found.rows[place]) * min(job.ifm[1], found.columns[place])
        if job.ifm[0] * job.ifm[1] / covered <= coverage:
            best, coverage = int(place), job.ifm[0] * job.ifm[1] / covered
    return best


def _cuts(length: int, size: int) -> list[tuple[int, int]]:
    """Return how many pieces there are of each size."""
    whole, rest = divmod(length, size)
    return [(n, s) for n, s in ((whole, size), (1, rest)) if n and s]


def cycles(job: Pass, found: BlockSizes, array: Array) -> float:
    """Return the cycles of a pass's arithmetic and output, without its memories."""
    per_output = max(array.output_cycles[job.output], array.activation_cycles[job.activation])
    if job.unit == "elementwise":
        h, w, c = job.ofm
        return per_output * h * w * (up(c, 16) if job.bricks else c)
    micro = array.microblock
    line = job.ofm[0] == job.kernel[0] == 1 and job.ofm[1] % 2 == 0
    if line and micro[0] == 2 and job.unit in ("conv", "vector"):
        micro = (1, 4, micro[2])
    block = within(job.ofm, found.ofm)
    total = sum(
        math.prod(n for n, _ in piece) * _block(job, found, array, micro, [s for _, s in piece])
        for piece in itertools.product(*(_cuts(n, s) for n, s in zip(job.ofm, block, strict=True)))
    )
    one = _block(job, found, array, micro, list(block))
    output = per_output * math.prod(block)
    return max(total + output, per_output * math.prod(job.ofm) + one)


def _block(job: Pass, found: BlockSizes, array: Array, micro: Shape, size: list[int]) -> float:
    """Return the cycles of the arithmetic of one block of outputs."""
    area = -(-size[0] // micro[0]) * -(-size[1] // micro[1])
    depth = -(-size[2] // micro[2])
    passes = -(-min(job.ifm[2], found.ifm[2]) // 8)
    slowest, total, smallest = 32 * micro[2] // 8, 0.0, micro[2] == 4
    sides = [[min(SUBKERNEL, k - start) for start in range(0, k, SUBKERNEL)] for k in job.kernel]
    for elements in (a * b for a in sides[0] for b in sides[1]):
        if job.unit == "pool":
            # As the compiler counts them; the smallest array is the exception.
            steps, rounds = 1, 1 if smallest else job.in_bits // 2
            spent = max(4, elements) * area * depth * rounds
        elif job.unit == "depthwise":
            steps = -(-elements // 4)
            spent = max(slowest, 4 * area * (job.in_bits // 8)) * steps * depth
        else:
            steps = -(-elements // 4) if found.part_kernel else elements
            spent = max(slowest, 4 * area) * steps * depth
        spent += _delay(steps, area, depth, 3 if smallest else 2)
        total += spent * (passes if found.part_kernel else 1)
    if job.unit in ("conv", "vector", "reduce"):
        total *= -(-job.ifm[2] // min(job.ifm[2], found.ifm[2]))
    return total / array.cores


def _delay(steps: int, area: int, depth: int, stall: int) -> int:
    """Return the cycles that the array waits for itself, with a single micro-block to fill it."""
    if area > 1:
        return 0
    return stall * steps if depth == 1 else stall * (steps - 1) * depth
