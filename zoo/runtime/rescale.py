"""`Rescale`: the fixed-point multiplication of `zoo.runtime.fixedpoint`, fast and still exact.

A convolution's accumulator x becomes clamp(round(round(x * M / 2^31) / 2^e)), e = -s. In int64 that
is ten passes over the data. In real numbers the same integer is

    floor(x * M / 2^(31 + e) + sign(x) * 2^-(e + 1) + 1/2)        (e >= 1; without the middle
                                                                  term for e <= 0)

because the first rounding moves the second one's thresholds by half a unit of its last place,
towards zero. float64 computes this in six passes; whether its own rounding ever changes the result
is checked when a `Rescale` is made. Both sides are step functions that never fall as x grows, and
each pass is one correctly rounded operation, so they are equal everywhere if they are equal on both
sides of each of the (at most 255) steps. If they are not, the int64 path is taken.

The float64 passes work on blocks in reused memory: fresh memory for every layer would cost more
than the arithmetic.
"""

import threading

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.runtime import fixedpoint

_MOST_STEPS = 2**20  # steps that are checked; int16 results of one channel have 2^16
_BLOCK = 2**18  # elements that are processed at once: 2 MiB of float64
_ROW = 2**11  # about this many constants side by side: broadcasting shorter rows is slow


class _Workspace(threading.local):
    """float64 memory, kept per thread: one block for values, one for signs."""

    def __init__(self) -> None:
        self.blocks = [torch.empty(0, dtype=torch.float64) for _ in range(2)]

    def take(self, place: int, shape: torch.Size) -> Tensor:
        """Return a block in this shape; its content is undefined."""
        size = shape.numel()
        if len(self.blocks[place]) < size:
            with torch.inference_mode(False):  # for callers inside and outside that mode
                self.blocks[place] = torch.empty(size, dtype=torch.float64)
        return self.blocks[place][:size].view(shape)


_WORKSPACE = _Workspace()


