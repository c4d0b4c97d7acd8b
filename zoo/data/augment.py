"""Pictures altered at random for training: crops and RandAugment.

Everything is a function of numbers in [0, 1) that the caller draws, so that a sample depends only
on the seed, the step and its row.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageEnhance, ImageOps

CROP_NUMBERS = 4
OPERATIONS = 2  # of RandAugment, for each picture
RANDAUGMENT_NUMBERS = 2 * OPERATIONS
MOST = 10  # the greatest magnitude of RandAugment
_RATIOS = (3 / 4, 4 / 3)
_GREY = 128


def crop(
    picture: Image.Image, size: tuple[int, int], least: float, numbers: Sequence[float]
) -> Image.Image:
    """Return a random part of a picture, resized bicubically (Inception's crop, arXiv 1409.4842).

    Args:
        picture: of any size.
        size: (width, height) of the result.
        least: the smallest share of the picture's area; the greatest is 1.
        numbers: `CROP_NUMBERS` of them: area, shape, column, row.

    """
    width, height = picture.size
    area = width * height * (least + (1 - least) * numbers[0])
    low, high = map(math.log, _RATIOS)
    ratio = math.exp(low + (high - low) * numbers[1])
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    tall = min(height, max(1, round(math.sqrt(area / ratio))))
    left = math.floor(numbers[2] * (width - wide + 1))
    above = math.floor(numbers[3] * (height - tall + 1))
    box = (left, above, left + wide, above + tall)
    return picture.resize(size, Image.Resampling.BICUBIC, box=box)


def randaugment(picture: Image.Image, magnitude: float, numbers: Sequence[float]) -> Image.Image:
    """Return a picture after random operations of one strength (RandAugment, arXiv 1909.13719).

    Args:
        picture: RGB or grey.
        magnitude: from 0 to `MOST`.
        numbers: `RANDAUGMENT_NUMBERS`: for each operation which one, and its sign.

    """
    strength = magnitude / MOST
    for number in range(OPERATIONS):
        which, sign = numbers[2 * number : 2 * number + 2]
        operation = _OPERATIONS[math.floor(which * len(_OPERATIONS))]
        picture = operation(picture, strength if sign < 0.5 else -strength)
    return picture


def _moved(picture: Image.Image, terms: tuple[float, ...]) -> Image.Image:
    fill = (_GREY,) * len(picture.getbands()) if picture.mode == "RGB" else _GREY
    return picture.transform(
        picture.size, Image.Transform.AFFINE, terms, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _rotated(picture: Image.Image, strength: float) -> Image.Image:
    fill = (_GREY,) * len(picture.getbands()) if picture.mode == "RGB" else _GREY
    return picture.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=fill)


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "Operation":
    return lambda picture, strength: kind(picture).enhance(1 + 0.9 * strength)


Operation = Callable[[Image.Image, float], Image.Image]  # strength from -1 to 1
_OPERATIONS: tuple[Operation, ...] = (
    lambda picture, strength: picture,
    lambda picture, strength: ImageOps.autocontrast(picture),
    lambda picture, strength: ImageOps.equalize(picture),
    _rotated,
    lambda picture, strength: ImageOps.solarize(picture, round(256 * (1 - abs(strength)))),
    lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Sharpness),
    lambda picture, strength: _moved(picture, (1, 0.3 * strength, 0, 0, 1, 0)),
    lambda picture, strength: _moved(picture, (1, 0, 0, 0.3 * strength, 1, 0)),
    lambda picture, strength: _moved(picture, (1, 0, 0.3 * strength * picture.width, 0, 1, 0)),
    lambda picture, strength: _moved(picture, (1, 0, 0, 0, 1, 0.3 * strength * picture.height)),
)
