"""The blocks of an Ethos-U85: how the compiler chooses them, and the micro-blocks in them.

Convolutions and fully connected layers take the block that fetches the fewest bytes for each
output, of all that fit the two buffers twice. Pools and depthwise convolutions take one that
covers most of a plane. As the compiler's per-operator tables show them, and its sources
(ethos-u-vela, Apache-2.0) name the rules.
"""

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.cost.ethos_u.array import Array85, Microblock
from zoo.cost.ethos_u.blocks import SUBKERNEL, BlockSizes, Sizes, up, up_all
from zoo.cost.ethos_u.passes import Pass, Shape

Singles = NDArray[np.float32]

LARGEST = (128, 128, 1024)  # rows, columns and channels of a block of outputs
BRICK = 16  # channels of a brick, of which accumulators are whole
SUM_BYTES = 4
PLANES = frozenset(("depthwise", "pool"))
THIN = 2  # input channels that leave half of each four weights at zero, whatever they are
PATIENCE = 25  # steps without progress after which a search goes on with less


def sparse(job: Pass) -> bool:
    """Return whether a layer's weights are read as sparse ones, two of each four zero."""
    return job.unit in ("conv", "vector") and job.ifm[2] <= THIN


def part_kernel(job: Pass) -> bool:
    """Return whether a layer works through 4 elements of its kernel a step, not through depth."""
    if job.unit not in ("conv", "vector"):
        return False
    elements, depth = math.prod(job.kernel), job.ifm[2]
    step, least, deep = (10, 4, 128) if sparse(job) else (5, 2, 64)
    whole = elements // step * step + max(elements % step, least)
    return depth / up(depth, 16) * elements / whole >= depth / up(depth, deep)


def micro(job: Pass, array: Array85) -> Microblock:
    """Return the micro-block that wastes the least of the outputs, the first of them."""
    able = [
        one for one in array.microblocks if job.unit in one.units or job.unit == "elementwise"
    ] or list(array.microblocks)
    return min(able, key=lambda one: math.prod(map(up, job.ofm, one.shape)))


@functools.lru_cache(maxsize=8192)
def blocks85(job: Pass, array: Array85) -> BlockSizes:
    """Return the blocks of a pass."""
    shape = micro(job, array)
    if job.unit in ("elementwise", "move"):
        block = _flat(job, array, shape.shape)
        return BlockSizes(block, block, part_kernel=False, micro=shape.shape)
    part = part_kernel(job)
    if job.unit in PLANES or job.unit == "reduce":
        ifm, ofm = _plane(job, array, shape)
    else:
        ifm, ofm = _searched(job, array, shape, _depth(job, array, shape.shape, part=part))
    return BlockSizes(ifm, ofm, part, shape.shape)


def _depth(job: Pass, array: Array85, shape: Shape, *, part: bool) -> int:
    """Return the channels of a block of inputs."""
    if part:
        return 16
    if sparse(job):
        return 128
    return 32 if array.macs <= 256 and shape[2] == 16 else 64