class Rescale:
    """x -> clamp(x * factor, low, high) + zero_point, rounded as TFLite's kernels do.

    Args:
        factors: real multipliers, one or one per channel (the last dimension).
        bound: largest |x - centre| per channel that can occur (broadcasts against `factors`).
        low: smallest result, without the zero point.
        high: largest result, without the zero point.
        centre: integers around which x is centred, one per channel.
        added: integers, one per channel, still to be added to the given values to make x.
        domain: every x that can occur, if those are few and the results many.
        multipliers: (multiplier, shift) pairs instead of `factors`, for kernels that derive them
            differently.
        zero_point: what is added to results last.
        dtype: type of the results.

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
        centre: NDArray[np.float64] | None = None,
        added: NDArray[np.float64] | None = None,
        domain: NDArray[np.int64] | None = None,
        multipliers: list[tuple[int, int]] | None = None,
        zero_point: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if multipliers is None:
            reals = np.atleast_1d(np.asarray(factors, np.float64))
            if not np.all(np.isfinite(reals) & (reals >= 0)):
                raise MismatchError("a scale is not positive and finite")
            multipliers = [fixedpoint.quantize_multiplier(float(real)) for real in reals]
        pairs = np.array(multipliers, np.int64).reshape(-1, 2)
        self.multiplier, self.shift = pairs[:, 0], pairs[:, 1]
        self.low, self.high, self.zero_point, self.dtype = low, high, zero_point, dtype
        middle = np.zeros(1) if centre is None else centre
        reach = np.asarray(bound, np.float64)
        left = np.clip(self.shift, 0, None)
        if np.any(left > 30) or np.any((reach + np.abs(middle)) * 2.0**left >= 2.0**31):
            raise MismatchError("its sums can exceed 32 bits; the scales do not fit each other")
        right = np.clip(-self.shift, 0, None)
        self._factor = self.multiplier * 2.0 ** (self.shift - 31.0)
        self._nudge = np.where(right > 0, 2.0 ** -(right + 1.0), 0.0)
        # Below zero every result is clamped to zero or above: the nudge may point up everywhere.
        self._signed = low < 0 and bool(self._nudge.any())
        self._added = np.zeros(1) if added is None else added
        self._offset = np.broadcast_to(np.float64(0.5 + zero_point), self._factor.shape)
        if not self._signed:  # else the sign of the whole x is needed
            self._offset = self._offset + self._nudge + self._added * self._factor
        if domain is None:
            self.exact_in_float = self._check(middle, reach)
        else:
            self.exact_in_float = self._agrees(domain[:, None])
        self._width = max(len(self._factor), len(self._added))
        constants = (self._factor, self._offset, self._nudge, self._added)
        self._constants = tuple(self._tiled(values) for values in constants)
        self._integers = torch.from_numpy(self.multiplier), torch.from_numpy(self.shift)

    @property
    def added(self) -> Tensor:
        """What is still added to given values, one integer or one per channel, as float64."""
        return torch.from_numpy(self._added)

    def any(self, x: Tensor, channels: Tensor) -> Tensor:
        """Return the results for any whole int64 x, `added` included, of the given channels.

        They need not lie within `bound`: they wrap modulo 2^32, as registers do.
        """
        multiplier, shift = (_of(constants, channels) for constants in self._integers)
        left = shift.clamp(min=0)
        shifted = wrap(wrap(x) << left)  # the kernels shift in 32 bits
        result = fixedpoint.multiply(shifted, multiplier, shift - left)
        return (result.clamp_(self.low, self.high) + self.zero_point).to(self.dtype)

    def _tiled(self, values: NDArray[np.float64]) -> Tensor:
        """Return numbers by channel, repeated for several positions."""
        whole = np.broadcast_to(values, self._width)
        return torch.from_numpy(np.tile(whole, max(1, _ROW // self._width)))

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the results for integers x, of any type that holds them, channels last.

        They are written to `out` if given: contiguous, with x's shape and the results' type.
        """
        if out is None:
            out = x.new_empty(x.shape, dtype=self.dtype)
        if not self.exact_in_float:
            whole = x.to(torch.int64) + torch.from_numpy(self._added).to(torch.int64)
            result = fixedpoint.multiply(whole, *self._integers)
            return out.copy_(result.clamp_(self.low, self.high) + self.zero_point)
        x = x.contiguous()
        width = len(self._constants[0])
        rows, rest = divmod(x.numel(), width)
        if not rest:
            self._rows(x.view(rows, width), out.view(rows, width), self._constants)
            return out
        values, results, full = x.view(-1), out.view(-1), rows * width
        given, made = values[:full].view(rows, width), results[:full].view(rows, width)
        self._rows(given, made, self._constants)
        short = tuple(c[:rest] for c in self._constants)  # for a last row that is not full
        self._rows(values[full:].view(1, rest), results[full:].view(1, rest), short)
        return out

    def _rows(self, x: Tensor, out: Tensor, constants: tuple[Tensor, ...]) -> None:
        some = max(1, _BLOCK // x.shape[1])
        parts = [(x, out)]
        if len(x) > some:
            parts = list(zip(x.split(some), out.split(some), strict=True))
        factor, offset, nudge, added = constants
        for part, result in parts:
            y = _WORKSPACE.take(0, part.shape).copy_(part)
            if self._signed:
                signs = torch.clamp(y.add_(added), -1, 1, out=_WORKSPACE.take(1, part.shape))
                y.mul_(factor).add_(signs.mul_(nudge))
            else:
                y.mul_(factor)
            y.add_(offset).floor_()
            result.copy_(y.clamp_(self.low + self.zero_point, self.high + self.zero_point))

    def exact(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the result by pure integer arithmetic; x is (..., channels)."""
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
        """Whether `_block`, operation by operation, gives the integer result for x."""
        if self._signed:
            value = (x * self._factor + np.sign(x) * self._nudge) + self._offset
        else:
            value = (x - self._added) * self._factor + self._offset
        low, high = self.low + self.zero_point, self.high + self.zero_point
        same = np.clip(np.floor(value), low, high) == self.exact(x) + self.zero_point
        return bool(np.all(same))


def wrap(x: Tensor) -> Tensor:
    """Return int64 integers as a signed register of 32 bits holds them."""
    return ((x + 2**31) & 0xFFFFFFFF) - 2**31


def _of(constants: Tensor, channels: Tensor) -> Tensor:
    """Return each channel's constant, of one for all channels or one for each."""
    return constants[channels] if len(constants) > 1 else constants.expand(channels.shape)


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

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the int16 results for float64 integers x, channels last, in `out` if given."""
        y = torch.addcmul(self._half, x, self._factor).floor_().clamp_(self.low, self.high)
        return y.to(torch.int16) if out is None else out.copy_(y)


class OnceRescale:
    """x -> clamp(x * factor, low, high) + zero_point, rounded once, halves up, in int64.

    This is LiteRT's fully connected layer; TFLite Micro's rounds as `Rescale` does.

    Args:
        factors: real multipliers, one or one per channel (the last dimension).
        bound: largest |x| per channel that can occur, `added` included.
        low: smallest result, without the zero point.
        high: largest result, without the zero point.
        added: integers, one per channel, still to be added to the given values to make x.
        zero_point: what is added to results last.
        dtype: type of the results.

    Raises:
        MismatchError: a factor is not positive and finite, or x leaves int32.

    """

    def __init__(
        self,
        factors: NDArray[np.float64],
        bound: NDArray[np.float64],
        low: int,
        high: int,
        *,
        added: NDArray[np.float64] | None,
        zero_point: int,
        dtype: torch.dtype,
    ) -> None:
        if not np.all(np.isfinite(factors) & (factors >= 0)):
            raise MismatchError("a scale is not positive and finite")
        pairs = np.array([fixedpoint.quantize_multiplier(float(r)) for r in factors], np.int64)
        if np.any(pairs[:, 1] > 30) or np.any(bound >= 2.0**31):
            raise MismatchError("its sums can exceed 32 bits; the scales do not fit each other")
        self.low, self.high, self.zero_point, self.dtype = low, high, zero_point, dtype
        self._multiplier, self._right = map(torch.from_numpy, (pairs[:, 0], 31 - pairs[:, 1]))
        some = np.zeros(1) if added is None else added
        self._added = torch.from_numpy(some.astype(np.int64))

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the results for integers x, of any type that holds them, channels last."""
        result = self._scaled(x.to(torch.int64) + self._added, self._multiplier, self._right)
        return result if out is None else out.copy_(result)

    @property
    def added(self) -> Tensor:
        """What is still added to given values, one integer or one per channel."""
        return self._added

    def any(self, x: Tensor, channels: Tensor) -> Tensor:
        """Return the results for any whole int64 x, `added` included; see `Rescale.any`."""
        multiplier, right = _of(self._multiplier, channels), _of(self._right, channels)
        return self._scaled(wrap(x), multiplier, right)

    def _scaled(self, x: Tensor, multiplier: Tensor, right: Tensor) -> Tensor:
        half = torch.ones_like(right) << (right - 1)
        scaled = (x * multiplier + half) >> right
        return (scaled.clamp_(self.low, self.high) + self.zero_point).to(self.dtype)
