"""The fixed-point arithmetic of TFLite's integer kernels (gemmlowp), on int64 arrays.

A real factor r in (0, 1) or above becomes an int32 multiplier M in [2^30, 2^31) and a shift s with
r = M * 2^(s - 31); x * r is then computed with two roundings: to the nearest integer (halves up)
after the multiplication, to the nearest integer (halves away from zero) after the shift. All
functions take and return int64, arrays and tensors alike, with values that fit int32.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
INT32_MAX = 2**31 - 1


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Return (multiplier, shift) of a factor, as TFLite's `QuantizeMultiplier`."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    if shift < -31:  # too small for the shift to express: everything rounds to zero
        return 0, 0
    return multiplier, shift


def high_multiply(a: Any, b: Any) -> Any:
    """Return round(a * b / 2^31), halves up (`SaturatingRoundingDoublingHighMul`).

    The one product that saturates, -2^31 squared, does not occur: multipliers are positive.
    """
    return (a * b + (1 << 30)) >> 31


def shift_right(x: Any, exponent: Any) -> Any:
    """Return round(x / 2^exponent), halves away from zero (`RoundingDivideByPOT`)."""
    some = (exponent > 0) * 1  # arrays and numbers alike
    half = some << (exponent - some)
    return (x + half + (x >> 63) * some) >> exponent


def multiply(x: Any, multiplier: Any, shift: Any) -> Any:
    """Return x times the factor (`MultiplyByQuantizedMultiplier` with double rounding)."""
    left = shift * (shift > 0)
    return shift_right(high_multiply(x << left, multiplier), left - shift)


# exp(-1/4), exp(-1/2), ..., exp(-16) with 31 fractional bits, from gemmlowp's fixedpoint.h
_EXP = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_EIGHTH, _THIRD = 1895147668, 715827883
_FRACTION = 26  # bits of the exponent's input, Q5.26


def exp_of_negative(x: Integers, integer_bits: int = 5) -> Integers:
    """Return exp(x / 2^f) * 2^31 for x <= 0, with f = 31 - integer_bits fractional bits.

    `exp_on_negative_values`; with 5 integer bits the input is Q5.26.
    """
    fraction = 31 - integer_bits
    quarter = 1 << (fraction - 2)
    inner = (x & (quarter - 1)) - quarter  # in [-1/4, 0)
    y = (inner << integer_bits) + (1 << 28)  # Q0.31, around -1/8
    square = high_multiply(y, y)
    cube, fourth = high_multiply(square, y), high_multiply(square, square)
    tail = high_multiply(shift_right(fourth, 2) + cube, _THIRD) + square
    result = _EXP_EIGHTH + high_multiply(_EXP_EIGHTH, y + shift_right(tail, 1))
    result = np.minimum(result, INT32_MAX)
    remainder = inner - x
    for place, factor in enumerate(_EXP[: 2 + integer_bits]):
        chosen = remainder & (1 << (fraction - 2 + place)) != 0
        result = np.where(chosen, high_multiply(result, factor), result)
    return np.where(x == 0, INT32_MAX, result)


def mean_multiplier(ratio: float, count: int) -> tuple[int, int]:
    """Return the multiplier and shift of a sum of `count`: of input's over output's scale / count.

    As the reference kernel's: the division is in the multiplier, with as many bits as it has room.
    """
    multiplier, shift = quantize_multiplier(ratio)
    bits = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << bits) // count, shift - bits


def softmax_input(scale: float, beta: float) -> tuple[int, int, int]:
    """Return multiplier and shift of a difference to a row's maximum, and what is too far."""
    multiplier, shift = quantize_multiplier(min(beta * scale * 2.0 ** (31 - 5), 2.0**31 - 1.0))
    radius = math.floor(31 * 2.0 ** (31 - 5) / 2.0**shift)  # `CalculateInputRadius`
    return multiplier, shift, radius


def softmax_table(scale: float, beta: float) -> tuple[Integers, Integers]:
    """Return exp of each difference 0, -1, ..., -255 to the row's maximum, for int8 softmax.

    Returns:
        The values with 31 fractional bits, and the same with 19, which are added up. Differences
        too large for the arithmetic count as exp = 0, as in the reference kernel.

    """
    multiplier, shift, radius = softmax_input(scale, beta)
    difference = -np.arange(256, dtype=np.int64)
    near = difference >= -radius
    scaled = multiply(np.where(near, difference, 0), multiplier, np.int64(shift))
    values = np.where(near, exp_of_negative(scaled), 0)
    return values, shift_right(values, 12)


def _over_one_plus(x: Integers) -> Integers:
    """Return 2^29 * 2 / (1 + x / 2^31) for x in [0, 2^31): Newton, 3 steps, Q2.29."""
    half = (x + INT32_MAX + 1) >> 1
    y = 1515870810 + high_multiply(half, -1010580540)  # 48/17 - 32/17 * half, Q2.29
    for _ in range(3):
        error = (1 << 29) - high_multiply(half, y)
        y = y + (high_multiply(y, error) << 2)
    return y


