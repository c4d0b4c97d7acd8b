"""Purifiers: JPEG, wavelets, enlarging, and pipelines with and without gradients."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import zoo
from zoo import extensions
from zoo.data import images as pictures
from zoo.errors import MismatchError, UnknownNameError
from zoo.resilience.pipelines import Pipeline, pipeline, stage
from zoo.resilience.purifiers.contract import POINT, Stage
from zoo.resilience.purifiers.wavelet import Wavelet, _shrunk
from zoo.tasks.super_resolution.enlarging import run

TEXTS = {"jpeg": "jpeg:75", "wavelet": "wavelet:0.02", "nearest": "nearest:2", "bicubic": "bicubic"}


def photo(height: int = 24, width: int = 32, channels: int = 3) -> Tensor:
    """Smooth colours with some noise, on the grid of 8 bits."""
    dice = torch.Generator().manual_seed(0)
    small = torch.rand(2, channels, 4, 4, generator=dice)
    smooth = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear")
    noise = 0.03 * torch.randn(smooth.shape, generator=dice)
    return ((smooth + noise).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("name", extensions.names(POINT))
@pytest.mark.parametrize("channels", [1, 3])
def test_every_purifier_keeps_pictures_pictures(name: str, channels: int) -> None:
    made = stage(TEXTS[name])
    x = photo(channels=channels)
    y = made(x)
    assert made.text == TEXTS[name]
    assert y.shape == (2, channels, 24 * made.scale, 32 * made.scale)
    plain = x.repeat_interleave(made.scale, 2).repeat_interleave(made.scale, 3)
    assert (y - plain).abs().mean() < 0.05
    torch.testing.assert_close(made(x[1:])[0], y[1])  # pictures do not see each other


def test_jpeg_is_what_pillow_stores() -> None:
    x = photo()
    for text, options in (("jpeg:40", {}), ("jpeg:40:444", {"subsampling": 0})):
        file = io.BytesIO()
        pixels = (x[0] * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=40, **options)  # type: ignore[arg-type]
        expected = np.asarray(Image.open(file))
        made = (stage(text)(x)[0] * 255).round().permute(1, 2, 0).numpy()
        assert np.array_equal(made, expected)
    rough, fine = (float((stage(f"jpeg:{q}")(x) - x).abs().mean()) for q in (10, 95))
    assert rough > 2 * fine


def test_wavelets_by_hand() -> None:
    """One level of four pixels: mean 2.5 x 2, details -1, -2 and 0, each moved by the threshold."""
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.float64)
    sigma = 0.6
    # Details d: across -1, down -2, both 0; thresholds s^2 / sqrt(d^2 - s^2).
    across = -(1 - 0.36 / (1 - 0.36) ** 0.5)
    down = -(2 - 0.36 / (4 - 0.36) ** 0.5)
    expected = torch.tensor(
        [
            [5 + across + down, 5 - across + down],
            [5 + across - down, 5 - across - down],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(_shrunk(x, sigma, 1)[0, 0], expected / 2)


def test_wavelets_leave_pictures_alone_without_noise_and_flatten_them_with_much() -> None:
    x = photo(25, 31)
    torch.testing.assert_close(Wavelet(0)(x), x)
    assert Wavelet(1)(x).std() < x.std()
    flat = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(Wavelet(0.1)(flat), flat)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (9, 12), (64, 80)])
@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_wavelets_are_those_of_scikit_image(height: int, width: int, sigma: float) -> None:
    restoration: Any = pytest.importorskip(
        "skimage.restoration", reason="scikit-image is not installed"
    )
    x = photo(height, width)
    shared = {"method": "BayesShrink", "mode": "soft", "sigma": sigma}
    for one, ours in zip(x, Wavelet(sigma)(x), strict=True):
        theirs = restoration.denoise_wavelet(
            one.permute(1, 2, 0).double().numpy(), convert2ycbcr=True, channel_axis=-1, **shared
        )
        assert np.abs(theirs - ours.permute(1, 2, 0).numpy()).max() < 1e-6
        grey = restoration.denoise_wavelet(one[0].double().numpy(), **shared)
        assert np.abs(grey - Wavelet(sigma)(one[None, :1])[0, 0].numpy()).max() < 1e-6


def test_a_network_enlarges_as_zoo_run_does() -> None:
    x = photo()
    recipe, network = zoo.find("sesr-m3-x2"), zoo.load("sesr-m3-x2.bsds")
    made = stage("sesr-m3-x2.bsds")(x)
    for one, ours in zip(x, made, strict=True):
        pixels = (one * 255).round().byte().permute(1, 2, 0).numpy()
        theirs = run(network, recipe, pixels).picture
        assert isinstance(theirs, pictures.Picture)
        ours = (ours * 255).round().permute(1, 2, 0).detach().numpy()
        assert np.abs(theirs.pixels.astype(int) - ours).max() <= 1
    assert (stage("sesr-m3-x2.bsds")(x[:, :1]) - stage("bicubic")(x[:, :1])).abs().max() < 0.3


def test_gradients_pass_truly_or_as_if_a_stage_were_not_there() -> None:
    x = photo().requires_grad_()
    line = pipeline("jpeg:75,wavelet:0.02,sesr-m3-x2.bsds")
    assert line.scale == 2
    assert line.text == "jpeg:75,wavelet:0.02,sesr-m3-x2.bsds"
    members = [member for member in line.stages if isinstance(member, Stage)]
    through = Pipeline(members, backward=True)
    with torch.no_grad():
        torch.testing.assert_close(through(x), line(x))
    (slope,) = torch.autograd.grad(through(x).sum(), x)
    inner = members[1](members[0](x.detach())).requires_grad_()
    (expected,) = torch.autograd.grad(members[2](inner).sum(), inner)
    torch.testing.assert_close(slope, expected)


def test_none_is_no_stage() -> None:
    x = photo()
    assert torch.equal(pipeline("none")(x), x)
    assert pipeline("none").text == "none"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jpeg:0", "1 to 100"),
        ("jpeg:101", "1 to 100"),
        ("jpeg:7.5", "whole number"),
        ("jpeg:high", "1 to 100"),
        ("jpeg", "jpeg:QUALITY"),
        ("jpeg:75:420:1", "jpeg:QUALITY"),
        ("jpeg:75:411", "444"),
        ("wavelet:-1", "0 to 1"),
        ("wavelet:nan", "0 to 1"),
        ("wavelet:5", "0 to 1"),
        ("nearest:8", "2, 3 or 4"),
        ("bicubic:1.5", "2, 3 or 4"),
        ("jpeg:75,,bicubic", "empty stage"),
        ("", "empty stage"),
        ("mlperf-tiny-ic", "does not enlarge"),
    ],
)
def test_stages_that_cannot_be_used_are_refused(text: str, says: str) -> None:
    with pytest.raises(MismatchError, match=says):
        pipeline(text)


@pytest.mark.parametrize(("text", "meant"), [("jpg:75", "jpeg"), ("sesr-m33-x2", "sesr-m3-x2")])
def test_unknown_stages_name_the_nearest(text: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=meant):
        pipeline(text)


def test_wavelets_need_some_pixels() -> None:
    with pytest.raises(MismatchError, match="8 or more"):
        Wavelet(0.02)(torch.rand(1, 3, 7, 40))