def _flat(job: Pass, array: Array85, shape: Shape) -> Shape:
    """Return the block of an elementwise operator: all channels, then as wide as there is room."""
    whole = up(job.ofm[0], shape[0]), up(job.ofm[1], shape[1]), up(job.ofm[2], BRICK)
    most = [min(pair) for pair in zip(whole, LARGEST, strict=True)]
    room = array.sum_bytes * 3 // 32 * 8 // job.in_bits
    deep = max(min(most[2], room // max(most[1], 1) // BRICK * BRICK), BRICK)
    wide = max(min(most[1], room // deep // shape[1] * shape[1]), shape[1])
    return most[0], wide, deep


def _stored(job: Pass, shape: Microblock, depth: int) -> Shape:
    """Return the steps, in elements, in which a block of inputs of so many channels is stored."""
    size = depth * job.in_bits // 8
    rows, columns, bricks = shape.steps[0 if size <= 16 else 1 if size <= 32 else 2]
    return rows, columns, bricks * 16 * 8 // job.in_bits


def _window(job: Pass) -> tuple[int, int]:
    first, second = (
        min((k - 1) * d + 1, SUBKERNEL) for k, d in zip(job.kernel, job.dilation, strict=True)
    )
    return first, second


def _needed(job: Pass, size: Shape, step: Shape, depth: int) -> Shape:
    """Return the block of inputs that a block of outputs needs."""
    rows, columns = (
        up(-(-((n - 1) * stride + k) // job.upscale), s)
        for n, stride, k, s in zip(size[:2], job.stride, _window(job), step[:2], strict=True)
    )
    return rows, columns, up(depth or size[2], step[2])


def _searched(job: Pass, array: Array85, shape: Microblock, depth: int) -> tuple[Shape, Shape]:
    """Return the blocks of inputs and outputs that fetch the least for each output."""
    step = _stored(job, shape, depth)
    deep, high, wide = _candidates(job, shape.shape)
    rows, columns = (
        up_all(-(-((n - 1) * stride + k) // job.upscale), s)
        for n, stride, k, s in zip((high, wide), job.stride, _window(job), step[:2], strict=True)
    )
    inputs = rows * columns * (up(min(depth, job.ifm[2]), step[2]) * job.in_bits // 8)
    sums = high * wide * up_all(deep, BRICK) * SUM_BYTES
    for held in (2, 1):  # the next block of each is loaded beside the one that is worked on
        fits = (inputs * held <= array.input_bytes) & (sums * held <= array.sum_bytes)
        if fits.any():
            break
    cost = _fetched(job, (high, wide, deep), rows * columns)
    twice = math.prod(job.ifm) < 2 * rows * columns * up(depth, step[2])
    cost = np.where(fits, np.where(twice, cost / np.float32(2), cost), np.inf).astype(np.float32)
    best, coverage = int(cost.argmin()), math.inf
    for place in np.flatnonzero(cost == cost[best])[1:]:
        covered = min(job.ifm[0], rows[place]) * min(job.ifm[1], columns[place])
        ratio = job.ifm[0] * job.ifm[1] / covered
        if high[place] <= 4 and wide[place] <= 4 and ratio <= coverage:
            best, coverage = int(place), ratio
    return (
        (int(rows[best]), int(columns[best]), depth),
        (int(high[best]), int(wide[best]), int(deep[best])),
    )


def _fetched(job: Pass, sizes: tuple[Sizes, Sizes, Sizes], area: Sizes) -> Singles:
    """Return what blocks fetch for each output, in single precision: it decides ties."""
    high, wide, deep = sizes
    rows, columns = high.astype(np.float32), wide.astype(np.float32)
    if job.unit == "vector":
        return np.float32(1) / (rows * columns)
    blocks = (np.float32(job.ofm[0]) / rows) * (np.float32(job.ofm[1]) / columns)
    windows = ((k - 1) * d + 1 for k, d in zip(job.kernel, job.dilation, strict=True))
    repeats = math.prod(-(-window // SUBKERNEL) for window in windows)
    inputs = (area * job.ifm[2] * repeats).astype(np.float32) * blocks
    inputs = inputs * (-(-job.ofm[2] // deep)).astype(np.float32)
    whole = -(-job.ofm[0] // high) * -(-job.ofm[1] // wide)
    weights = (math.prod(job.kernel) * job.ifm[2] * job.ofm[2] * whole).astype(np.float32)
    return np.asarray((inputs + weights) / np.float32(math.prod(job.ofm)), np.float32)


def _candidates(job: Pass, shape: Shape) -> tuple[Sizes, Sizes, Sizes]:
    """Return channels, rows and columns of all blocks of outputs that come into question."""
    steps = (*shape[:2], max(shape[2], BRICK))
    ends = [
        up(max(min(n, most), step), m)
        for n, most, step, m in zip(job.ofm, LARGEST, steps, shape, strict=True)
    ]
    deep, high, wide = (
        grid.ravel()
        for grid in np.meshgrid(
            list(_depths(job.ofm[2], ends[2], shape[2])),
            np.arange(shape[0], ends[0] + 1, shape[0]),
            np.arange(shape[1], ends[1] + 1, shape[1]),
            indexing="ij",
        )
    )
    return deep, high, wide


def _depths(outputs: int, end: int, step: int) -> Iterator[int]:
    depth = max(step, min(end, BRICK))
    while True:
        if depth < outputs:
            depth = up(depth, BRICK)
        if depth > end:
            return
        yield depth
        depth += step


class _Room(NamedTuple):
    """What the block of a pool or a depthwise convolution must fit.

    Attributes:
        whole: the outputs in whole micro-blocks and bricks; `most` the largest block of them.
        inputs: elements of the buffer for inputs; `sums` of that for accumulators.
        depth: channels of a block of inputs; 0 for those of the outputs.

    """

    whole: Shape
    most: Shape
    inputs: int
    sums: int
    depth: int


def _plane(job: Pass, array: Array85, shape: Microblock) -> tuple[Shape, Shape]:
    """Return the blocks of inputs and outputs of a pool or a depthwise convolution."""
    grain = (*shape.shape[:2], BRICK)
    whole = up(job.ofm[0], grain[0]), up(job.ofm[1], grain[1]), up(job.ofm[2], grain[2])
    most = min(whole[0], LARGEST[0]), min(whole[1], LARGEST[1]), min(whole[2], LARGEST[2])
    bits = job.in_bits
    depth = _depth(job, array, shape.shape, part=False) if job.unit == "reduce" else 0
    if job.unit == "reduce" and bits == 32:
        depth = 32
    room = _Room(whole, most, array.input_bytes * 8 // bits, array.sum_bytes // SUM_BYTES, depth)
    size = _covering(job, array, shape, room)
    return _with_next_row(job, shape, room, list(size))


def _covering(job: Pass, array: Array85, shape: Microblock, room: _Room) -> Shape:
    """Return the block that covers most of a plane: of each depth one as high as it is wide."""
    unit = math.prod(shape.shape[:2]) * BRICK
    flat = math.prod((k - 1) * d + 1 for k, d in zip(job.kernel, job.dilation, strict=True)) == 1
    area = float(room.whole[1] * room.whole[2 if flat else 0])
    best, metric = (shape.shape[0], shape.shape[1], BRICK), math.inf
    for depth in range(BRICK, min(max(array.macs, room.sums // unit), room.most[2]) + 1, BRICK):
        found = _fitted(job, shape, room, depth)
        if found is None:
            break
        height, width = found
        step = _stored(job, shape, room.depth or depth)[2]
        waste = 1 + (step - (depth % step or step)) / step / 10
        fit = 1 + abs(1 - room.most[2] / depth) / 10
        cover = 1 + abs(1 - area / (width * (depth if flat else height)))
        if cover * fit * waste < metric:
            best, metric = (height, width, depth), cover * fit * waste
            if all(a >= b for a, b in zip(best, room.whole, strict=True)):
                return room.whole
    return best


def _fitted(job: Pass, shape: Microblock, room: _Room, depth: int) -> tuple[int, int] | None:
    """Return rows and columns of a block of this depth that fits; None where none does."""
    grain, aspect = shape.shape[:2], room.whole[0] / room.whole[1]
    step = _stored(job, shape, room.depth or depth)
    unit = math.prod(grain) * BRICK
    volume = math.prod(up(n, s) for n, s in zip(job.ifm, step, strict=True))
    limit, before, patience = room.sums, -1, PATIENCE
    while True:
        height, width = _sides(aspect, limit // depth, grain)
        width, height = min(width, room.most[1]), min(height, room.most[0])
        area = width * height
        if width < room.whole[1]:
            width = _even(room.whole[1], grain[1], width)
        height = max(area // width // grain[0] * grain[0], grain[0])
        sums = width * height * depth
        needed = math.prod(_needed(job, (height, width, depth), step, room.depth))
        ratio, other = room.sums / sums, room.inputs / min(needed, volume)
        if ratio >= 1 and other >= 1:
            return height, width
        if sums == before:
            patience -= 1
            other = 0.9 if patience <= 0 else other
        before = sums
        if other < 1 < ratio:
            limit = min(limit, sums)
        less = max(int(limit // unit * min(other, ratio)), 0) * unit
        limit = limit - unit if less == limit else less
        if limit <= unit:
            return None


def _sides(aspect: float, area: int, grain: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of so many outputs, alike to a plane."""
    wide = math.sqrt(area / aspect)
    high = wide * aspect
    if high < 1:
        wide, high = wide * high, 1.0
    elif wide < 1:
        high, wide = high * wide, 1.0
    rows, columns = (max(int(n), g) // g * g for n, g in zip((high, wide), grain, strict=True))
    return rows, columns


def _even(length: int, grain: int, size: int) -> int:
    """Return the size, about as large, whose last piece of a length is the largest."""
    if length % size == 0:
        return size
    even = max(up(length // (length // size + 1), grain), grain)
    least = max(even - 2 * grain, (even + 1) // 2, grain)
    best, rest = size, length % size
    for other in range(size, least - 1, -grain):
        left = length % other or other
        if left > rest:
            best, rest = other, left
    return best


def _with_next_row(
    job: Pass, shape: Microblock, room: _Room, size: list[int]
) -> tuple[Shape, Shape]:
    """Return a block of inputs and outputs, smaller until another row of inputs fits beside it."""
    grain, whole, forced = (*shape.shape[:2], BRICK), room.whole, 0
    while True:
        high, wide, deep = size
        step = _stored(job, shape, room.depth or deep)
        needed = _needed(job, (high, wide, deep), step, room.depth)
        row = _needed(job, (grain[0], wide, deep), step, room.depth)
        if (high, wide, deep) == whole or all(a >= b for a, b in zip(size, whole, strict=True)):
            break
        if room.inputs - math.prod(needed) >= math.prod(row):
            break
        if (high != whole[0] or forced & 2) and high > grain[0]:
            size[0] -= grain[0]
        elif (deep > wide or forced & 1) and deep > grain[2]:
            size[2] -= grain[2]
        elif (wide != whole[1] or forced & 4) and wide > grain[1]:
            size[1] -= grain[1]
        elif forced != 7:
            forced = forced << 1 | 1
        elif deep > grain[2]:
            size[2] = max(deep // 2, grain[2])
        else:
            break
    return needed, (high, wide, deep)
