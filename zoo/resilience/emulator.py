"""Arrays of multipliers, cycle by cycle, with one bit flipped: slow, and nothing but registers.

What `zoo.resilience.dataflow` says in closed form follows here from moving integers. A fault names
a register by its class and place, a bit, the tile and the cycle; flips come as the cycle begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from zoo.resilience.dataflow import Dataflow, MicroBlocks, OutputStationary, WeightStationary
from zoo.resilience.faults import BITS, Integers, flipped, wrapped


@dataclass(frozen=True)
class Fault:
    """A bit of a register that flips.

    Attributes:
        register: its class.
        place: its row and column among its class.
        bit: from 0, the lowest.
        tile: in which tile it flips, in the order of work.
        cycle: of the tile.

    """

    register: str
    place: tuple[int, int]
    bit: int
    tile: int
    cycle: int


@dataclass(frozen=True)
class _Tile:
    """One tile's work: stored inputs (r, k), weights (k, c), where its outputs lie."""

    number: int
    a: Integers
    w: Integers
    rows: slice
    columns: slice


def emulate(
    flow: Dataflow, a: Integers, w: Integers, zero: int, fault: Fault | None = None
) -> Integers:
    """Return (A - zero) W as an array with a fault computes it.

    Args:
        flow: the array.
        a: stored inputs (positions, depth).
        w: weights (depth, channels).
        zero: zero point of the inputs.
        fault: what flips; None: nothing.

    """
    y = np.zeros((len(a), w.shape[1]), np.int64)
    for tile in _tiles(flow, a, w):
        mine = fault if fault is not None and fault.tile == tile.number else None
        part = (tile.rows, tile.columns)
        y[part] = wrapped(y[part] + _run(flow, tile, zero, mine))
    return y


def every_fault(flow: Dataflow, a: Integers, w: Integers) -> Iterator[Fault]:
    """Yield every bit of every register in every cycle of every tile, live or not."""
    places = {name: _places(flow, name) for name in flow.registers}
    for tile in _tiles(flow, a, w):
        for cycle, (name, where) in product(range(_cycles(flow, tile)), places.items()):
            for place, bit in product(where, range(BITS[name])):
                yield Fault(name, place, bit, tile.number, cycle)


def _places(flow: Dataflow, register: str) -> list[tuple[int, int]]:
    rows, columns = _grid(flow, register)
    return list(product(range(rows), range(columns)))


def _grid(flow: Dataflow, register: str) -> tuple[int, int]:
    if isinstance(flow, OutputStationary | WeightStationary):
        return flow.rows, flow.columns
    assert isinstance(flow, MicroBlocks)
    if register == "activation":
        return flow.positions, flow.lanes
    if register == "weight":
        return flow.lanes, flow.channels
    return flow.down * flow.positions, flow.across * flow.channels


def _tiles(flow: Dataflow, a: Integers, w: Integers) -> Iterator[_Tile]:
    height, width = _grid(flow, "accumulator")
    streams = isinstance(flow, WeightStationary)
    number = 0
    for down in range(0, w.shape[0] if streams else len(a), height):
        for right in range(0, w.shape[1], width):
            part, columns = slice(down, down + height), slice(right, right + width)
            if streams:
                yield _Tile(number, a[:, part], w[part, columns], slice(None), columns)
            else:
                yield _Tile(number, a[part], w[:, columns], part, columns)
            number += 1


