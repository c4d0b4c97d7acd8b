"""The fast rescaling against arbitrary-precision arithmetic, on every kind of edge."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import MismatchError
from zoo.runtime import fixedpoint
from zoo.runtime.rescale import Rescale

factors = st.floats(1e-7, 0.999) | st.integers(1, 20).map(lambda n: 2.0**-n) | st.just(0.0)


def oracle(x: int, multiplier: int, shift: int) -> int:
    """Multiply with TFLite's two roundings, by fractions alone."""
    product = Fraction(x * 2 ** max(shift, 0) * multiplier, 2**31)
    first = math.floor(product + Fraction(1, 2))
    second = Fraction(first, 2 ** max(-shift, 0))
    return int(math.copysign(math.floor(abs(second) + Fraction(1, 2)), second))


@given(st.integers(-(2**30), 2**30), factors)
def test_fixed_point_multiplication_is_the_definition(x: int, factor: float) -> None:
    multiplier, shift = fixedpoint.quantize_multiplier(factor)
    assert multiplier == 0 or 2**30 <= multiplier < 2**31
    given_ = fixedpoint.multiply(np.array([x]), np.int64(multiplier), np.int64(shift))
    assert given_[0] == oracle(x, multiplier, shift)


@given(
    st.lists(factors, min_size=1, max_size=4),
    st.sampled_from([(-128, 127), (0, 255), (-255, 0), (0, 117)]),
    st.integers(0, 2**32 - 1),
)
def test_rescale_is_exact_at_every_step(
    reals: list[float], limits: tuple[int, int], seed: int
) -> None:
    bound = 2**23
    rescale = Rescale(np.array(reals), bound, *limits)
    # Around each step of each channel, where a rounding error would show, and at random.
    steps = np.arange(limits[0], limits[1] + 2)[:, None] - 0.5
    with np.errstate(divide="ignore"):
        edges = steps / np.array(reals)
    near = np.where(np.abs(edges) < bound - 4, edges, 0).astype(np.int64)
    random = np.random.default_rng(seed).integers(-bound, bound, (64, len(reals)))
    x = np.concatenate([random, *(near + offset for offset in range(-3, 4))])
    result = rescale(torch.from_numpy(x).to(torch.float64)).numpy()
    np.testing.assert_array_equal(result, rescale.exact(x))


def test_the_fast_path_is_the_usual_one_and_the_check_has_teeth() -> None:
    rescale = Rescale(np.array([0.0007, 0.0123, 2.0**-9]), 2**22, -128, 127)
    assert rescale.exact_in_float
    steps = np.zeros(1), np.array([2.0**22])
    assert rescale._check(*steps)
    right, rescale._nudge = rescale._nudge, rescale._nudge * 0  # one rounding instead of two
    assert not rescale._check(*steps)
    rescale._nudge = right
    rescale._factor = rescale._factor * (1 + 1e-6)
    assert not rescale._check(*steps)


@given(
    st.lists(st.floats(2.0**-13, 2.0**-6), min_size=1, max_size=40),
    st.sampled_from([(-100, 155, -28), (0, 255, -128), (0, 110, 17)]),
    st.integers(0, 2**32 - 1),
)
def test_every_sum_of_a_layer_is_rescaled_exactly(
    reals: list[float], limits: tuple[int, int, int], seed: int
) -> None:
    """All that can occur, with a bias that is added on the way, in the types that layers use."""
    low, high, zero = limits
    random = np.random.default_rng(seed)
    added = random.integers(-2000, 2000, len(reals)).astype(np.float64)
    bound = 2**13
    rescale = Rescale(
        np.array(reals),
        bound,
        low,
        high,
        centre=added,
        added=added,
        zero_point=zero,
        dtype=torch.int8,
    )
    assert rescale.exact_in_float
    sums = np.arange(-bound, bound + 1)[:, None] + np.zeros(len(reals), np.int64)
    wanted = rescale.exact(sums + added.astype(np.int64)) + zero
    for dtype in (torch.int32, torch.float32):
        given_ = rescale(torch.from_numpy(sums).to(dtype))
        assert given_.dtype is torch.int8
        np.testing.assert_array_equal(given_.numpy(), wanted)


@pytest.mark.parametrize("factor", [math.nan, math.inf, -0.5])
def test_impossible_scales_are_refused(factor: float) -> None:
    with pytest.raises(MismatchError, match="scale"):
        Rescale(factor, 100, -128, 127)


def test_sums_beyond_32_bits_are_refused() -> None:
    with pytest.raises(MismatchError, match="32 bits"):
        Rescale(2.0**20, 2**15, -128, 127)
