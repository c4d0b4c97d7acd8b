"""A picture that the page draws itself, for its tab Enlarge: what is hard to enlarge."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def draw_example(path: Path) -> None:
    """Draw a picture that is hard to enlarge: an engraved rosette, a star and small text."""
    grow, width, height = 4, 384, 256
    image = Image.new("RGB", (width * grow, height * grow), "#f4efe4")
    draw = ImageDraw.Draw(image)
    _rosette(draw, (122 * grow, 128 * grow), 110 * grow)
    _star(draw, (305 * grow, 66 * grow), 50 * grow)
    lines = ((23, "edge zoo"), (12, "small networks,"), (12, "sharp pictures"),
             (9, "the quick brown fox jumps"), (8, "over the lazy dog 0123456789"))  # fmt: skip
    y = 126
    for size, text in lines:
        draw.text((252 * grow, y * grow), text, "#1d2b3a", ImageFont.load_default(size * grow))
        y += size + 8
    image.resize((width, height), Image.Resampling.BICUBIC).save(path)


def _rosette(draw: ImageDraw.ImageDraw, centre: tuple[int, int], radius: int) -> None:
    turn = np.linspace(0, 2 * np.pi, 1441)
    for shift in np.linspace(0, 2 * np.pi, 6, endpoint=False):
        for waves, low, colour in ((12, 0.6, "#0b6e6e"), (8, 0.2, "#a33b20")):
            reach = radius * (low + 0.2 * (1 + np.cos(waves * turn + shift)))
            points = np.stack([np.cos(turn), np.sin(turn)], axis=1) * reach[:, None] + centre
            draw.line([tuple(point) for point in points], colour, 6, joint="curve")


def _star(draw: ImageDraw.ImageDraw, centre: tuple[int, int], radius: int) -> None:
    box = [centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius]
    for ray in range(24):
        draw.pieslice(box, ray * 15, ray * 15 + 7.5, "#1d2b3a")
