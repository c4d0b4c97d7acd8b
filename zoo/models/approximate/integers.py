"""The approximations in whole numbers alone: add, multiply, shift, compare, look up.

A number x stands as round(x 2^places). Functions take int64 tensors, or `CountedInts`, which have
no other operations: none divides, and none takes a root. Shifts to the right round down, as `>>` of
a device does. Where 1/n is needed, n is a constant of the network and so is 1/n.
"""

from typing import TypeVar

import torch
from torch import Tensor

from zoo.models.approximate import tables
from zoo.models.approximate.counted import CountedInts, leading_one, lookup, row_max, row_sum, where
from zoo.models.approximate.tables import Curve, Root

Whole = TypeVar("Whole", Tensor, CountedInts)
N = 24  # binary places of 1/n


def fixed(values: tuple[float, ...], places: int = tables.Q) -> Tensor:
    """Return a table's entries as whole numbers."""
    return torch.tensor([round(value * 2**places) for value in values])


def _fraction(v: Whole, k: Whole, bits: int) -> Whole:
    """Return floor(f 2^bits) for v = 2^k (1 + f)."""
    return ((v << bits) >> k) - (1 << bits)


def _reciprocal(v: Whole, bits: int) -> tuple[Whole, Whole]:
    """Return (entry, k) with 1 / v about entry 2^-(Q + k)."""
    k = leading_one(v)
    return lookup(fixed(tables.reciprocal_table(bits)), _fraction(v, k, bits)), k


def exponential(z: Whole, bits: int, places: int) -> Whole:
    """Return about e^z 2^places for z = z' 2^-places up to 2; 0 below -3."""
    lowest = int(tables.LOWEST * 2**places)
    inside = where(z < lowest, lowest, z)
    square = ((inside * inside) >> places) + (tables.PADE_C << places)
    middle = inside * tables.PADE_B
    entry, k = _reciprocal(square - middle, bits)
    return where(z < lowest, 0, ((square + middle) * entry) >> (k + (tables.Q - places)))


def softmax(x: Whole, bits: int, places: int = 12) -> Whole:
    """Return about softmax(x) 2^Q over the last dimension; x and the exponent have `places`."""
    e = exponential(x - row_max(x) + int(tables.SHIFT * 2**places), bits, places)
    entry, k = _reciprocal(row_sum(e), bits)
    return (e * entry) >> k


def standardized(
    x: Whole, bits: int, eps: float, root: Root, *, centred: bool, places: int = 12
) -> Whole:
    """Return x by about its root mean square, its mean taken off if so; 2^places each."""
    part = round(2**N / x.shape[-1])
    if centred:
        x = x - ((row_sum(x) * part) >> N)
    # The mean square has 2 places; shares before sums keep sums short.
    square = ((row_sum(x * x) >> 8) * part >> (N - 8)) + max(1, round(eps * 4**places))
    k = leading_one(square)
    odd = k - ((k >> 1) << 1)
    index = _fraction(square, k, bits) + (odd << bits)
    entry = lookup(fixed(tables.root_table(bits, root)), index)
    return (x * entry) >> ((k >> 1) + (tables.Q - places))


def bent(x: Whole, curve: Curve, segments: int, places: int = 12) -> Whole:
    """Return a curve in straight pieces, of a power of two, 2^places each."""
    reach = tables.REACH[curve] << places
    step = (2 * tables.REACH[curve]).bit_length() - segments.bit_length() + places
    slopes, heights = zip(*tables.pieces(curve, segments), strict=True)
    inside = where(x < -reach, -reach, where(x < reach, x, reach - 1))
    at = (inside + reach) >> step
    beyond = inside + reach - (at << step)
    value = lookup(fixed(heights, places), at) + ((lookup(fixed(slopes), at) * beyond) >> tables.Q)
    return where(x < reach, where(x < -reach, 0, value), x)
