"""PSNR and SSIM equal scikit-image's; bicubic on Set5 has the number of the literature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from zoo.errors import MismatchError
from zoo.tasks.super_resolution import pairs
from zoo.tasks.super_resolution.enlarging import bicubic
from zoo.tasks.super_resolution.quality import psnr, ssim


@settings(max_examples=25)
@given(
    height=st.integers(11, 40),
    width=st.integers(11, 40),
    border=st.integers(0, 4),
    noise=st.sampled_from([0.0, 0.01, 0.2, 1.0]),
    seed=st.integers(0, 99),
)
def test_metrics_equal_scikit_image(height, width, border, noise, seed):
    generator = np.random.default_rng(seed)
    inner = generator.random((height, width))
    other = np.clip(inner + noise * (generator.random((height, width)) - 0.5), 0, 1)
    frame = [(border, border)] * 2
    x, y = (  # what lies in the border must not matter
        torch.from_numpy(np.pad(image, frame, constant_values=value))[None, None]
        for image, value in ((other, 0.0), (inner, 1.0))
    )
    if noise:
        expected = peak_signal_noise_ratio(inner, other, data_range=1)
        assert psnr(x, y, border=border) == pytest.approx(expected, abs=1e-9)
    else:
        assert psnr(x, y, border=border) == 120  # a bound, so that means stay finite
    # With full=True skimage gives the map; its own mean crops 5 pixels of reflected border.
    _, score = structural_similarity(
        inner,
        other,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        full=True,
    )
    expected = score[5 : height - 5, 5 : width - 5].mean()
    assert ssim(x, y, border=border) == pytest.approx(expected, abs=1e-9)


def test_ssim_of_too_few_pixels_is_refused():
    small = torch.zeros(1, 1, 14, 30)
    with pytest.raises(MismatchError, match=r"11x11 pixels .* not 26x10"):
        ssim(small, small, border=2)


@pytest.mark.data
@pytest.mark.parametrize(("scale", "literature"), [(2, 33.67), (4, 28.42)])
def test_bicubic_on_set5_has_the_number_of_the_literature(scale, literature, shared_data):
    """33.66 to 33.68 dB at x2 and 28.42 at x4 in the papers; our protocol does not round Y."""
    folder = shared_data / "sr-test" / "Set5" / f"{scale}x"
    if not folder.is_dir():
        pytest.skip(f"Set5 at x{scale} is not in {folder}")
    scores = [
        psnr(bicubic(pair.low, scale).clamp(0, 1), pair.high, border=scale)
        for pair in pairs(folder, scale)
    ]
    assert len(scores) == 5
    assert sum(scores) / 5 == pytest.approx(literature, abs=0.03)
    if scale == 2:
        assert sum(scores) / 5 == pytest.approx(33.68, abs=0.02)
