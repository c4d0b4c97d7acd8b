"""A picture that a network made: what `zoo.run` returns for tasks from a picture to a picture."""

import io
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data import images
from zoo.errors import MismatchError

T = TypeVar("T")


def finite(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a network made, before it is rounded: NaN would become any pixel.

    Raises:
        MismatchError: a value is NaN or infinite.

    """
    if not np.isfinite(pixels).all():
        raise MismatchError(
            "the network makes NaN of this picture: an adapter is far too strong (strengths are "
            "from 0 to 1), or the weights are damaged"
        )
    return pixels


def finished(work: Generator[object, None, T]) -> T:
    """Do a work that is done in steps at once; return what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


@dataclass(frozen=True)
class MadePicture:
    """A picture, the recipe that made it, and how long that took.

    Attributes:
        picture: what was made, with the alpha and profile of the input.
        recipe: name of the recipe.
        seconds: time without reading and writing files.

    """

    picture: images.Picture
    recipe: str
    seconds: float

    @property
    def image(self) -> Image.Image:
        """The picture as an 8-bit Pillow image."""
        return images.to_pillow(self.picture)

    @property
    def text(self) -> str:
        """What `zoo run` prints."""
        height, width = self.picture.pixels.shape[:2]
        return f"{width}x{height}, {self.seconds:.3f} s"

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        data = io.BytesIO()
        self.image.save(data, "PNG")
        return data.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the picture in the format of the suffix; PNG keeps 16 bits."""
        images.write(self.picture, Path(path))
        return Path(path)

    def to_json(self) -> dict[str, Any]:
        """Return the facts without the pixels."""
        height, width, channels = self.picture.pixels.shape
        return {
            "recipe": self.recipe,
            "width": width,
            "height": height,
            "channels": channels + (self.picture.alpha is not None),
            "bits": 8 * self.picture.pixels.itemsize,
            "seconds": round(self.seconds, 4),
        }
