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
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.export import fixedpoint

# Distance to a step that float64 does not bridge, relative to the largest result: the product and
# two additions are each off by at most 2^-53 of it.
_SAFE = 2.0**-51


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
        self._bias = torch.from_numpy(bias) if bias is not None and add_bias else None
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
        offset = 0.5 + (self._nudge if low >= 0 else 0.0)
        self._offset = torch.from_numpy(np.broadcast_to(offset, self._factor.shape).copy())
        self._factor_t = torch.from_numpy(self._factor)
        signed = low < 0 and bool(self._nudge.any())
        self._nudge_t = torch.from_numpy(self._nudge) if signed else None
        self._integers = torch.from_numpy(self.multiplier), torch.from_numpy(self.shift)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the integers for float32 or float64 integers x, channels last."""
        x = x.to(torch.float64)
        if self._bias is not None:
            x = x + self._bias
        if not self.exact_in_float:
            result = fixedpoint.multiply(x.to(torch.int64), *self._integers)
            result = result.clamp_(self.low, self.high)
            return result.to(torch.float64 if self.wide else torch.float32)
        y = torch.addcmul(self._offset, x, self._factor_t)
        if self._nudge_t is not None:
            y.addcmul_(x.sign(), self._nudge_t)
        y = y.floor_().clamp_(self.low, self.high)
        return y if self.wide else y.to(torch.float32)

    def exact(self, x: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the result by integer arithmetic alone; x is (..., channels)."""
        result = fixedpoint.multiply(x, self.multiplier, self.shift)
        return np.clip(result, self.low, self.high)

    def _check(self, centre: NDArray[np.float64], reach: NDArray[np.float64]) -> bool:
        """Whether the float64 formula gives the integer result for every |x - centre| <= reach."""
        steps = np.arange(self.low + 1, self.high + 1, dtype=np.float64)[:, None]
        if len(steps) > 1024:
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
