"""`Rescale`: the fixed-point multiplication of `zoo.export.fixedpoint`, fast and still exact.

A convolution's accumulator x becomes clamp(round(round(x * M / 2^31) / 2^e)), e = -s. In int64 that
is ten passes over the data. In real numbers the same integer is

    floor(x * M / 2^(31 + e) + sign(x) * 2^-(e + 1) + 1/2)        (e >= 1; without the middle
                                                                  term for e <= 0)

because the first rounding moves the second one's thresholds by half a unit of its last place,
towards zero. float64 computes this in four passes; whether its own rounding ever changes the
result is checked when a `Rescale` is made: both sides are step functions that grow with x, so they
are equal everywhere if they are equal on both sides of each of the (at most 255) steps. Where the
check fails, or an exact tie is not exact in float64, the int64 path is taken.

The float64 passes go over blocks in memory that is kept: fresh memory for every layer would cost
more than the arithmetic.
"""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.export import fixedpoint

# Distance to a step that float64 does not bridge, relative to the largest result: the product and
# two additions are each off by at most 2^-53 of it.
_SAFE = 2.0**-51
_MOST_STEPS = 2**18  # that are checked; int16 results of one channel have 2^16
_BLOCK = 2**17  # elements that are worked on at once: 1 MiB of float64
_ROW = 2**11  # about so many constants side by side: broadcasting shorter rows is slow


class _Workspace(threading.local):
    """One block of float64 for values and one for signs, per thread."""

    def __init__(self) -> None:
        self.blocks = torch.empty(2, 0, dtype=torch.float64)

    def take(self, size: int) -> tuple[Tensor, Tensor]:
        """Return both with so many elements; what they hold is anything."""
        if self.blocks.shape[1] < size:
            with torch.inference_mode(False):  # for callers in and outside that mode
                self.blocks = torch.empty(2, size, dtype=torch.float64)
        return self.blocks[0, :size], self.blocks[1, :size]


_WORKSPACE = _Workspace()


