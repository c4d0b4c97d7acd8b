"""Pyramid vector quantization: 8 weights are a point of a pyramid times a gain (Fischer, 1986).

The pyramid P(N, K) holds the integer points of N dimensions whose absolute values sum to K. It
needs no stored codebook: a point's index is counted, not looked up. Here N is 8 and the index has
24 bits; with a logarithmic gain of 8 bits for each 8 weights that is 4 bits per weight.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.grids._tables import block_span
from zoo.quantization.grids.contract import Grid, Layout, Parameters
from zoo.quantization.options import LayerOptions

BITS, DIM = 3, 8
_OCTAVE, _ONE = 8, 200  # steps of the gain per factor of two; the step that stands for 1
_ABOVE = 40  # bits of a count
_ZERO = 1  # the step that stands for 0; step 0 is that of a tensor the file lacks


@dataclass(frozen=True)
class Pyramid(Grid):
    """w = gain * point[code]. A column group is one cell, whose gain is `gain` (rows,)."""

    total: int = 1

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the gain by least squares for the nearest point, rounded as stored."""
        points = nearest(values, self.total).to(values)
        power = (points.square() * importance).sum(1)
        gain = (points * values * importance).sum(1) / power.clamp(min=1e-30)
        return {"gain": _gain(_step(gain))}

    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        """Return the points of nearest direction: whatever the gain, all have one sum."""
        cells = values.unflatten(1, (-1, self.dim))
        return index_of(nearest(cells, self.total))

    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        """Return points times gains."""
        points = point_of(codes, self.dim, self.total).flatten(1)
        return points * group["gain"].unsqueeze(1)

    def decode(self, parameters: Parameters, codes: Tensor) -> Tensor:
        """Return the matrix (rows, padded) of all codes."""
        points = point_of(codes, self.dim, self.total)
        return (points * parameters["gain"].T.unsqueeze(2)).flatten(1)

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradient of `gain`."""
        points = point_of(codes, self.dim, self.total)
        return {"gain": (points * gradient.unflatten(1, (-1, self.dim))).sum(2).T.contiguous()}

    def decode_stored(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return W (rows, columns)."""
        codes = self.unpack(tensors["codes"])
        return self.decode({"gain": _gain(tensors["gain"])}, codes)[:, : self.columns]

    def layout(self) -> Layout:
        """Return `gain` (groups, rows), steps of an eighth of an octave."""
        return {"gain": ((len(self.groups), self.rows), torch.uint8)}

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the steps."""
        return {"gain": _step(parameters["gain"])}

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return the gains."""
        step = self.take(tensors, "gain")
        _refuse(step)
        return {"gain": _gain(step)}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse gains that are missing, and indices of no point."""
        _refuse(tensors["gain"])
        if "codes" in tensors:
            self.check_codes({}, self.unpack(tensors["codes"]))

    def check_codes(self, parameters: Parameters, codes: Tensor) -> None:
        """Refuse indices of no point."""
        if codes.numel() and int(codes.max()) >= (size := count(self.dim, self.total)):
            raise UnsafeFileError(
                f"codes out of table: {int(codes.max())}; the pyramid has {size} points"
            )


def _step(gain: Tensor) -> Tensor:
    """Return the stored steps nearest to gains, on a logarithmic scale."""
    steps = torch.round(torch.log2(gain.clamp(min=1e-30)) * _OCTAVE) + _ONE
    return torch.where(gain > 0, steps.clamp(_ZERO + 1, 255), _ZERO).to(torch.uint8)


def _gain(step: Tensor) -> Tensor:
    return _gains(step.device)[step.long()]


@functools.cache
def _gains(device: torch.device) -> Tensor:
    """Return the gain of each step: the same on every machine, as `torch.exp2` need not be."""
    gains = [0.0 if step <= _ZERO else 2.0 ** ((step - _ONE) / _OCTAVE) for step in range(256)]
    return torch.tensor(gains, device=device)


def _refuse(step: Tensor) -> None:
    if (step == 0).any():
        raise UnsafeFileError("gain holds 0, which no quantization stores")


def nearest(values: Tensor, total: int) -> Tensor:
    """Return the points (..., n), int64, nearest to `values` (..., n) scaled to the pyramid.

    Absolute values, scaled to sum to `total`, are rounded down; what is missing to the total goes
    to those that lost most. That is the point of least squared distance to the scaled vector.
    """
    size = values.abs()
    norm = size.sum(-1, keepdim=True)
    even = torch.full_like(size, 1 / size.shape[-1])  # zeros have no direction
    scaled = torch.where(norm > 0, size / norm.clamp(min=1e-38), even) * total
    whole = scaled.floor()
    missing = (total - whole.sum(-1, keepdim=True)).long()
    rank = (scaled - whole).argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    # More than one each is missing only where sums of floats over- or underflow.
    each, rest = missing // size.shape[-1], missing % size.shape[-1]
    points = whole.long() + each + (rank < rest).long()
    return torch.where(values < 0, -points, points)


@functools.cache
def count(dimensions: int, total: int) -> int:
    """Return how many integer points have absolute values that sum to `total`."""
    if total == 0 or dimensions == 0:
        return int(total == 0)
    return (
        count(dimensions - 1, total)
        + count(dimensions, total - 1)
        + count(dimensions - 1, total - 1)
    )


@functools.cache
def _tables(dimensions: int, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return V (n + 1, k + 1), the points before an entry, and where those of each sum begin.

    `before[n]` holds for every sum k and every m up to k how many points of sum k have a first
    entry (of n + 1) that is 0, +-1, ..., +-(m - 1): an entry's order is 0, 1, -1, 2, -2, ... They
    stand one sum after the other, with the sum itself in the bits above, so that they rise and one
    search finds m.
    """
    sizes = torch.tensor([[count(n, k) for k in range(total + 1)] for n in range(dimensions + 1)])
    before = []
    for n in range(dimensions + 1):
        for k in range(total + 1):
            sums = 0
            for m in range(k + 1):
                before.append((k << _ABOVE) + sums)
                sums += count(n, k - m) * (2 if m else 1)
    places = torch.arange(total + 1)
    return sizes, torch.tensor(before).view(dimensions + 1, -1), places * (places + 1) // 2