def _cycles(flow: Dataflow, tile: _Tile) -> int:
    (m, k), n = tile.a.shape, tile.w.shape[1]
    if isinstance(flow, WeightStationary):
        return k + m + k + n - 1
    if isinstance(flow, OutputStationary):
        return k + m + n - 2 + m
    assert isinstance(flow, MicroBlocks)
    turns = flow.turns((m, n))[0]
    return turns * -(-k // flow.lanes) + turns


def _run(flow: Dataflow, tile: _Tile, zero: int, fault: Fault | None) -> Integers:
    """Return a tile's outputs: every cycle loads registers, may be hit, and then computes."""
    held = {
        name: np.full(_grid(flow, name), zero if name == "activation" else 0, np.int64)
        for name in BITS
    }
    out = np.zeros((len(tile.a), tile.w.shape[1]), np.int64)
    load, compute = _STEPS[type(flow)]
    for cycle in range(_cycles(flow, tile)):
        load(flow, tile, zero, cycle, held)
        if fault is not None and fault.cycle == cycle:
            register, bit = held[fault.register], np.int64(fault.bit)
            register[fault.place] = flipped(register[fault.place], bit, BITS[fault.register])
        compute(flow, tile, zero, cycle, held, out)
    return out


Held = dict[str, Integers]


def _load_outputs(flow: OutputStationary, tile: _Tile, zero: int, t: int, held: Held) -> None:
    """Move activations to the right and weights down, and let the next ones in."""
    (r, depth), c = tile.a.shape, tile.w.shape[1]
    held["activation"][:, 1:] = held["activation"][:, :-1].copy()
    held["weight"][1:] = held["weight"][:-1].copy()
    for i in range(flow.rows):
        held["activation"][i, 0] = tile.a[i, t - i] if i < r and 0 <= t - i < depth else zero
    for j in range(flow.columns):
        held["weight"][0, j] = tile.w[t - j, j] if j < c and 0 <= t - j < depth else 0


def _compute_outputs(
    flow: OutputStationary, tile: _Tile, zero: int, t: int, held: Held, out: Integers
) -> None:
    """Multiply and add; when the last products are in, read out a row."""
    (r, depth), c = tile.a.shape, tile.w.shape[1]
    computing = depth + r + c - 2
    if t >= computing:
        out[t - computing] = held["accumulator"][t - computing, :c]
        return
    products = (held["activation"] - zero) * held["weight"]
    held["accumulator"][:] = wrapped(held["accumulator"] + products)


def _load_weights(flow: WeightStationary, tile: _Tile, zero: int, t: int, held: Held) -> None:
    """Move activations to the right and let the next ones in, once the weights are there."""
    m, r = tile.a.shape
    held["activation"][:, 1:] = held["activation"][:, :-1].copy()
    for i in range(flow.rows):
        row = t - r - i
        held["activation"][i, 0] = tile.a[row, i] if i < r and 0 <= row < m else zero


def _compute_weights(
    flow: WeightStationary, tile: _Tile, zero: int, t: int, held: Held, out: Integers
) -> None:
    """Write a row of weights; or take the finished sums, and add to those from above."""
    (m, r), c = tile.a.shape, tile.w.shape[1]
    if t < r:
        held["weight"][t, :c] = tile.w[t]
        return
    for j in range(c):
        row = t - r - r - j  # the sum that left the last row a cycle ago
        if 0 <= row < m:
            out[row, j] = held["accumulator"][r - 1, j]
    above = np.vstack([np.zeros((1, flow.columns), np.int64), held["accumulator"][:-1]])
    products = (held["activation"] - zero) * held["weight"]
    held["accumulator"][:] = wrapped(above + products)


def _micro_block(flow: MicroBlocks, tile: _Tile, turn: int) -> tuple[slice, slice]:
    """Return the rows and columns of the outputs whose turn it is."""
    side = flow.turns((len(tile.a), tile.w.shape[1]))[1]
    down, right = turn // side * flow.positions, turn % side * flow.channels
    return slice(down, down + flow.positions), slice(right, right + flow.channels)


def _load_block(flow: MicroBlocks, tile: _Tile, zero: int, t: int, held: Held) -> None:
    """Fetch the operands of a micro-block, and nothing where there are none."""
    turns = flow.turns((len(tile.a), tile.w.shape[1]))[0]
    held["activation"][:], held["weight"][:] = zero, 0
    rows, columns = _micro_block(flow, tile, t % turns)
    places = slice(t // turns * flow.lanes, (t // turns + 1) * flow.lanes)
    a, w = tile.a[rows, places], tile.w[places, columns]
    held["activation"][: a.shape[0], : a.shape[1]] = a
    held["weight"][: w.shape[0], : w.shape[1]] = w


def _compute_block(
    flow: MicroBlocks, tile: _Tile, zero: int, t: int, held: Held, out: Integers
) -> None:
    """Add a micro-block's products; when all are in, read out a micro-block."""
    turns = flow.turns((len(tile.a), tile.w.shape[1]))[0]
    part = _micro_block(flow, tile, t % turns)
    if t >= turns * -(-tile.a.shape[1] // flow.lanes):
        size = out[part].shape
        out[part] = held["accumulator"][part][: size[0], : size[1]]
        return
    products = (held["activation"] - zero) @ held["weight"]
    held["accumulator"][part] = wrapped(held["accumulator"][part] + products)


_STEPS: dict[type, tuple[Any, Any]] = {
    OutputStationary: (_load_outputs, _compute_outputs),
    WeightStationary: (_load_weights, _compute_weights),
    MicroBlocks: (_load_block, _compute_block),
}
