"""The eight filters: fixed, local, in [0, 1], and in step with the texture."""

import numpy as np
import pytest

from zoo.data import filters
from zoo.errors import MismatchError, UnknownNameError

NAMES = tuple(filters.FILTERS)


@pytest.fixture(scope="module")
def photo():
    """A smooth picture with an edge: `(96, 120, 3)` in [0, 1]."""
    y, x = np.mgrid[:96, :120] / 120
    picture = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x * y)], 2)
    picture[30:60, 40:80] = (0.9, 0.3, 0.1)
    return picture.astype(np.float32)


def test_there_are_eight_and_an_unknown_one_is_named():
    first, last = ["oil", "watercolour", "cartoon", "pencil"], ["neon", "halftone", "night", "film"]
    assert list(NAMES) == [*first, *last]
    with pytest.raises(UnknownNameError, match=r"filter 'pencl'.*pencil"):
        filters.named("pencl")


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_is_fixed_and_keeps_size_and_range(photo, name):
    before = photo.copy()
    made = filters.named(name)(photo)
    assert made.shape == photo.shape
    assert made.dtype == np.float32
    assert 0 <= made.min() <= made.max() <= 1
    assert np.array_equal(made, filters.named(name)(photo))
    assert np.array_equal(photo, before)
    assert np.abs(made - photo).mean() > 0.03  # it is a look, not the photograph


@pytest.mark.parametrize("name", NAMES)
def test_a_part_cut_a_period_away_looks_as_in_the_whole(photo, name):
    period, look = filters.PERIOD, filters.named(name)
    whole, part = look(photo), look(np.ascontiguousarray(photo[period:, period:]))
    inner = np.s_[period : period + 24, period : period + 24]
    assert np.abs(part[inner] - whole[period:, period:][inner]).max() < 0.02


@pytest.mark.parametrize("shade", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_flat_and_small_pictures_are_no_trouble(name, shade):
    for size in ((24, 24), (5, 7), (1, 1)):
        assert np.isfinite(filters.named(name)(np.full((*size, 3), shade, np.float32))).all()


def test_texture_repeats_every_period():
    planes = filters.textures(60, 72)
    assert planes.shape == (3, 60, 72)
    assert np.abs(planes).max() <= 1
    assert np.allclose(planes[:, 24:, 24:], planes[:, :-24, :-24], atol=1e-4)


def test_a_mixture_is_one_look_over_the_other(photo):
    night, pencil = filters.named("night"), filters.named("pencil")
    assert np.array_equal(filters.mixed(photo, {}), photo)
    assert np.allclose(filters.mixed(photo, {"night": 1, "pencil": 1}), night(pencil(photo)))
    half = filters.mixed(photo, {"night": 0.5})
    assert np.allclose(half, (photo + night(photo)) / 2, atol=1e-6)
    everything = filters.mixed(photo, dict.fromkeys(NAMES, 1.0))
    assert everything.std() > 0.05
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(MismatchError, match=f"strength of oil is {strength}; expected 0 to 1"):
            filters.mixed(photo, {"oil": strength})