class Rescale:
    """x -> clamp(x * factor, low, high), rounded as TFLite's kernels do.

    Args:
        factors: real multipliers, one or one per channel (the last dimension).
        bound: largest |x| per channel that can occur (broadcasts against `factors`).
        low: smallest result (without zero point).
        high: largest result.
        bias: integers that belong to x, one per channel.
        add_bias: whether x comes without its bias.
        domain: every x that can occur, where they are few and the results many.
        multipliers: (multiplier, shift) pairs instead of `factors`, for the kernels that derive
            them otherwise.

    Raises:
        MismatchError: a factor is not positive and finite, or x * factor leaves int32.

    """

    def __init__(
        self,
        factors: NDArray[np.float64] | float,
        bound: NDArray[np.float64] | int,
        low: int,
        high: int,
        *,
        bias: NDArray[np.float64] | None = None,
        add_bias: bool = False,
        domain: NDArray[np.int64] | None = None,
        multipliers: list[tuple[int, int]] | None = None,
    ) -> None:
        if multipliers is None:
            reals = np.atleast_1d(np.asarray(factors, np.float64))
            if not np.all(np.isfinite(reals) & (reals >= 0)):
                raise MismatchError("a scale is not positive and finite")
            multipliers = [fixedpoint.quantize_multiplier(float(real)) for real in reals]
        pairs = np.array(multipliers, np.int64).reshape(-1, 2)
        self.multiplier, self.shift = pairs[:, 0], pairs[:, 1]
        self.low, self.high = low, high
        self.wide = max(-low, high) > 2**24  # results that float32 cannot hold stay float64
        centre = np.zeros(1) if bias is None else bias
        reach = np.asarray(bound, np.float64)
        left = np.clip(self.shift, 0, None)
        if np.any(left > 30) or np.any((reach + np.abs(centre)) * 2.0**left >= 2.0**31):
            raise MismatchError("its sums can exceed 32 bits; the scales do not fit each other")
        right = np.clip(-self.shift, 0, None)
        self._factor = self.multiplier * 2.0 ** (self.shift - 31.0)
        self._nudge = np.where(right > 0, 2.0 ** -(right + 1.0), 0.0)
        if domain is None:
            self.exact_in_float = self._check(centre, reach)
        else:
            self.exact_in_float = self._agrees(domain[:, None])
        # Below zero every result is clamped to zero or above: the nudge may point up everywhere.
        signed = low < 0 and bool(self._nudge.any())
        self._width = len(self._factor) if bias is None else max(len(self._factor), len(bias))
        self._factor_t = self._tiled(self._factor)
        self._offset = self._tiled(0.5 + (self._nudge if low >= 0 else np.zeros(1)))
        self._nudge_t = self._tiled(self._nudge) if signed else None
        self._bias = self._tiled(bias) if bias is not None and add_bias else None
        self._integers = torch.from_numpy(self.multiplier), torch.from_numpy(self.shift)

    def _tiled(self, values: NDArray[np.float64]) -> Tensor:
        """Return numbers by channel, repeated for several positions."""
        whole = np.broadcast_to(values, self._width)
        return torch.from_numpy(np.tile(whole, max(1, _ROW // self._width)))

    def __call__(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """Return the integers for float32 or float64 integers x, channels last.

        With `overwrite` the memory of a float32 x may be used for the result.
        """
        dtype = torch.float64 if self.wide else torch.float32
        if not self.exact_in_float:
            x = x.to(torch.float64)
            if self._bias is not None:
                x = x + self._bias[: self._width]
            result = fixedpoint.multiply(x.to(torch.int64), *self._integers)
            return result.clamp_(self.low, self.high).to(dtype)
        x = x.contiguous()
        out = x if overwrite and x.dtype == dtype else torch.empty_like(x, dtype=dtype)
        values, results = x.view(-1), out.view(-1)
        width = len(self._factor_t)
        step = max(1, _BLOCK // width) * width
        for start in range(0, len(values), step):
            part = slice(start, min(start + step, len(values) // width * width))
            if part.start < part.stop:
                self._block(values[part].view(-1, width), results[part].view(-1, width))
        if rest := len(values) % width:
            self._block(values[-rest:], results[-rest:])
        return out

    def _block(self, x: Tensor, out: Tensor) -> None:
        width = x.shape[-1]  # of a last row that is not full: less than that of the constants
        y, signs = (block.view(x.shape) for block in _WORKSPACE.take(x.numel()))
        y.copy_(x)
        if self._bias is not None:
            y.add_(self._bias[:width])
        if self._nudge_t is None:
            torch.addcmul(self._offset[:width], y, self._factor_t[:width], out=y)
        else:
            torch.sign(y, out=signs)
            torch.addcmul(self._offset[:width], y, self._factor_t[:width], out=y)
            y.addcmul_(signs, self._nudge_t[:width])
        out.copy_(y.floor_()).clamp_(self.low, self.high)

    def exact(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the result by integer arithmetic alone; x is (..., channels)."""
        result = fixedpoint.multiply(x, self.multiplier, self.shift)
        return np.clip(result, self.low, self.high)

    def _check(self, centre: NDArray[np.float64], reach: NDArray[np.float64]) -> bool:
        """Whether the float64 formula gives the integer result for every |x - centre| <= reach."""
        steps = np.arange(self.low + 1, self.high + 1, dtype=np.float64)[:, None]
        if len(steps) * len(self._factor) > _MOST_STEPS:
            return False
        edge = steps - 0.5 + np.where(steps > 0, -self._nudge, self._nudge)
        with np.errstate(divide="ignore"):  # a factor of 0 takes no step
            first = np.ceil(edge / self._factor)  # smallest x at or above the step
        inside = np.abs(first - centre) <= reach + 1
        above = np.where(inside, first, 0).astype(np.int64)
        below = np.where(inside, first - 1, 0).astype(np.int64)
        crossed = (self.exact(below) < steps) & (steps <= self.exact(above))
        if not np.all(crossed | ~inside):
            return False
        return all(self._agrees(x) for x in (above, below))

    def _agrees(self, x: NDArray[np.int64]) -> bool:
        value = 0.5 + x * self._factor + np.sign(x) * self._nudge
        distance = np.abs(value - np.round(value))
        tie = (distance == 0) & (x * self.multiplier % 2**30 == 0)  # exact in 53 bits
        same = np.clip(np.floor(value), self.low, self.high) == self.exact(x)
        safe = _SAFE * max(256, abs(self.low), abs(self.high))
        return bool(np.all(same & (tie | (distance > safe))))


class WideRescale:
    """x -> clamp(x * factor, low, high) for int64 sums of int16 activations.

    The kernels keep 16 bits of the multiplier and round once, halves up. Products stay below 2^53,
    so float64 computes them exactly.

    Args:
        factors: real multipliers, one or one per channel (the last dimension).
        bound: largest |x| per channel that can occur, bias included.
        low: smallest result.
        high: largest result.

    Raises:
        MismatchError: a factor is not positive and finite, or products can leave 53 bits.

    """

    def __init__(
        self, factors: NDArray[np.float64], bound: NDArray[np.float64], low: int, high: int
    ) -> None:
        reals = np.atleast_1d(factors)
        if not np.all(np.isfinite(reals) & (reals >= 0)):
            raise MismatchError("a scale is not positive and finite")
        pairs = np.array([fixedpoint.quantize_multiplier(float(r)) for r in reals], np.int64)
        reduced = np.minimum((pairs[:, 0] + 2**15) >> 16, 2**15 - 1)
        right = 15 - pairs[:, 1]
        if np.any(right < 1) or np.any(bound * 2.0**15 + 2.0**right >= 2.0**53):
            raise MismatchError("its sums are too large; the scales do not fit each other")
        self.low, self.high = low, high
        self._factor = torch.from_numpy(reduced / 2.0**right)
        self._half = torch.tensor(0.5, dtype=torch.float64)

    def __call__(self, x: Tensor, *, overwrite: bool = False) -> Tensor:
        """Return the integers as float32 for float64 integers x, channels last."""
        y = torch.addcmul(self._half, x, self._factor, out=x if overwrite else None)
        return y.floor_().clamp_(self.low, self.high).to(torch.float32)
