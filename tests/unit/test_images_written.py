"""Pictures that are written keep what they held, or nothing is; and those of a folder."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from zoo.data import images
from zoo.data.images import Picture, read, write
from zoo.errors import MismatchError


def noise(height, width, channels, dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def left_behind(folder):
    return sorted(path.name for path in folder.rglob("*"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
def test_png_returns_what_was_written(dtype, channels, alpha, tmp_path):
    pixels = noise(5, 6, channels, dtype)
    clear = noise(5, 6, 1, dtype, seed=1)[..., 0] if alpha else None
    path = tmp_path / "a.png"
    write(Picture(pixels, clear), path)
    again = read(path)
    assert again.pixels.dtype == dtype
    np.testing.assert_array_equal(again.pixels, np.broadcast_to(pixels, again.pixels.shape))
    assert (again.alpha is None) == (not alpha)
    if alpha:
        np.testing.assert_array_equal(again.alpha, clear)
    assert left_behind(tmp_path) == ["a.png"]


@pytest.mark.parametrize("suffix", images.SUFFIXES)
def test_every_format_is_written_close_to_the_original(suffix, tmp_path):
    ramp = np.linspace(0, 65535, 24 * 32).reshape(24, 32, 1).astype(np.uint16)
    path = tmp_path / f"a{suffix.upper()}"
    write(Picture(np.repeat(ramp, 3, 2)), path)
    again = read(path)
    difference = again.pixels / again.white - ramp / 65535
    assert np.abs(difference).max() < 0.03
    assert left_behind(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".png", np.uint8), (".png", np.uint16), (".jpg", np.uint8), (".webp", np.uint8)],
)
def test_the_colour_profile_is_kept(suffix, dtype, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / f"a{suffix}"
    pixels = noise(8, 8, 3, dtype)
    write(Picture(pixels, None, profile), path)
    assert read(path).profile == profile
    if suffix == ".png":
        np.testing.assert_array_equal(read(path).pixels, pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp"])
def test_alpha_into_a_format_without_is_refused(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(MismatchError, match=r"has transparency.*; write a\.png or a\.webp"):
        write(read(noise(4, 4, 4)), path)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "a.gif", "a.txt", ".png", "png"])
def test_an_unknown_suffix_is_refused(name, tmp_path):
    with pytest.raises(MismatchError, match="unknown picture format"):
        write(read(noise(4, 4, 3)), tmp_path / name)
    assert left_behind(tmp_path) == []


def test_a_path_below_a_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    picture = read(noise(4, 4, 3))
    with pytest.raises(MismatchError, match="cannot write into"):
        write(picture, tmp_path / "file" / "a.png")
    with pytest.raises(MismatchError, match="it is a folder"):
        write(picture, tmp_path / "folder.png")
    assert left_behind(tmp_path) == ["file", "folder.png"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
def test_a_failure_while_writing_keeps_the_old_file_and_leaves_no_other(
    dtype, tmp_path, monkeypatch
):
    path = tmp_path / "a.png"
    path.write_text("old")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(images, "_encode_deep", full)
    with pytest.raises(MismatchError, match=r"cannot write .*a\.png: .*No space left"):
        write(read(noise(4, 4, 3, dtype)), path)
    assert left_behind(tmp_path) == ["a.png"]
    assert path.read_text() == "old"


def test_a_picture_too_large_for_its_format_is_refused(tmp_path):
    wide = np.zeros((1, 17_000, 3), np.uint8)  # WebP ends at 16383
    with pytest.raises(MismatchError, match="cannot write"):
        write(Picture(wide), tmp_path / "a.webp")
    assert left_behind(tmp_path) == []


def test_sixteen_bits_are_rounded_to_eight_not_cut():
    deep = np.array([[0, 128, 129, 257, 65535 - 128, 65535 - 129, 65535]], np.uint16)[..., None]
    found = np.asarray(images.to_pillow(Picture(deep)))
    np.testing.assert_array_equal(found, np.rint(deep[..., 0] / 257))


# --- folders --------------------------------------------------------------------------------------


def test_pictures_of_a_folder_come_in_name_order_and_nothing_else(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "c.webp"):
        (tmp_path / name).touch()
    (tmp_path / "d.png").mkdir()
    assert [path.name for path in images.find(tmp_path)] == ["a.JPG", "b.png", "c.webp"]


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(MismatchError, match=f"no pictures in {tmp_path}"):
        images.find(tmp_path)
    with pytest.raises(MismatchError, match="no such folder"):
        images.find(tmp_path / "gone")