def index_of(points: Tensor) -> Tensor:
    """Return the index (...) of points (..., n) among all points of their pyramid.

    All must have the same sum of absolute values.
    """
    size = points.abs()
    dimensions, total = points.shape[-1], int(size[(0,) * (size.ndim - 1)].sum())
    sizes, before, places = (table.to(points.device) for table in _tables(dimensions, total))
    left = torch.full_like(size[..., 0], total)
    index = torch.zeros_like(left)
    for place in range(dimensions):
        rest, here = dimensions - 1 - place, size[..., place]
        negative = (points[..., place] < 0).long()
        index += before[rest][places[left] + here] - (left << _ABOVE)
        left = left - here
        index += negative * sizes[rest][left]
    return index


def point_of(index: Tensor, dimensions: int, total: int) -> Tensor:
    """Return the points (..., n), int64, of indices (...): the inverse of `index_of`."""
    sizes, before, places = (table.to(index.device) for table in _tables(dimensions, total))
    ahead, left = index.long(), torch.full(index.shape, total, device=index.device)
    entries = []
    for place in range(dimensions):
        rest = dimensions - 1 - place
        key = ahead + (left << _ABOVE)
        found = torch.searchsorted(before[rest], key, right=True) - 1
        size = found - places[left]
        ahead = key - before[rest][found]
        left = left - size
        share = sizes[rest][left]
        negative = (size > 0) & (ahead >= share)
        ahead = ahead - negative * share
        entries.append(torch.where(negative, -size, size))
    return torch.stack(entries, -1)


def make(options: LayerOptions, rows: int, columns: int) -> Pyramid:
    """Return the grid of the largest pyramid whose points an index can name."""
    span = block_span(options, DIM)
    total = 1
    while count(DIM, total + 1) <= 1 << options.index_bits:
        total += 1
    return Pyramid(rows, columns, DIM, options.index_bits, span, total=total)
