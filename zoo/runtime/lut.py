"""The int16 softmax of TFLite's kernels: two functions as tables of 513 points.

TFLite Micro fills the tables in float32, LiteRT in float64; here it is float32, as on devices.
LiteRT's results differ by one step in one case in a thousand.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from zoo.runtime import fixedpoint

Integers = NDArray[np.int64]
_SPAN = 2**16 - 1  # range of int16
_EXP_RANGE = 10.0  # exp(-10) and below count as 0


Floats = NDArray[np.float32]


def table(low: float, high: float, function: Callable[[Floats], Floats]) -> Integers:
    """Return a function over [low, high] as 513 int16 of scale 1 / 32768 (`LUTPopulate`).

    Each point is moved by half the error that interpolation makes midway to the next one.
    """
    step = np.float32((high - low) / 512)
    x: Floats = np.float32(low) + np.arange(513, dtype=np.float32) * step
    exact = function(x) * np.float32(2**15)
    sample = _round(exact)
    midway = _round(function(x[:-1] + step / np.float32(2)) * np.float32(2**15))
    error = _round((exact[1:] + sample[:-1]) / np.float32(2)) - midway
    sample[:-1] -= _round(error / np.float32(2))
    return np.clip(sample, -32768, 32767).astype(np.int64)


def _round(x: Floats) -> Floats:
    """Round halves away from zero."""
    rounded: Floats = np.copysign(np.floor(np.abs(x) + np.float32(0.5)), x)
    return rounded


def lookup(x: Integers, points: Integers) -> Integers:
    """Interpolate between a table's points: 9 bits choose one, 7 lie between (`LUTLookup`)."""
    place = 256 + (x >> 7)
    base = points[place]
    return base + (((points[place + 1] - base) * (x & 127) + 64) >> 7)


class Softmax:
    """int16 differences to the row's maximum -> int16 probabilities of scale 1 / 32768.

    Args:
        scale: real value of one step of the input, times beta.

    """

    def __init__(self, scale: float) -> None:
        self._pair = fixedpoint.quantize_multiplier(scale / (_EXP_RANGE / _SPAN))
        self._exp = table(-_EXP_RANGE, 0.0, np.exp)
        self._inverse = table(0.0, 1.0, lambda x: np.float32(1) / (np.float32(1) + x))

    def __call__(self, difference: Integers) -> Integers:
        """Return the probabilities of differences <= 0, along the last dimension."""
        multiplier, shift = (np.int64(number) for number in self._pair)
        scaled = fixedpoint.multiply(difference, multiplier, shift) + 32767
        exps = lookup(np.clip(scaled, -32768, 32767), self._exp)
        total = exps.sum(-1, keepdims=True)
        bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)  # the sum, Q16.15
        # 1 / (1 + x) of the sum scaled to [1, 2), with 16 bits below the point.
        shifted = ((total << (31 - bits)) + (1 << 13)) >> 14
        inverse = lookup(np.clip(shifted - (2**15 + 2**16), -32768, 32767), self._inverse)
        right = bits - 1
        result = (exps * inverse + (np.int64(1) << (right - 1))) >> right
        return np.clip(result, 0, 32767)
