"""Pairs that do not fit, pictures of every kind, and tiles without seams."""

import dataclasses
import io
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.adapters import registry
from zoo.data import filters
from zoo.errors import MismatchError
from zoo.graph.trace import trace
from zoo.registry.checkpoint import build
from zoo.tasks import picture

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/looks.toml").read_text())["looks"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build(zoo.find("looks").in_tiny_form())


@pytest.fixture
def pairs(tmp_path):
    """A folder of three pairs, 96 x 80 pixels, each darkened."""
    dice = np.random.default_rng(0)
    for part in ("before", "after"):
        (tmp_path / part).mkdir()
    for number in range(3):
        pixels = dice.integers(0, 256, (80, 96, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"before/{number}.png")
        Image.fromarray(pixels // 2).save(tmp_path / f"after/{number}.bmp")
    return tmp_path


def small(**options):
    recipe = zoo.find("looks").in_tiny_form()
    train = dataclasses.replace(recipe.train, options={**recipe.train.options, **options})
    return dataclasses.replace(recipe, make=train)


def test_the_network_is_as_large_as_counted_by_hand():
    model = build(zoo.find("looks"))
    weights = [value.numel() for value in model.parameters() if value.dim() > 1]
    assert sum(weights) == GOLDEN["weights"]
    assert sum(value.numel() for value in model.parameters()) == GOLDEN["trained"]
    assert trace(model, (1, 6, 32, 48)).macs == GOLDEN["macs_a_pixel"] * 32 * 48


def test_pairs_are_read_and_learned_from(pairs):
    data = picture.training_data(small(), str(pairs))
    assert data.facts["pictures"] == 2
    inputs, targets = picture.batch(data, small(), 3, range(4), 4)
    assert inputs.shape == (4, 6, 24, 24)
    assert torch.equal((inputs[:, :3] * 255).round().int() // 2, (targets * 255).round().int())


def test_a_split_step_sees_the_same_patches(pairs):
    data = picture.training_data(small(), str(pairs))
    whole = picture.batch(data, small(), 5, range(4), 4)[0]
    parts = [picture.batch(data, small(), 5, range(a, a + 2), 4)[0] for a in (0, 2)]
    assert torch.equal(whole, torch.cat(parts))


def test_pairs_of_unequal_size_or_without_a_partner_are_refused(pairs):
    Image.new("RGB", (90, 80)).save(pairs / "after/1.bmp")
    with pytest.raises(MismatchError, match=r"pair '1' .* 96x80 and 90x80 pixels; expected the"):
        picture.training_data(small(), str(pairs))
    (pairs / "after/1.bmp").unlink()
    with pytest.raises(MismatchError, match="has '1', which has no partner"):
        picture.training_data(small(), str(pairs))


def test_two_pictures_of_one_name_are_refused(pairs):
    Image.new("RGB", (96, 80)).save(pairs / "before/1.jpg")
    with pytest.raises(MismatchError, match=r"before has 1.jpg and 1.png; expected one picture of"):
        picture.training_data(small(), str(pairs))


def test_a_partner_of_a_kind_that_is_not_read_is_named(pairs):
    (pairs / "after/1.bmp").rename(pairs / "after/1.gif")
    with pytest.raises(MismatchError, match=r"'1', which has no partner \(1.gif is none of .png"):
        picture.training_data(small(), str(pairs))


def test_mixtures_are_made_of_photographs_alone(pairs):
    with pytest.raises(MismatchError, match="holds pairs; a base and its adapters learn from a"):
        picture.mixed_data(small(), str(pairs))
    with pytest.raises(MismatchError, match=r"train.options.filter is 'night'; a base and its"):
        picture.mixed_data(small(filter="night"), str(pairs / "before"))
    assert picture.mixed_data(small(), str(pairs / "before")).facts["pictures"] == 2


@pytest.mark.parametrize("adapter", ["looks-oil", "sesr-m5-x2-text"])
def test_a_picture_of_nan_is_refused(adapter):
    photo = Image.new("RGB", (16, 16), "tomato")
    base = registry.find(adapter).base
    with pytest.raises(MismatchError, match=r"makes NaN .* \(strengths are from 0 to 1"):
        zoo.run(base, photo, adapter={adapter: 1e15})


def test_an_odd_side_is_refused_and_not_cut_off():
    model = zoo.load("looks")
    with pytest.raises(ValueError, match=r"15 rows and 16 columns; expected even numbers: zoo.run"):
        model(torch.rand(1, 6, 15, 16))


def test_pairs_and_a_filter_exclude_each_other(pairs):
    with pytest.raises(MismatchError, match=r"holds pairs, and train.options.filter is 'night'"):
        picture.training_data(small(filter="night"), str(pairs))


def test_pictures_too_small_are_refused_with_the_size_that_is_needed(pairs):
    with pytest.raises(MismatchError, match="has 0 pictures of at least 144x144 pixels"):
        picture.training_data(small(patch_size=96), str(pairs))
    with pytest.raises(MismatchError, match="patch_size is 7; expected an even number"):
        picture.training_data(small(patch_size=7), str(pairs))


def test_pictures_that_are_left_out_for_their_size_are_counted(pairs, caplog):
    for part in ("before", "after"):
        Image.new("RGB", (71, 5000)).save(pairs / part / "narrow.png")
    assert picture.training_data(small(), str(pairs)).facts["pictures"] == 2
    assert "1 of 4 pictures of" in caplog.text
    assert "are smaller than 72x72 pixels and left out" in caplog.text


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (49, 63), (64, 100)])
def test_tiles_give_what_one_pass_gives(model, size):
    torch.manual_seed(0)
    photo = torch.rand(1, 3, *size)
    whole = picture.restyle(model, photo, tile=4096)
    assert whole.shape == photo.shape
    torch.testing.assert_close(picture.restyle(model, photo, tile=18), whole, atol=1e-5, rtol=0)


def test_texture_lies_where_the_whole_picture_has_it():
    photo = torch.rand(1, 3, 60, 60)
    whole = picture.with_texture(photo)
    part = picture.with_texture(photo[..., 31:50, 17:40], 31, 17)
    torch.testing.assert_close(part, whole[..., 31:50, 17:40], atol=1e-5, rtol=0)
    planes = torch.from_numpy(filters.textures(60, 60))
    torch.testing.assert_close(whole[0, 3:], 0.5 + 0.5 * planes)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pictures_of_every_mode_come_back_in_colour_and_size(model, mode):
    recipe = zoo.find("looks").in_tiny_form()
    given = Image.new(mode, (31, 22))
    made = picture.run(model, recipe, given)
    assert made.image.size == (31, 22)
    assert made.image.mode == ("RGBA" if mode in ("LA", "RGBA") else "RGB")


def test_a_notebook_shows_the_picture():
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    result = zoo.run("looks", Image.fromarray(pixels))
    with Image.open(io.BytesIO(result._repr_png_())) as shown:
        assert np.array_equal(np.asarray(shown), np.asarray(result.image))
