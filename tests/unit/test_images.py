"""Pictures: what is read is what was stored, and what is refused."""

import io
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from zoo.data.images import find, read
from zoo.errors import MismatchError

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6  # colour types of PNG
# Stored row and column -> upright picture, by the EXIF standard.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def noise(height, width, channels, dtype=np.uint8, seed=0):
    generator = np.random.default_rng(seed)
    return generator.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, kind, *chunks, claim=None):
    """Encode `(H, W, C)` as a PNG of that colour type, straight from the specification."""
    height, width = array.shape[:2]
    depth = 8 * array.itemsize
    big = array.astype(array.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", *(claim or (width, height)), depth, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    parts = [
        chunk(b"IHDR", header),
        *chunks,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize(
    ("kind", "channels", "alpha"),
    [(GREY, 1, False), (RGB, 3, False), (GREY_ALPHA, 1, True), (RGBA, 3, True)],
    ids=["grey", "rgb", "grey-alpha", "rgba"],
)
def test_png_is_read_to_the_bit(dtype, kind, channels, alpha, tmp_path):
    array = noise(4, 5, channels + alpha, dtype)
    path = tmp_path / "a.png"
    path.write_bytes(png(array, kind))
    for picture in (read(path), read(str(path)), read(path.read_bytes())):
        assert picture.pixels.dtype == dtype
        assert picture.white == np.iinfo(dtype).max
        np.testing.assert_array_equal(picture.pixels, array[..., :channels])
        if alpha:
            np.testing.assert_array_equal(picture.alpha, array[..., -1])
        else:
            assert picture.alpha is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize(("kind", "channels"), [(GREY, 1), (RGB, 3)], ids=["grey", "rgb"])
def test_the_one_transparent_colour_of_a_png_becomes_alpha(dtype, kind, channels):
    array = noise(4, 5, channels, dtype)
    hole = chunk(b"tRNS", array[1, 2].astype(">u2").tobytes())
    picture = read(png(array, kind, hole))
    np.testing.assert_array_equal(picture.pixels, array)
    expected = np.full((4, 5), picture.white)
    expected[(array == array[1, 2]).all(-1)] = 0
    np.testing.assert_array_equal(picture.alpha, expected)


def test_a_palette_with_transparency_becomes_rgb_with_alpha():
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture = read(encoded(image, "PNG", transparency=bytes([255, 128, 0])))
    np.testing.assert_array_equal(picture.pixels[0], [[10, 20, 30], [40, 50, 60]])
    np.testing.assert_array_equal(picture.alpha, [[255, 128], [0, 128]])
    assert read(encoded(image, "PNG")).alpha is None


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_jpeg_is_read_as_its_colours(mode, channels):
    flat = Image.new(mode, (20, 10), 77 if mode == "L" else (200, 100, 50))
    picture = read(encoded(flat, "JPEG", quality=100))
    assert picture.pixels.shape == (10, 20, channels)
    assert np.abs(picture.pixels.astype(int) - np.asarray(flat).reshape(10, 20, -1)).max() <= 2


def test_cmyk_jpeg_becomes_rgb_without_the_profile_of_its_inks():
    flat = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    picture = read(encoded(flat, "JPEG", quality=100, icc_profile=b"inks"))
    assert np.abs(picture.pixels.astype(int) - [0, 255, 255]).max() <= 3
    assert picture.profile is None


def test_webp_keeps_colour_and_alpha():
    array = noise(6, 7, 4)
    array[..., 3] |= 1  # WebP may forget the colour of what cannot be seen
    picture = read(encoded(Image.fromarray(array), "WEBP", lossless=True))
    np.testing.assert_array_equal(picture.pixels, array[..., :3])
    np.testing.assert_array_equal(picture.alpha, array[..., 3])


def test_the_a_of_lab_is_a_colour_and_not_alpha():
    colours = Image.fromarray(noise(2, 3, 3)).resize((12, 8), Image.Resampling.NEAREST)
    file = io.BytesIO()
    ImageCms.profileToProfile(
        colours, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    ).save(file, "TIFF")
    picture = read(file.getvalue())
    assert picture.alpha is None
    assert np.abs(picture.pixels.astype(int) - np.asarray(colours)).mean() < 8


def test_one_bit_pictures_are_grey():
    picture = read(encoded(Image.new("1", (3, 2), 1), "PNG"))
    np.testing.assert_array_equal(picture.pixels, np.full((2, 3, 1), 255))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("dtype", "kind", "channels"),
    [
        (np.uint8, RGB, 3),
        (np.uint16, GREY, 1),
        (np.uint16, RGB, 3),
        (np.uint16, RGBA, 4),
    ],
    ids=["8bit", "16bit-grey", "16bit-rgb", "16bit-rgba"],
)
def test_pictures_are_turned_upright(orientation, dtype, kind, channels):
    array = noise(3, 4, channels, dtype)
    tags = chunk(b"eXIf", exif(orientation).tobytes().removeprefix(b"Exif\0\0"))
    picture = read(png(array, kind, tags))
    expected = UPRIGHT[orientation](array)
    np.testing.assert_array_equal(picture.pixels, expected[..., :3])
    if kind == RGBA:
        np.testing.assert_array_equal(picture.alpha, expected[..., 3])


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_jpeg_is_turned_upright(orientation):
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = 255  # the corner of row 0, column 0
    picture = read(encoded(Image.fromarray(stored), "JPEG", exif=exif(orientation), quality=95))
    difference = picture.pixels.astype(int) - UPRIGHT[orientation](stored)
    assert np.abs(difference).max() < 50


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3), (4, 5, 4)])
def test_arrays_are_taken_as_they_are(shape):
    array = noise(4, 5, 4).reshape(-1)[: int(np.prod(shape))].reshape(shape)
    picture = read(array)
    assert picture.pixels.shape == (4, 5, 3 if shape[2:] in ((3,), (4,)) else 1)
    assert (picture.alpha is None) == (shape[2:] != (4,))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 5), np.float32),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros((1, 4, 5, 3), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
        np.zeros(5, np.uint8),
    ],
    ids=["float", "two-channels", "batch", "empty", "line"],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(MismatchError, match="expected uint8 or uint16"):
        read(array)


