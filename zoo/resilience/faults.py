"""A single bit flip in a register: which integers it makes, and which outputs of a layer it moves.

A layer is one or several matrix products Y = (A - z) W: a row of A for each position of the output,
a column of W for each output channel, `depth` products in each sum. A grouped or depthwise
convolution has a product for each group. Registers hold the stored byte, not the centred value, and
accumulators are 32 bits wide and wrap.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
OPERANDS = ("activation", "weight")
BITS = {"activation": 8, "weight": 8, "accumulator": 32}  # of a register, by class


@dataclass(frozen=True, kw_only=True)
class ProductShape:
    """The matrix products of a layer, for one sample.

    Attributes:
        products: how many there are: groups of channels.
        positions: rows of each.
        depth: products in each sum.
        channels: columns of each.

    """

    products: int
    positions: int
    depth: int
    channels: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all products."""
        return self.products * self.positions * self.depth * self.channels


@dataclass(frozen=True, kw_only=True)
class Reach:
    """What some flips reach within their products; arrays of the same length.

    Attributes:
        m0, m1: the positions whose outputs change, from m0 to before m1.
        n0, n1: the channels.
        k: place in the sum of the operand that is flipped; of an accumulator 0.
        start, stop: of an accumulator, which places in the sum it holds when it is flipped.

    """

    m0: Integers
    m1: Integers
    n0: Integers
    n1: Integers
    k: Integers
    start: Integers
    stop: Integers

    def __len__(self) -> int:
        """Return the number of flips."""
        return len(self.m0)

    def __getitem__(self, chosen: Any) -> "Reach":
        """Return some of them."""
        return Reach(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @property
    def outputs(self) -> Integers:
        """How many outputs each reaches."""
        return (self.m1 - self.m0) * (self.n1 - self.n0)


def reached(count: int, **known: "Integers | np.int64") -> Reach:
    """Return the reach of some flips; what is not given is 0, and of one row or column."""
    zero = np.zeros(count, np.int64)
    parts = {f.name: zero for f in fields(Reach)}
    parts |= {name: np.broadcast_to(np.asarray(v, np.int64), count) for name, v in known.items()}
    for name in ("m", "n"):
        if f"{name}1" not in known:
            parts[f"{name}1"] = parts[f"{name}0"] + 1
    return Reach(**parts)


def flipped(
    stored: Integers, bit: "Integers | np.int64", bits: int, *, signed: bool = True
) -> Integers:
    """Return stored integers with one bit of each flipped, as a register of `bits` bits has them.

    Flipping the same bit again gives the integer back.
    """
    whole = 1 << bits
    raw = (stored & (whole - 1)) ^ (np.int64(1) << bit)
    return np.where(raw >= whole >> 1, raw - whole, raw) if signed else raw


def wrapped(sums: Integers) -> Integers:
    """Return integers as a signed register of 32 bits holds them."""
    return ((sums + 2**31) & 0xFFFFFFFF) - 2**31


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The single outputs that flips move: one entry for each flip and output.

    Attributes:
        flip: number of the flip.
        m, n: the output's position and channel in its product.

    """

    flip: Integers
    m: Integers
    n: Integers


def spread(reach: Reach) -> Spread:
    """Return each output that each flip reaches."""
    counts, width = reach.outputs, reach.n1 - reach.n0
    flip = np.repeat(np.arange(len(reach)), counts)
    place = np.arange(len(flip)) - np.repeat(np.cumsum(counts) - counts, counts)
    m = reach.m0[flip] + place // width[flip]
    return Spread(flip=flip, m=m, n=reach.n0[flip] + place % width[flip])


def faulty_product(
    a: Integers, w: Integers, zero: int, register: str, bit: int, reach: Reach
) -> Integers:
    """Return (A - zero) W after one flip, by the closed form; for small products.

    Args:
        a: stored inputs (positions, depth).
        w: weights (depth, channels).
        zero: zero point of the inputs.
        register: class of the register that is hit.
        bit: which of its bits.
        reach: of this one flip.

    """
    y, found = (a - zero) @ w, spread(reach)
    k, one = int(reach.k[0]), np.int64(bit)
    if register == "activation":
        row = a[found.m, k]
        delta = (flipped(row, one, 8) - row) * w[k, found.n]
    elif register == "weight":
        column = w[k, found.n]
        delta = (flipped(column, one, 8) - column) * (a[found.m, k] - zero)
    else:
        part = slice(int(reach.start[0]), int(reach.stop[0]))
        held = ((a[found.m, part] - zero) * w[part, found.n].T).sum(1)
        delta = flipped(held, one, 32) - held
    y[found.m, found.n] = wrapped(y[found.m, found.n] + delta)
    return y
