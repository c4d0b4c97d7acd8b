"""Enlarging: tiles leave no seam, and the short way through colour equals the long one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zoo.data.images import read
from zoo.data.resize import resize
from zoo.models.sesr import SESR
from zoo.registry import find
from zoo.tasks.super_resolution import enlarging as module
from zoo.tasks.super_resolution.enlarging import bicubic, default_output, enlarge, run, tiles

# BT.601 in studio range, for R, G and B in [0, 1]; written out, not imported.
YCC = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
OFFSET = np.array([16.0, 128.0, 128.0])


def network(scale, blocks=2, channels=8, seed=0):
    """A network whose every weight matters, borders included, and whose output is not clipped."""
    torch.manual_seed(seed)
    model = SESR(channels, blocks, scale)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        model.last.weight *= 0.3
    return model.eval()


MODELS = {2: network(2), 4: network(4)}
RECIPES = {2: find("sesr-m5-x2"), 4: find("sesr-m5-x4")}


def noise(height, width, channels, dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


# --- tiles ----------------------------------------------------------------------------------------


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_tiles_cover_every_pixel_once(height, width, size):
    count = np.zeros((height, width), int)
    for top, bottom, left, right in tiles(height, width, size):
        assert 0 < bottom - top <= size
        assert 0 < right - left <= size
        count[top:bottom, left:right] += 1
    assert (count == 1).all()


@settings(max_examples=60)
@given(
    scale=st.sampled_from([2, 4]),
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    tile=st.integers(1, 32),
)
@example(scale=2, height=1, width=1, tile=1)
@example(scale=4, height=1, width=29, tile=7)
@example(scale=2, height=5, width=5, tile=2)  # smaller than the halo of 6
@example(scale=2, height=24, width=24, tile=8)
def test_tiles_equal_the_whole_image(scale, height, width, tile):
    model = MODELS[scale]
    y = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(height))
    whole, tiled = enlarge(model, y, tile=10**6), enlarge(model, y, tile=tile)
    assert whole.shape == (1, 1, height * scale, width * scale)
    with torch.inference_mode():
        torch.testing.assert_close(whole, model(y), atol=0, rtol=0)
    torch.testing.assert_close(tiled, whole, atol=1e-6, rtol=0)


def test_the_seam_test_would_see_a_halo_one_pixel_short(monkeypatch):
    y = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    whole = enlarge(MODELS[2], y)
    monkeypatch.setattr(SESR, "halo", property(lambda self: 3 + len(self.body)))
    assert (enlarge(MODELS[2], y, tile=8) - whole).abs().max() > 1e-6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (3, 7), (33, 21), (16, 16), (17, 32)])
def test_a_tiled_picture_equals_the_whole_one(scale, size, dtype, monkeypatch):
    picture = noise(*size, 4, dtype)
    whole = run(MODELS[scale], RECIPES[scale], picture).picture
    monkeypatch.setattr(module, "tiles", lambda height, width: tiles(height, width, 8))
    tiled = run(MODELS[scale], RECIPES[scale], picture).picture
    assert whole.pixels.shape == (size[0] * scale, size[1] * scale, 3)
    limit = 0 if dtype == np.uint8 else 1
    for ours, theirs in ((tiled.pixels, whole.pixels), (tiled.alpha, whole.alpha)):
        assert ours.dtype == theirs.dtype == dtype
        assert np.abs(ours.astype(int) - theirs).max() <= limit


def test_the_network_never_sees_more_than_a_tile_and_its_halo():
    model, largest = network(2, blocks=1, channels=2), []
    model.register_forward_pre_hook(lambda _, inputs: largest.append(inputs[0].shape))
    run(model, RECIPES[2], noise(3 * module.TILE, 40, 3))
    enlarge(model, torch.rand(1, 1, 40, 2 * module.TILE + 1))
    assert len(largest) == 6
    assert max(max(shape) for shape in largest) == module.TILE + 2 * model.halo


# --- colour ---------------------------------------------------------------------------------------


def the_long_way(model, rgb, white, scale):
    """Luma by the network, Cb and Cr by bicubic, and back: in [0, 1], clipped."""
    ycc = (rgb / white) @ YCC.T + OFFSET
    planes = torch.from_numpy(ycc.transpose(2, 0, 1)[None])
    with torch.inference_mode():
        luma = model((planes[:, :1] / 255).float()).double() * 255
    large = torch.cat([luma, bicubic(planes[:, 1:], scale)], 1)[0].permute(1, 2, 0).numpy()
    return np.clip((large - OFFSET) @ np.linalg.inv(YCC).T, 0, 1)


@pytest.mark.parametrize("scale", [2, 4])
def test_colour_is_luma_by_the_network_and_chroma_by_bicubic(scale):
    picture = noise(11, 13, 3, np.uint16)
    expected = the_long_way(MODELS[scale], picture, 65535, scale) * 65535
    found = run(MODELS[scale], RECIPES[scale], picture).picture.pixels
    assert np.abs(found - expected).max() < 1
    assert np.mean((found > 0) & (found < 65535)) > 0.05  # not all of it clipped
    eight = noise(11, 13, 3)
    expected = the_long_way(MODELS[scale], eight, 255, scale) * 255
    found = run(MODELS[scale], RECIPES[scale], eight).picture.pixels
    assert np.abs(found - expected).max() < 0.501


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
def test_grey_equals_three_equal_colours(dtype):
    grey = noise(9, 10, 1, dtype)
    one = run(MODELS[2], RECIPES[2], grey).picture.pixels
    three = run(MODELS[2], RECIPES[2], np.repeat(grey, 3, 2)).picture.pixels
    assert one.shape == (18, 20, 1)
    assert np.abs(three.astype(int) - one).max() <= (0 if dtype == np.uint8 else 1)


def test_alpha_and_profile_are_kept_and_alpha_is_bicubic():
    picture = read(noise(9, 8, 4))
    result = run(MODELS[2], RECIPES[2], np.dstack([picture.pixels, picture.alpha]))
    plane = torch.from_numpy(picture.alpha / 255)[None, None]
    expected = np.rint(bicubic(plane, 2).clamp(0, 1)[0, 0].numpy() * 255)
    assert np.abs(result.picture.alpha - expected).max() <= 1
    opaque = run(MODELS[2], RECIPES[2], picture.pixels)
    assert opaque.picture.alpha is None
    np.testing.assert_array_equal(opaque.picture.pixels, result.picture.pixels)


def test_sixteen_bits_in_give_more_than_eight_bits_out():
    ramp = np.linspace(20_000, 21_000, 30 * 30).astype(np.uint16).reshape(30, 30, 1)
    found = run(MODELS[2], RECIPES[2], ramp).picture.pixels
    assert found.dtype == np.uint16
    assert len(np.unique(found)) > 300


def test_the_result_says_what_it_is(tmp_path):
    result = run(MODELS[2], RECIPES[2], noise(6, 5, 4, np.uint16), tmp_path / "a.png")
    facts = json.loads(json.dumps(result.to_json()))
    assert facts["seconds"] >= 0
    del facts["seconds"]
    assert facts == {
        "recipe": "sesr-m5-x2",
        "width": 10,
        "height": 12,
        "channels": 4,
        "bits": 16,
    }
    assert result.image.mode == "RGBA"
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels, result.picture.pixels)
    assert default_output(RECIPES[2], tmp_path / "photo.jpg").name == "photo-sesr-m5-x2.png"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_give_the_same_picture_roughly(dtype):
    picture = noise(9, 9, 3)
    exact = run(network(2), RECIPES[2], picture).picture.pixels.astype(int)
    half = run(network(2).to(dtype), RECIPES[2], picture).picture.pixels
    assert np.abs(exact - half).mean() < 3


# --- bicubic --------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.sampled_from([2, 3, 4]), st.integers(1, 12), st.integers(1, 12))
def test_bicubic_equals_torch_inside_repeated_edges(scale, height, width):
    """`antialias=True` makes torch use a = -0.5; at its own borders it drops taps, so pad first."""
    planes = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(width))
    padded = F.pad(planes, [4] * 4, mode="replicate")
    large = F.interpolate(padded, scale_factor=scale, mode="bicubic", antialias=True)
    expected = large[..., 4 * scale : -4 * scale, 4 * scale : -4 * scale]
    torch.testing.assert_close(bicubic(planes, scale), expected, atol=2e-6, rtol=0)


def test_bicubic_equals_resize_but_for_the_rounding_between_its_passes():
    image = noise(7, 9, 1)[..., 0] // 2 + 64  # nothing is clipped between the passes
    large = bicubic(torch.from_numpy(image / 255)[None, None], 2).clamp(0, 1)[0, 0].numpy() * 255
    assert np.abs(large - resize(image, 2)).max() < 1.2


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_8k_output_takes_less_than_1500_megabytes():
    pytest.importorskip("resource")  # not on Windows
    code = """
import resource, sys, numpy as np
from zoo.registry.checkpoint import build
from zoo.registry import find
from zoo.tasks.super_resolution.enlarging import run
recipe = find("sesr-m5-x2")
picture = np.random.default_rng(0).integers(0, 256, (2160, 3840, 3), np.uint8)
assert run(build(recipe), recipe, picture).picture.pixels.shape == (4320, 7680, 3)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak // (1024**2 if sys.platform == "darwin" else 1024))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert int(done.stdout) < 1500
