"""Random alterations of pictures: what numbers mean, and what stays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zoo.data import augment

NUMBER = st.floats(0, 1, exclude_max=True)


def picture(mode: str = "RGB", size: tuple[int, int] = (20, 12)) -> Image.Image:
    across = np.linspace(0, 255, size[0])[None, :].repeat(size[1], 0)
    down = np.linspace(0, 255, size[1])[:, None].repeat(size[0], 1)
    pixels = np.stack([across, down, 255 - across], -1).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@given(
    size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    least=st.floats(0.01, 1),
    numbers=st.lists(NUMBER, min_size=4, max_size=4),
)
def test_a_crop_lies_inside(size: tuple[int, int], least: float, numbers: list[float]) -> None:
    assert augment.crop(picture(size=size), (8, 6), least, numbers).size == (8, 6)


def test_a_crop_of_the_whole_is_the_whole() -> None:
    square = picture(size=(16, 16))
    assert augment.crop(square, (16, 16), 1.0, [0.3, 0.5, 0.2, 0.9]).tobytes() == square.tobytes()


def test_the_area_and_the_place_follow_the_numbers() -> None:
    big = picture(size=(200, 200))
    for share in (0.25, 0.5):
        part = np.asarray(augment.crop(big, (64, 64), share, [0.0, 0.5, 0.0, 0.0]))
        assert part[..., 0].max() == pytest.approx(255 * share**0.5, abs=4)
    right = np.asarray(augment.crop(big, (64, 64), 0.25, [0.0, 0.5, 0.999, 0.0]))
    assert right[..., 0].min() > 120
    assert right[..., 1].min() < 5


@given(magnitude=st.floats(0, 10), numbers=st.lists(NUMBER, min_size=4, max_size=4),
       mode=st.sampled_from(["RGB", "L"]))  # fmt: skip
def test_randaugment_keeps_size_and_mode(magnitude: float, numbers: list[float], mode: str) -> None:
    found = augment.randaugment(picture(mode), magnitude, numbers)
    assert (found.size, found.mode) == ((20, 12), mode)


def test_each_operation_alters_and_none_at_magnitude_0() -> None:
    count = len(augment._OPERATIONS)
    noise = np.random.default_rng(0).integers(40, 200, (40, 48, 3), np.uint8)
    same, before = [], Image.fromarray(noise)
    for which in range(count):
        chosen = [(which + 0.5) / count, 0.1, 0.0, 0.1]  # the second does nothing
        strong, none = (augment.randaugment(before, m, chosen) for m in (10, 0))
        same.append(strong.tobytes() == before.tobytes())
        if which not in (1, 2):  # these stretch and level whatever the magnitude
            assert np.abs(np.asarray(none, int) - np.asarray(before, int)).max() <= 1
    assert same == [True] + [False] * (count - 1)  # the first leaves a picture as it is