# --- refusals -------------------------------------------------------------------------------------


def broken():
    rgb, deep = noise(64, 64, 3), noise(64, 64, 3, np.uint16)
    jpeg = encoded(Image.fromarray(rgb), "JPEG")
    eight, sixteen = png(rgb, RGB), png(deep, RGB)
    corrupt = bytearray(eight)
    corrupt[len(eight) // 2] ^= 0xFF
    return {
        "half-jpeg": (jpeg[: len(jpeg) // 2], "cannot be read as a picture"),
        "half-png": (eight[: len(eight) // 2], "cannot be read as a picture"),
        "half-16bit-png": (sixteen[: len(sixteen) // 2], "cannot be read as a picture"),
        "one-byte-wrong": (bytes(corrupt), "cannot be read as a picture"),
        "only-a-signature": (eight[:8], "is not a picture|cannot be read"),
        "only-a-header": (eight[:33], "is not a picture"),
        "text": (b"to be or not to be", r"is not a picture; expected one of \.png, \.jpg"),
        "empty": (b"", "is empty; save the picture once more"),
        "pickle": (b"\x80\x04N.", "is not a picture"),
        "bomb": (
            png(noise(1, 1, 3), RGB, claim=(60_000, 60_000)),
            "claims .*the limit is 100000000 .*ZOO_MAX_PIXELS",
        ),
        "small-bomb": (
            png(noise(1, 1, 3), RGB, claim=(10_001, 10_000)),
            "claims 10001x10000 pixels; the limit is 100000000 .*ZOO_MAX_PIXELS",
        ),
    }


@pytest.mark.parametrize("name", broken())
def test_a_broken_file_is_refused_by_name(name, tmp_path):
    content, message = broken()[name]
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(MismatchError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(MismatchError, match=f"^training image 7 .*({message})"):
        read(content, "training image 7")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_any_damage_is_a_picture_or_a_mismatch(kind):
    """Decoders raise all sorts of errors on damaged files; users see one."""
    good = encoded(Image.fromarray(noise(9, 11, 3)), kind)
    generator = np.random.default_rng(3)
    refused = 0
    for _ in range(150):
        bad = bytearray(good)
        for place in generator.integers(0, len(bad), 3):
            bad[place] = generator.integers(0, 256)
        try:
            read(bytes(bad[: generator.integers(1, len(bad) + 1)]))
        except MismatchError:
            refused += 1
    assert refused


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(MismatchError, match=r"^no such file: .*gone\.png$"):
        read(tmp_path / "gone.png")
    with pytest.raises(MismatchError, match="is a folder; expected a picture file"):
        read(tmp_path)


def test_deeper_modes_are_refused_by_name():
    with pytest.raises(MismatchError, match="mode 'F' are not supported"):
        read(Image.new("F", (2, 2)))


def test_the_pixel_limit_can_be_raised_above_pillows_own_and_must_be_a_number(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(noise(1, 1, 1), GREY, claim=(20_000, 9_500)))  # Pillow stops at 179 M
    code = "import sys; from zoo.data.images import read; read(sys.argv[1])"
    for value, message in (
        ("1000000000000", "MismatchError: .*large.png cannot be read as a picture"),
        ("189999999", "claims 20000x9500 pixels; the limit is 189999999"),
        ("lots", "MismatchError: ZOO_MAX_PIXELS is 'lots'; expected a whole number"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env=os.environ | {"ZOO_MAX_PIXELS": value},
            capture_output=True,
            text=True,
        )
        last = done.stderr.splitlines()[-1]
        assert re.search(message, last), done.stderr


@pytest.mark.parametrize("source", [3, ["a.png"], {}, io.BytesIO(b"x"), torch.zeros(3, 8, 8)])
def test_what_is_no_picture_is_refused_by_its_type(source):
    message = f"the picture is a {type(source).__name__}; expected a path, the bytes"
    with pytest.raises(MismatchError, match=message):
        read(source)


def test_hidden_files_are_not_pictures(tmp_path):
    for name in ("1.jpg", "._1.jpg", ".1-abc.png"):  # ._: what macOS leaves beside each file
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find(tmp_path)] == ["1.jpg"]
