"""What a detector found in a picture: labels, scores and boxes, and the picture with them drawn."""

import colorsys
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from zoo.data import images


@dataclass(frozen=True)
class Item:
    """An object.

    Attributes:
        label: what it is.
        score: how likely.
        box: left, top, width, height in pixels of the upright picture.

    """

    label: str
    score: float
    box: tuple[float, float, float, float]

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        box = [round(value, 2) for value in self.box]
        return {"label": self.label, "score": round(self.score, 6), "box": box}


@dataclass(frozen=True)
class Found:
    """The objects of one picture, the likeliest first.

    Attributes:
        items: the objects.
        labels: all labels that the network knows, which have a colour each.
        pixels: the picture, `(H, W, 3)`, upright.
        recipe: name of the recipe.
        seconds: time of the network, and of choosing boxes.

    """

    items: tuple[Item, ...]
    labels: tuple[str, ...]
    pixels: NDArray[np.uint8]
    recipe: str
    seconds: float

    @property
    def text(self) -> str:
        """What `zoo run` prints: how many there are of each label, and the time."""
        counts = Counter(item.label for item in self.items)
        named = ", ".join(f"{counts[label]} {label}" for label in self.labels if counts[label])
        return f"{named or 'nothing found'}, {self.seconds:.3f} s"

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        height, width = self.pixels.shape[:2]
        return {
            "recipe": self.recipe,
            "width": width,
            "height": height,
            "items": [item.to_json() for item in self.items],
            "seconds": round(self.seconds, 4),
        }

    @property
    def image(self) -> Image.Image:
        """The picture with boxes, their labels and scores."""
        scale = min(self.pixels.shape[:2]) / 480
        line, size = max(1, round(2 * scale)), max(9, round(13 * scale))
        image = Image.fromarray(self.pixels).convert("RGB")
        draw, font = ImageDraw.Draw(image), ImageFont.load_default(size)
        for item in reversed(self.items):  # the likeliest are drawn last, on top
            colour = self._colour(item.label)
            left, top, width, height = item.box
            right, bottom = max(left, left + width - 1), max(top, top + height - 1)
            draw.rectangle((left, top, right, bottom), None, colour, line)
        for item in reversed(self.items):
            self._write(draw, font, item, size)
        return image

    def _write(self, draw: ImageDraw.ImageDraw, font: Any, item: Item, size: int) -> None:
        """Write a label above its box, or inside it at the upper edge of the picture."""
        text, pad = f"{item.label} {item.score:.2f}", max(1, size // 6)
        x, y = item.box[0], item.box[1]
        _, upper, right, lower = draw.textbbox((0, 0), text, font)
        width, height = right + 2 * pad, lower - upper + 2 * pad
        x = max(0, min(x, self.pixels.shape[1] - width))
        y = y - height if y >= height else y
        colour = self._colour(item.label)
        dark = sum(c * w for c, w in zip(colour, (0.3, 0.59, 0.11), strict=True)) < 140
        draw.rectangle((x, y, x + width, y + height), colour)
        draw.text((x + pad, y + pad - upper), text, "white" if dark else "black", font)

    def _colour(self, label: str) -> tuple[int, int, int]:
        """Return a label's colour: hues a golden angle apart, and so told apart."""
        hue = (0.58 + self.labels.index(label) * 0.381966) % 1
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 0.9)
        return round(255 * red), round(255 * green), round(255 * blue)

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""

        data = io.BytesIO()
        self.image.save(data, "PNG")
        return data.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the picture with the boxes in the format of the suffix."""
        images.write(images.Picture(np.asarray(self.image)), Path(path))
        return Path(path)
