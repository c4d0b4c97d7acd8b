"""Training data from a Hub data set, and from folders that hold too little."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from zoo import registry
from zoo.data.prepared import prepare
from zoo.errors import HubError, MismatchError
from zoo.tasks.super_resolution import batch

RECIPE = registry.find("sesr-m5-x2").override({"train.options.patch_size": 16})


def pictures(count: int = 21, size: tuple[int, int] = (48, 40)) -> list[bytes]:
    """Return pictures of noise as PNG files."""
    random = np.random.default_rng(0)
    files = []
    for _ in range(count):
        stream = io.BytesIO()
        array = random.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(array).save(stream, "PNG")
        files.append(stream.getvalue())
    return files


@pytest.fixture
def on_the_hub(monkeypatch):
    """Return a function that puts rows where `datasets.load_dataset("some/photos")` finds them."""

    def put(rows: dict[str, list], image: bool = True) -> None:
        table = datasets.Dataset.from_dict(rows)
        if image:
            table = table.cast_column("image", datasets.Image())
        asked = []
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or table)
        put.asked = asked

    return put


def test_a_hub_data_set_is_read_split_and_kept(on_the_hub):
    files = pictures()
    on_the_hub({"image": [{"bytes": data, "path": None} for data in files]})
    data = prepare(RECIPE, "some/photos")
    assert on_the_hub.asked[0] == (("some/photos",), {"split": "train"})
    # Numbers 0 and 20 are held out. Of the copies of the others, 48x40 pixels shrunk to 79 %
    # hold a patch of 32x32, and those shrunk to 63 % and 50 % do not.
    assert (len(data.train), len(data.held_out)) == (2 * 19, 2)
    assert [high.shape for high, _ in data.train[:2]] == [(40, 48), (32, 38)]
    assert data.facts["source"] == "some/photos"
    high, low = data.held_out[0]
    assert (high.shape, low.shape) == ((40, 48), (20, 24))
    rgb = np.asarray(Image.open(io.BytesIO(files[0])), np.float64)
    luma = (16 + rgb @ [65.481, 128.553, 24.966] / 255) / 255
    np.testing.assert_allclose(high / 65535, luma, atol=1e-5)


def test_without_copies_only_the_pictures_are_trained_on(on_the_hub):
    on_the_hub({"image": [{"bytes": data, "path": None} for data in pictures()]})
    plain = RECIPE.override({"train.options.shrunk_copies": 0})
    assert len(prepare(plain, "some/photos").train) == 19
    with pytest.raises(MismatchError, match="shrunk_copies is 9; expected 0 to 8"):
        prepare(RECIPE.override({"train.options.shrunk_copies": 9}), "some/photos")


def test_an_image_is_drawn_as_often_as_it_has_pixels(tmp_path):
    for number, size in enumerate([(40, 40), (40, 40), (80, 120)]):  # the first is held out
        Image.fromarray(np.full((*size, 3), 80 * number, np.uint8)).save(tmp_path / f"{number}.png")
    recipe = RECIPE.override({"train.options.shrunk_copies": 0})
    data = prepare(recipe, str(tmp_path))
    np.testing.assert_allclose(data.shares, [1 / 7, 1])
    _, high = batch(data, recipe, 0, range(4000), 4000)
    large = (high[:, 0, 0, 0] > 0.5).double().mean()
    assert large == pytest.approx(6 / 7, abs=0.02)  # 3.6 standard deviations


def test_a_hub_data_set_without_images_is_refused(on_the_hub):
    on_the_hub({"text": ["a", "b"]}, image=False)
    with pytest.raises(MismatchError, match=r"columns \['text'\]; expected 'image'"):
        prepare(RECIPE, "some/photos")


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(HubError, match=r"data set 'some/photos' cannot be loaded: offline"):
        prepare(RECIPE, "some/photos")


def test_the_cache_is_used_and_follows_the_content(tmp_path):
    for number, data in enumerate(pictures(3)):
        (tmp_path / f"{number}.png").write_bytes(data)
    first = prepare(RECIPE, str(tmp_path))
    again = prepare(RECIPE, str(tmp_path))
    assert first.fingerprint == again.fingerprint
    for (a, b), (c, d) in zip(first.train, again.train, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
    (tmp_path / "2.png").write_bytes(pictures(4)[3])
    assert prepare(RECIPE, str(tmp_path)).fingerprint != first.fingerprint


def test_a_picture_that_cannot_be_used_is_named(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (96, 96)).save(tmp_path / name)
    Image.new("F", (96, 96)).save(tmp_path / "depth.tif")
    with pytest.raises(MismatchError, match=r"depth\.tif: pictures of mode 'F'"):
        prepare(registry.find("sesr-m3-x2"), str(tmp_path))
