"""Where an array of multipliers holds which integer, and for how long: residency and reach.

Each dataflow says, of one matrix product, how many pairs of a register and a cycle are live (a flip
there meets data that is still used), and what the flip of each of them reaches. Live sites are
numbered, so that all can be tried and some can be drawn. A flip happens as a cycle begins, before
the register is read. `zoo.resilience.emulator` computes the same cycle by cycle.

Sums run over the places of a kernel by row, column and input channel.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError, UnknownNameError
from zoo.resilience.faults import Integers, ProductShape, Reach, reached

NAMES = ("block", "output-stationary", "weight-stationary", "uniform")
LARGEST = 2**20  # multipliers of an array


class Dataflow(Protocol):
    """How an array computes a matrix product."""

    @property
    def name(self) -> str:
        """One of `NAMES`."""
        ...

    @property
    def text(self) -> str:
        """What it is, with its sizes."""
        ...

    @property
    def registers(self) -> dict[str, int]:
        """How many registers of each class the array has."""
        ...

    def cycles(self, shape: ProductShape) -> int:
        """Return the cycles of one product without waiting for memories."""
        ...

    def parallel(self, shape: ProductShape) -> int:
        """Return how many products of a layer are computed at the same time."""
        ...

    def live(self, shape: ProductShape, register: str) -> int:
        """Return how many pairs of a register of that class and a cycle are live in one product."""
        ...

    def reach(self, shape: ProductShape, register: str, sites: Integers) -> Reach:
        """Return what flips at live sites, by their numbers, reach."""
        ...


def _by_mac(shape: ProductShape, sites: Integers) -> tuple[Integers, Integers, Integers]:
    """Return position, channel and place in the sum of each multiplication."""
    rest, k = np.divmod(sites, shape.depth)
    m, n = np.divmod(rest, shape.channels)
    return m, n, k


def _end(n: Integers, width: int, channels: int) -> Integers:
    """Return the end of the tile that each channel lies in."""
    return np.minimum((n // width + 1) * width, channels)


@dataclass(frozen=True)
class _Tiles:
    """Accumulators of tiles that work in turn, each of `rows` x `columns` lanes at most.

    A lane is live from its tile's first cycle until it is read out.
    """

    positions: int
    channels: int
    rows: int
    columns: int

    def kinds(self) -> list[tuple[int, int, int, int, int]]:
        """Return (first position, first channel, r, c, tiles) of each size of tile."""
        found = []
        whole_m, rest_m = divmod(self.positions, self.rows)
        whole_n, rest_n = divmod(self.channels, self.columns)
        for m0, r, down in ((0, self.rows, whole_m), (whole_m * self.rows, rest_m, 1)):
            for n0, c, across in ((0, self.columns, whole_n), (whole_n * self.columns, rest_n, 1)):
                if r and c and down and across:
                    found.append((m0, n0, r, c, down * across))
        return found

    def origin(self, kind: tuple[int, int, int, int, int], tile: Integers) -> tuple[Integers, ...]:
        """Return the first position and channel of tiles of one size, by number."""
        m0, n0, _, c, _ = kind
        across = 1 if c < self.columns else max(1, self.channels // self.columns)
        down, right = np.divmod(tile, across)
        return m0 + down * self.rows, n0 + right * self.columns


class _Serial:
    """An array that computes one product after the other."""

    def parallel(self, shape: ProductShape) -> int:
        """Return how many products of a layer are computed at the same time."""
        return 1


class _Drained(_Serial):
    """What output-stationary arrays and blocks share: accumulators that wait to be read out."""

    def _tiles(self, shape: ProductShape) -> _Tiles:
        raise NotImplementedError

    def _lives(self, shape: ProductShape, r: int, c: int) -> NDArray[np.int64]:
        """Return for how many cycles each lane of a tile is live, (r, c)."""
        raise NotImplementedError

    def _held(
        self,
        shape: ProductShape,
        size: tuple[int, int],
        lane: tuple[Integers, Integers],
        t: Integers,
    ) -> Integers:
        """Return how many products lanes (i, j) of a tile hold as its cycle t begins."""
        raise NotImplementedError

    def cycles(self, shape: ProductShape) -> int:
        """Return the cycles of one product, reading out included."""
        kinds = self._tiles(shape).kinds()
        return sum(int(self._lives(shape, r, c).max()) * count for _, _, r, c, count in kinds)

    def _live_accumulators(self, shape: ProductShape) -> int:
        kinds = self._tiles(shape).kinds()
        return sum(int(self._lives(shape, r, c).sum()) * count for _, _, r, c, count in kinds)

    def _reach_accumulators(self, shape: ProductShape, sites: Integers) -> Reach:
        tiles, before = self._tiles(shape), 0
        parts = {name: np.zeros(len(sites), np.int64) for name in ("m0", "n0", "stop")}
        for kind in tiles.kinds():
            _, _, r, c, count = kind
            lives = self._lives(shape, r, c).ravel()
            size = int(lives.sum())
            mine = np.flatnonzero((sites >= before) & (sites < before + size * count))
            tile, place = np.divmod(sites[mine] - before, size)
            ends = np.cumsum(lives)
            lane = np.searchsorted(ends, place, side="right")
            t = place - (ends - lives)[lane]
            i, j = np.divmod(lane, c)
            m, n = tiles.origin(kind, tile)
            parts["m0"][mine], parts["n0"][mine] = m + i, n + j
            parts["stop"][mine] = self._held(shape, (r, c), (i, j), t)
            before += size * count
        return reached(len(sites), **parts)


@dataclass(frozen=True)
class _Systolic:
    """An array of multipliers, with a register of each class in every one."""

    rows: int = 16
    columns: int = 16
    name: str = ""

    @property
    def text(self) -> str:
        """What it is, with its sizes."""
        return f"{self.name} array of {self.rows} x {self.columns}"

    @property
    def registers(self) -> dict[str, int]:
        """How many registers of each class the array has."""
        return dict.fromkeys(("activation", "weight", "accumulator"), self.rows * self.columns)


@dataclass(frozen=True)
class OutputStationary(_Drained, _Systolic):
    """Every multiplier keeps one output; activations enter from the left, weights from above.

    The multiplier (i, j) gets operand k in cycle i + j + k of a tile. When the last has computed,
    the accumulators are read out, a row in each cycle.
    """

    name: str = "output-stationary"

    def live(self, shape: ProductShape, register: str) -> int:
        """Return how many pairs of a register of that class and a cycle are live in one product."""
        if register == "accumulator":
            return self._live_accumulators(shape)
        return shape.positions * shape.channels * shape.depth

    def reach(self, shape: ProductShape, register: str, sites: Integers) -> Reach:
        """Return what flips at live sites, by their numbers, reach."""
        if register == "accumulator":
            return self._reach_accumulators(shape, sites)
        m, n, k = _by_mac(shape, sites)
        if register == "activation":
            return reached(len(sites), m0=m, n0=n, n1=_end(n, self.columns, shape.channels), k=k)
        return reached(len(sites), m0=m, m1=_end(m, self.rows, shape.positions), n0=n, k=k)

    def _tiles(self, shape: ProductShape) -> _Tiles:
        return _Tiles(shape.positions, shape.channels, self.rows, self.columns)

    def _lives(self, shape: ProductShape, r: int, c: int) -> NDArray[np.int64]:
        computing = shape.depth + r + c - 2
        return np.repeat(computing + np.arange(r)[:, None] + 1, c, 1)

    def _held(
        self,
        shape: ProductShape,
        size: tuple[int, int],
        lane: tuple[Integers, Integers],
        t: Integers,
    ) -> Integers:
        return np.clip(t - lane[0] - lane[1], 0, shape.depth)


@dataclass(frozen=True)
class WeightStationary(_Serial, _Systolic):
    """Every multiplier keeps one weight; activations stream by, partial sums flow down.

    A tile is `rows` places of the sum by `columns` channels. Its weights are written row by row, a
    row in each cycle, then position m meets the multiplier (i, j) in cycle m + i + j. The sums of
    several tiles are added in a memory, which is no part of the array.
    """

    name: str = "weight-stationary"

    def _kinds(self, shape: ProductShape) -> list[tuple[int, int, int, int, int]]:
        return _Tiles(shape.depth, shape.channels, self.rows, self.columns).kinds()

    def cycles(self, shape: ProductShape) -> int:
        """Return the cycles of one product, loading of weights and the last sum's way included."""
        return sum(n * (r + shape.positions + r + c - 1) for _, _, r, c, n in self._kinds(shape))

    def live(self, shape: ProductShape, register: str) -> int:
        """Return how many pairs of a register of that class and a cycle are live in one product."""
        if register != "weight":
            return shape.positions * shape.channels * shape.depth
        kinds = self._kinds(shape)
        return sum(count * r * _ws_column(shape, r, c) for _, _, r, c, count in kinds)

    def reach(self, shape: ProductShape, register: str, sites: Integers) -> Reach:
        """Return what flips at live sites, by their numbers, reach."""
        if register == "weight":
            return self._reach_weights(shape, sites)
        m, n, k = _by_mac(shape, sites)
        if register == "activation":
            return reached(len(sites), m0=m, n0=n, n1=_end(n, self.columns, shape.channels), k=k)
        start = k // self.rows * self.rows
        return reached(len(sites), m0=m, n0=n, start=start, stop=k + 1)

    def _reach_weights(self, shape: ProductShape, sites: Integers) -> Reach:
        tiles = _Tiles(shape.depth, shape.channels, self.rows, self.columns)
        parts = {name: np.zeros(len(sites), np.int64) for name in ("m0", "n0", "k")}
        before = 0
        for kind in tiles.kinds():
            _, _, r, c, count = kind
            lives = np.tile(r + shape.positions - 1 + np.arange(c), r)
            ends, size = np.cumsum(lives), int(lives.sum())
            mine = np.flatnonzero((sites >= before) & (sites < before + size * count))
            tile, place = np.divmod(sites[mine] - before, size)
            lane = np.searchsorted(ends, place, side="right")
            i, j = np.divmod(lane, c)
            t = place - (ends - lives)[lane] + i + 1  # written in cycle i
            k, n = tiles.origin(kind, tile)
            parts["k"][mine], parts["n0"][mine] = k + i, n + j
            parts["m0"][mine] = np.maximum(t - r - i - j, 0)
            before += size * count
        return reached(len(sites), m1=np.int64(shape.positions), **parts)


