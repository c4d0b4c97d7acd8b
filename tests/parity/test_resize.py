"""Resizing: equal to the definition written out, and to the published low-resolution images."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo.data.resize import cubic, resize


def keys(x):
    """Keys' cubic convolution kernel of 1981 with a = -1/2, as he writes it."""
    x = abs(x)
    if x < 1:
        return 3 / 2 * x**3 - 5 / 2 * x**2 + 1
    return -1 / 2 * x**3 + 5 / 2 * x**2 - 4 * x + 2 if x < 2 else 0


def resize_row(row, scale):
    """Enlarge or shrink a list of 8-bit values: weights of every source pixel, without mirroring.

    Matlab's imresize: pixel centres at 1, 2, ...; the kernel stretched by 1 / scale when shrinking;
    pixels beyond the ends repeat the last one; weights sum to one; halves round up.
    """
    output = []
    stretch = min(scale, 1)
    for out in range(1, math.ceil(len(row) * scale) + 1):
        centre = out / scale + 0.5 * (1 - 1 / scale)
        reach = math.ceil(2 / stretch) + 1
        total = weights = 0
        for source in range(math.floor(centre) - reach, math.floor(centre) + reach + 2):
            weight = stretch * keys(stretch * (centre - source))
            total += weight * int(row[min(max(source, 1), len(row)) - 1])
            weights += weight
        output.append(min(max(math.floor(total / weights + 0.5), 0), 255))
    return output


def resize_slowly(image, scale):
    columns = np.array([resize_row(column, scale) for column in image.T], np.uint8).T
    return np.array([resize_row(row, scale) for row in columns], np.uint8)


@settings(max_examples=40)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    scale=st.sampled_from([1 / 2, 1 / 3, 1 / 4, 2, 3, 4, 0.7, 1.5]),
    seed=st.integers(0, 99),
    extreme=st.booleans(),
)
def test_resizing_equals_its_definition(height, width, scale, seed, extreme):
    image = np.random.default_rng(seed).integers(0, 256, (height, width)).astype(np.uint8)
    if extreme:  # overshoots, and so clips
        image = np.where(image > 127, 255, 0).astype(np.uint8)
    found, expected = resize(image, scale), resize_slowly(image, scale)
    assert found.shape == expected.shape
    difference = found.astype(int) - expected
    # A sum that is a half but for its last bit may round either way.
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) <= (0 if scale in (1 / 2, 1 / 4, 2, 4) else 2)


def test_the_kernel_is_keys_own():
    x = np.linspace(-3, 3, 121)
    np.testing.assert_allclose(cubic(x), [keys(value) for value in x], atol=1e-12)


def test_colours_are_resized_one_by_one_and_constants_stay():
    image = np.random.default_rng(1).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    planes = [resize(image[..., channel], 1 / 2) for channel in range(3)]
    np.testing.assert_array_equal(resize(image, 1 / 2), np.stack(planes, 2))
    assert resize(image, 1 / 2).shape == (5, 4, 3)
    flat = np.full((7, 5), 201, np.uint8)
    for scale in (1 / 4, 1 / 3, 2, 3):
        assert np.unique(resize(flat, scale)).tolist() == [201]


@pytest.mark.data
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_published_images_of_set5_come_out_to_the_bit(scale, shared_data):
    folder = shared_data / "sr-test" / "Set5" / f"{scale}x"
    originals = sorted(folder.glob("*_HR.png"))
    if not originals:
        pytest.skip(f"Set5 at x{scale} is not in {folder}")
    assert len(originals) == 5
    for path in originals:
        with Image.open(path) as high, Image.open(str(path).replace("_HR", "_LR")) as low:
            found = resize(np.asarray(high.convert("RGB")), 1 / scale)
            np.testing.assert_array_equal(found, np.asarray(low.convert("RGB")))