def reciprocal(x: Integers, bits: Integers) -> Integers:
    """Return 2^62 / (x * 2^(32 - bits)) for x of `bits` bits (`GetReciprocal`)."""
    return np.clip(_over_one_plus((x << (32 - bits)) - (1 << 31)) << 1, None, INT32_MAX)


_RSQRT_SHIFT = 20  # keeps the intermediate result whole


def rsqrt_table(real: float, most: int, largest: int) -> Integers:
    """Return 1 / sqrt(n) * real for n = 0, ..., most, as TFLite's int8 RSQRT; of 0 `largest`."""
    multiplier, shift = quantize_multiplier(real)
    results = [largest * 2]  # saturates, whatever the zero point
    for n in range(1, most + 1):
        inner, up = _inverse_root(n)
        fine = multiply(np.int64(1), np.int64(inner), np.int64(up + _RSQRT_SHIFT))
        results.append(int(multiply(fine, np.int64(multiplier), np.int64(shift - _RSQRT_SHIFT))))
    return np.array(results, np.int64)


def _inverse_root(n: int) -> tuple[int, int]:
    """Return (multiplier, shift) of 1 / sqrt(n): five steps of Newton from 1, in Q3.28."""
    if n == 1:
        return INT32_MAX, 0
    pairs = (32 - n.bit_length() - 1) // 2 - 1
    shift, x = 11 - pairs, n << (2 * pairs)
    half = shift_right(x >> 1, 1)
    y = 1 << 28
    for _ in range(5):
        cube = _narrowed(high_multiply(high_multiply(y, y), y), 6)
        y = _narrowed(high_multiply((1 << 28) + (1 << 27), y) - high_multiply(half, cube), 3)
    inner = high_multiply(y, 1518500250)  # 1 / sqrt(2)
    if shift < 0:
        inner, shift = inner << -shift, 0
    return inner, -shift


def _narrowed(x: int, bits: int) -> int:
    """Return a number with fewer integer bits (`Rescale`), saturated."""
    return max(-INT32_MAX - 1, min(x << bits, INT32_MAX))


def logistic(x: Integers) -> Integers:
    """Return the sigmoid, Q0.31, of a number in Q4.27 (gemmlowp's `logistic`)."""
    positive = np.clip(_over_one_plus(exp_of_negative(-abs(x), 4)) << 1, None, INT32_MAX)
    return np.where(x > 0, positive, np.where(x < 0, INT32_MAX - positive, 1 << 30))


def tanh(x: Integers) -> Integers:
    """Return the tanh, Q0.31, of a number in Q4.27 (gemmlowp's `tanh`)."""
    size = (_over_one_plus(exp_of_negative(-abs(x), 5)) - (1 << 29)) << 2
    return np.sign(x) * np.clip(size, None, INT32_MAX)


def q4(real: float) -> tuple[int, int, int]:
    """Return (multiplier, shift, radius) that bring steps of a scale to Q4.27.

    Steps of the radius and beyond (`CalculateInputRadius`) are where the curves have ended.
    """
    multiplier, shift = quantize_multiplier(real * 2.0**27)
    return multiplier, shift, math.floor(15 * 2.0**27 / 2.0**shift)


class HardSwish:
    """x * relu6(x + 3) / 6 in 16 bits (`HardSwish` of TFLite's reference kernels).

    Args:
        source: scale of the input.
        output: scale of the output.

    """

    def __init__(self, source: float, output: float) -> None:
        fine = np.float32(1 / 128) * np.float32(source)
        self._output, self._down = _narrow(float(fine / np.float32(output)))
        self._gate, self._up = _narrow(float(fine / np.float32(3 / 32768)))
        self.fits = -31 < self._down <= 0 and -31 < self._up < 16

    def __call__(self, x: Integers) -> Integers:
        """Return the result of int8 or uint8 steps from the zero point, without one itself."""
        fine = x << 7
        made = (fine * self._output + (1 << 14)) >> 15
        gate = fine
        if self._up > 0:
            gate = _saturate(gate << (self._up - 1))
        gate = (gate * self._gate + (1 << 14)) >> 15
        gate = _saturate(gate << 1) if self._up > 0 else shift_right(gate, np.int64(-self._up))
        gate = (gate + (1 << 15)) >> 1
        product = gate * made
        return shift_right(np.where(product < 0, -(-product >> 15), product >> 15), -self._down)


def _saturate(x: Integers) -> Integers:
    return np.clip(x, -(2**15), 2**15 - 1)


def _narrow(real: float) -> tuple[int, int]:
    """Return a factor's multiplier in 16 bits, and its shift."""
    multiplier, shift = quantize_multiplier(real)
    return min((multiplier + (1 << 15)) >> 16, 2**15 - 1), shift
