"""Whole numbers that count what is done with them, and have nothing that divides.

The few functions below take tensors of int64 as well: what computes with `CountedInts` is,
operation for operation, what computes with plain tensors.
"""

from collections import Counter
from typing import TypeVar

import torch
from torch import Tensor


class CountedInts:
    """A tensor of int64 whose operations are counted, one for each element of the result.

    Addition, subtraction, product, shifts and comparison; anything else is a TypeError.

    Args:
        value: the numbers.
        counts: where operations are counted, shared by all that is computed from it.

    """

    def __init__(self, value: Tensor, counts: Counter[str]) -> None:
        self.value, self.counts = value, counts

    @property
    def shape(self) -> torch.Size:
        """The shape of the tensor."""
        return self.value.shape

    def _made(self, kind: str, value: Tensor) -> "CountedInts":
        self.counts[kind] += value.numel()
        return CountedInts(value, self.counts)

    def __add__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("add", self.value + plain(other))

    def __sub__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("add", self.value - plain(other))

    def __mul__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("multiply", self.value * plain(other))

    def __lshift__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("shift", self.value << plain(other))

    def __rshift__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("shift", self.value >> plain(other))

    def __lt__(self, other: "CountedInts | int") -> "CountedInts":
        return self._made("compare", self.value < plain(other))


Whole = TypeVar("Whole", Tensor, CountedInts)


def plain(number: "CountedInts | Tensor | int") -> "Tensor | int":
    """Return a number without its counts."""
    return number.value if isinstance(number, CountedInts) else number


def leading_one(v: Whole) -> Whole:
    """Return k = floor(log2 v) for v of 1 or more: the place of its highest bit."""
    if isinstance(v, CountedInts):
        return v._made("leading one", leading_one(v.value))
    rest, k = v.clone(), torch.zeros_like(v)
    for width in (32, 16, 8, 4, 2, 1):
        high = (rest >> width) > 0
        k += high * width
        rest = torch.where(high, rest >> width, rest)
    return k


def lookup(table: Tensor, index: Whole) -> Whole:
    """Return the entries of a table."""
    if isinstance(index, CountedInts):
        return index._made("look up", lookup(table, index.value))
    return table.to(index.device)[index]


def where(condition: Whole, yes: Whole | int, no: Whole | int) -> Whole:
    """Return `yes` where a condition holds, else `no`."""
    if isinstance(condition, CountedInts):
        value = torch.where(condition.value, plain(yes), plain(no))
        return condition._made("select", value)
    return torch.where(condition, yes, no)


def row_sum(x: Whole) -> Whole:
    """Return the sum over the last dimension, which stays with length 1."""
    if isinstance(x, CountedInts):
        x.counts["add"] += x.value.numel() - x.value[..., 0].numel()
        return CountedInts(row_sum(x.value), x.counts)
    return x.sum(-1, keepdim=True)


def row_max(x: Whole) -> Whole:
    """Return the largest over the last dimension, which stays with length 1."""
    if isinstance(x, CountedInts):
        x.counts["compare"] += x.value.numel() - x.value[..., 0].numel()
        return CountedInts(row_max(x.value), x.counts)
    return x.amax(-1, keepdim=True)
