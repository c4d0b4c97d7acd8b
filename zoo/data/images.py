"""Reading and writing pictures: 8 and 16 bits, alpha, orientation, profile, and refusals."""

import io
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import MismatchError
from zoo.files import probe, replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def _max_pixels() -> int:
    text = os.environ.get("ZOO_MAX_PIXELS", "100000000")
    if not text.isdecimal():
        raise MismatchError(f"ZOO_MAX_PIXELS is {text!r}; expected a whole number")
    return int(text)


MAX_PIXELS = _max_pixels()
if Image.MAX_IMAGE_PIXELS and MAX_PIXELS > 2 * Image.MAX_IMAGE_PIXELS:
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # otherwise Pillow refuses what the user has allowed
_HEIC = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")  # brands of ISO 23008-12
_LUMA = np.array([65.481, 128.553, 24.966]) / 255  # BT.601 studio range, for RGB in [0, 1]


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: `(H, W, C)`, uint8 or uint16; C is 1 (grey) or 3 (RGB).
        alpha: `(H, W)` of the same type, or None.
        profile: the ICC colour profile's bytes, or None.

    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    profile: bytes | None = None

    @property
    def white(self) -> int:
        """Largest value a pixel can hold: 255 or 65535."""
        return int(np.iinfo(self.pixels.dtype).max)


def luma(rgb: NDArray[Any], white: float) -> NDArray[np.float32]:
    """Return Y of BT.601 in studio range, divided by 255: `(H, W)`, from 16/255 to 235/255.

    `rgb` is `(H, W, 3)` or, for grey pictures, `(H, W, 1)`, in [0, white].
    """
    if rgb.shape[-1] == 1:
        rgb = np.broadcast_to(rgb, (*rgb.shape[:-1], 3))
    return ((16 / 255) + rgb @ (_LUMA / white)).astype(np.float32)