def _ws_column(shape: ProductShape, r: int, c: int) -> int:
    """Return the live cycles of the weights in one row of a tile."""
    return c * (r + shape.positions - 1) + c * (c - 1) // 2


@dataclass(frozen=True)
class MicroBlocks(_Drained):
    """An Ethos-U's multipliers: micro-blocks of outputs, each a dot product of eight, in turn.

    In each cycle one micro-block of `positions` x `channels` outputs takes `lanes` places of its
    sums; the micro-blocks of a block take turns, then the next places follow. So an activation is
    held for a cycle and reaches the channels of a micro-block, a weight its positions. Accumulators
    live in a memory until the block is done and read out, a micro-block in each cycle. Of depthwise
    convolutions as many channels as there are lanes are computed at a time, a place of each sum.
    """

    positions: int = 2
    channels: int = 8
    down: int = 8
    across: int = 2
    lanes: int = 8
    name: str = "block"

    @property
    def text(self) -> str:
        """What it is, with its sizes."""
        size = f"{self.down * self.positions} x {self.across * self.channels}"
        return (
            f"micro-blocks of {self.positions} x {self.channels} outputs, {self.lanes} products "
            f"deep, in blocks of {size}"
        )

    @property
    def registers(self) -> dict[str, int]:
        """How many registers of each class the array has."""
        outputs = self.positions * self.channels * self.down * self.across
        return {
            "activation": self.positions * self.lanes,
            "weight": self.channels * self.lanes,
            "accumulator": outputs,
        }

    def live(self, shape: ProductShape, register: str) -> int:
        """Return how many pairs of a register of that class and a cycle are live in one product."""
        if register == "activation":
            return shape.positions * shape.depth * -(-shape.channels // self.channels)
        if register == "weight":
            return shape.channels * shape.depth * -(-shape.positions // self.positions)
        return self._live_accumulators(shape)

    def reach(self, shape: ProductShape, register: str, sites: Integers) -> Reach:
        """Return what flips at live sites, by their numbers, reach."""
        if register == "accumulator":
            return self._reach_accumulators(shape, sites)
        rest, k = np.divmod(sites, shape.depth)
        if register == "activation":
            m, part = np.divmod(rest, -(-shape.channels // self.channels))
            n = part * self.channels
            return reached(len(sites), m0=m, n0=n, n1=_end(n, self.channels, shape.channels), k=k)
        n, part = np.divmod(rest, -(-shape.positions // self.positions))
        m = part * self.positions
        return reached(len(sites), m0=m, m1=_end(m, self.positions, shape.positions), n0=n, k=k)

    def _tiles(self, shape: ProductShape) -> _Tiles:
        rows, columns = self.down * self.positions, self.across * self.channels
        return _Tiles(shape.positions, shape.channels, rows, columns)

    def parallel(self, shape: ProductShape) -> int:
        """Return how many products of a layer are computed at the same time."""
        return min(self.lanes, self.channels, shape.products) if self._deep(shape) else 1

    def _deep(self, shape: ProductShape) -> bool:
        return shape.products > 1 and shape.channels == 1

    def _lanes(self, shape: ProductShape) -> int:
        """Return how many places of a sum a cycle takes."""
        return 1 if self._deep(shape) else self.lanes

    def turns(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the micro-blocks of a block of r x c outputs, and those side by side."""
        side = -(-size[1] // self.channels)
        return -(-size[0] // self.positions) * side, side

    def _lives(self, shape: ProductShape, r: int, c: int) -> NDArray[np.int64]:
        turns, side = self.turns((r, c))
        own = (np.arange(r) // self.positions)[:, None] * side + np.arange(c) // self.channels
        return turns * -(-shape.depth // self._lanes(shape)) + own + 1

    def _held(
        self,
        shape: ProductShape,
        size: tuple[int, int],
        lane: tuple[Integers, Integers],
        t: Integers,
    ) -> Integers:
        turns, side = self.turns(size)
        own = lane[0] // self.positions * side + lane[1] // self.channels
        rounds = np.maximum(-((own - t) // turns), 0)  # ceil((t - own) / turns)
        return np.minimum(rounds * self._lanes(shape), shape.depth)


def dataflow(name: str, rows: int, columns: int) -> Dataflow:
    """Return a systolic array of rows x columns by the name of its dataflow.

    Raises:
        UnknownNameError: there is no such dataflow.
        MismatchError: the array is empty, or too large.

    """
    if rows < 1 or columns < 1 or rows * columns > LARGEST:
        raise MismatchError(
            f"an array of {rows} x {columns}; expected 1x1 to {LARGEST:,} multipliers, e.g. 16x16"
        )
    if name == "output-stationary":
        return OutputStationary(rows, columns)
    if name == "weight-stationary":
        return WeightStationary(rows, columns)
    raise UnknownNameError.near("dataflow", name, NAMES, f"known: {', '.join(NAMES)}")
