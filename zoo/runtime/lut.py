"""int16 functions of TFLite's kernels that interpolate in tables: sigmoid, tanh, softmax.

The softmax has two tables of 513 points. TFLite Micro fills them in float32, LiteRT in float64;
here it is float32, as on devices. LiteRT's results differ by one step in one case in a thousand.
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


def _sigmoids() -> Integers:
    """Return sigmoid(i / 24), i = 0 ... 255, with 16 bits below the point; the last one is 1.

    They are those of `reference_integer_ops::Logistic` and `Tanh`: here, too, each is moved by half
    the error that interpolation makes midway to the next one.
    """
    exact = 2**16 / (1 + np.exp(-np.arange(0, 256, 0.5) / 24))
    points, midway = exact[:-1:2], exact[1:-1:2]
    error = midway - (points[:-1] + points[1:]) / 2
    return np.append(np.rint(points[:-1] + error / 2), 2**16 - 1).astype(np.int64)


_SIGMOID = _sigmoids()


def _argument(x: Integers, scale: float) -> Integers:
    """Return the table's argument, 3 x 2^12 steps for 1, of numbers of a scale, rounded."""
    factor, shift = scale * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    return (x * int(factor) + (1 << shift >> 1)) >> shift


def _sigmoid(argument: Integers, bits: int) -> Integers:
    """Return the table's value, interpolated, with 16 + `bits` bits, of arguments >= 0."""
    place, rest = np.minimum(argument >> bits, 254), argument & ((1 << bits) - 1)
    base = _SIGMOID[place]
    return (base << bits) + rest * (_SIGMOID[place + 1] - base)


def sigmoid(x: Integers, scale: float = 2.0**-12) -> Integers:
    """Return the sigmoid, of scale 2^-15, of int16 numbers of a scale."""
    whole = _argument(x, scale)
    value = np.where(abs(whole) >> 9 >= 255, 0x7FFF << 10, _sigmoid(abs(whole), 9))
    return np.where(whole >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1) >> 10


def tanh(x: Integers, scale: float = 2.0**-12) -> Integers:
    """Return the tanh, of scale 2^-15, of int16 numbers of a scale."""
    whole = _argument(x, scale)
    value = np.where(abs(whole) >> 8 >= 255, 0xFFFF << 8, _sigmoid(abs(whole), 8)) - (1 << 23)
    return np.where(whole >= 0, value + (1 << 7), -value + (1 << 7) - 1) >> 8