def read(source: Path | str | bytes | Image.Image | NDArray[Any], name: str = "") -> Picture:
    """Read a picture from a file, a Pillow image or an array `(H, W[, 1|3|4])` of 8 or 16 bits.

    The EXIF orientation is applied; palettes and CMYK become RGB; an animation gives its first
    frame.

    Args:
        source: a path, the bytes of a file, a Pillow image, or a uint8 or uint16 array.
        name: what messages call it, instead of its path.

    Raises:
        MismatchError: the source is none of these; or the file is missing, not a picture,
            truncated, or has more than `MAX_PIXELS` pixels (a few kilobytes can claim gigabytes:
            the size is checked before anything is decoded).

    ```python
    from pathlib import Path

    from zoo.data import images

    picture = images.read(Path("docs/samples/photos/dogs.jpg"))
    print(picture.pixels.shape, picture.white)  # (H, W, 3), 255
    ```
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pillow(source)
    if not isinstance(source, str | bytes | Path):
        raise MismatchError(
            f"the picture is a {type(source).__name__}; expected a path, the bytes of a file, a "
            "Pillow image, or an array of 8 or 16 bits (a tensor: tensor.numpy())"
        )
    file = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    label = name or ("the picture" if isinstance(source, bytes) else source or Path())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit applies
            with Image.open(file) as image:
                _check_size(image.size, label)
                picture = _from_pillow(image, label)  # decodes, and so finds truncation
                return _deep_png(file, image, picture) or picture
    except MismatchError:
        raise
    except FileNotFoundError:
        raise MismatchError(f"no such file: {label}") from None
    except IsADirectoryError:
        raise MismatchError(f"{label} is a folder; expected a picture file") from None
    except UnidentifiedImageError:
        raise MismatchError(f"{label} {_instead(file)}") from None
    except Image.DecompressionBombError:
        raise MismatchError(
            f"{label} claims too many pixels; the limit is {MAX_PIXELS} "
            "(set ZOO_MAX_PIXELS to raise it)"
        ) from None
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise MismatchError(f"{label} cannot be read as a picture: {error}") from error


def _instead(file: io.BytesIO | Path) -> str:
    """Return what a file that nobody here decodes is, and what was expected."""
    start = file.getvalue()[:32] if isinstance(file, io.BytesIO) else file.read_bytes()[:32]
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC:
        return (
            "is a HEIC picture, which is not read here; save it as JPEG, or take JPEGs: on an "
            "iPhone by Settings, Camera, Formats, Most Compatible"
        )
    if not start:
        return "is empty; save the picture once more"
    return f"is not a picture; expected one of {', '.join(SUFFIXES)}"


def _check_size(size: tuple[int, int], label: Path | str) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise MismatchError(
            f"{label} claims {size[0]}x{size[1]} pixels; the limit is {MAX_PIXELS} "
            "(set ZOO_MAX_PIXELS to raise it)"
        )


def _from_array(array: NDArray[Any]) -> Picture:
    shape = array.shape
    fits = array.dtype in (np.uint8, np.uint16) and (
        array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))
    )
    if not fits or 0 in shape:
        raise MismatchError(
            f"array is {array.dtype} {shape}; expected uint8 or uint16 (H, W), (H, W, 1), "
            "(H, W, 3) or (H, W, 4)"
        )
    _check_size((shape[1], shape[0]), "the array")
    if array.ndim == 2:
        return Picture(array[..., None])
    return Picture(array[..., :3], array[..., 3]) if shape[2] == 4 else Picture(array)


def _from_pillow(image: Image.Image, label: str | Path = "the picture") -> Picture:
    _check_size(image.size, label)
    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        grey16 = np.asarray(image).astype(np.uint16)
        hole = image.info.get("transparency")  # the one grey that is transparent
        alpha = None if hole is None else np.where(grey16 == hole, 0, 65535).astype(np.uint16)
        return Picture(grey16[..., None], alpha, profile)
    if image.mode in ("I", "F"):
        raise MismatchError(
            f"{label}: pictures of mode {image.mode!r} are not supported; expected 8/16 bit"
        )
    # Not by the bands: LAB has one called A, which is a colour.
    clear = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA")
    if image.mode == "CMYK":
        profile = None  # it describes inks, not the RGB returned here
    pixels = np.asarray(image.convert(("L" if grey else "RGB") + ("A" if clear else "")))
    pixels = np.atleast_3d(pixels)
    if clear:
        return Picture(pixels[..., :-1], pixels[..., -1], profile)
    return Picture(pixels, None, profile)


def _deep_png(file: Path | io.BytesIO, image: Image.Image, picture: Picture) -> Picture | None:
    """Return the full depth of a 16-bit colour PNG, which Pillow reduces to 8 bits, else None."""
    if image.format != "PNG" or picture.pixels.dtype == np.uint16:
        return None
    data = file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()
    depth, kind = data[24:26]
    if depth != 16:
        return None
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16 or array.ndim != 3:
        raise ValueError("OpenCV cannot decode this 16-bit PNG")
    array = _upright(array, image.getexif().get(0x0112, 1))
    colour = array[..., 2::-1]
    if kind == 4:
        colour = colour[..., :1]  # grey with alpha arrives as four channels
    return Picture(colour, array[..., 3] if array.shape[2] == 4 else None, picture.profile)


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return array


def write(picture: Picture, path: Path) -> None:
    """Write a picture in the format of the suffix of `path`, atomically.

    PNG keeps 16 bits; other formats get 8. JPEG has no alpha: a picture with one is refused.

    Raises:
        MismatchError: the suffix is unknown, JPEG cannot hold the alpha, or the file cannot be
            written.

    """
    check_output(path)
    suffix = path.suffix.lower()
    if picture.alpha is not None and suffix in (".jpg", ".jpeg", ".bmp"):
        raise MismatchError(
            f"cannot write {path.name}: the picture has transparency, which {suffix} cannot hold; "
            f"write {path.stem}.png or {path.stem}.webp"
        )
    with replacing(path) as temporary:
        try:
            if picture.white > 255 and suffix == ".png":
                temporary.write_bytes(_encode_deep(picture))
            else:
                to_pillow(picture).save(temporary, **_options(suffix, picture.profile))
        except (OSError, ValueError, cv2.error) as error:
            raise MismatchError(f"cannot write {path}: {error}") from error


def check_output(path: Path) -> None:
    """Refuse a path to which no picture can be written, before any work is done for it."""
    if path.suffix.lower() not in SUFFIXES:
        raise MismatchError(
            f"cannot write {path}: unknown picture format {path.suffix or '(no suffix)'}; "
            f"expected one of {', '.join(SUFFIXES)}"
        )
    if path.is_dir():
        raise MismatchError(f"cannot write {path}: it is a folder; expected a file name")
    probe(path.parent)


def _options(suffix: str, profile: bytes | None) -> dict[str, Any]:
    quality = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"quality": 95}}
    options: dict[str, Any] = dict(quality.get(".jpg" if suffix == ".jpeg" else suffix, {}))
    return options | ({"icc_profile": profile} if profile else {})


def to_pillow(picture: Picture) -> Image.Image:
    """Return the picture as an 8-bit Pillow image (L, LA, RGB or RGBA)."""
    array = picture.pixels
    if picture.alpha is not None:
        array = np.dstack([array, picture.alpha])
    if picture.white > 255:
        array = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def _encode_deep(picture: Picture) -> bytes:
    """Return a PNG of 16 bits."""
    colour = picture.pixels
    if picture.alpha is not None:
        colour = np.concatenate(
            [np.broadcast_to(colour, (*colour.shape[:2], 3)), picture.alpha[..., None]], axis=2
        )
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[colour.shape[2]]
    done, encoded = cv2.imencode(".png", np.ascontiguousarray(colour[..., order]))
    if not done:
        raise OSError("OpenCV could not encode it")
    png = encoded.tobytes()
    if picture.profile is None:
        return png
    body = b"iCCPICC profile\0\0" + zlib.compress(picture.profile)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return png[:33] + chunk + png[33:]  # after the signature and the header


def find(folder: Path) -> list[Path]:
    """Return the picture files directly in `folder`, in name order; hidden files are left out.

    Hidden is also what macOS leaves beside each picture in archives: "._1.jpg".

    Raises:
        MismatchError: there is no such folder, or no picture in it.

    """
    if not folder.is_dir():
        raise MismatchError(f"no such folder: {folder}")
    pictures = sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in SUFFIXES and not f.name.startswith(".") and f.is_file()
    )
    if not pictures:
        raise MismatchError(f"no pictures in {folder}; expected {', '.join(SUFFIXES)} files")
    return pictures
