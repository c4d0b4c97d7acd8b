"""A heat map layer x bit, drawn with Pillow: a panel for each class of registers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zoo.files import replacing
from zoo.resilience.statistics import Reals

_INK, _NONE = "#222222", "#eeeeee"
_WIDTH, _LEFT, _TOP, _GAP = 1500, 330, 110, 44
_LOW, _ROWS = 20, 760  # least height of a row, height that the rows of a panel share
_COLORS = ((255, 252, 240), (253, 190, 110), (215, 70, 60), (80, 10, 60))


@dataclass(frozen=True, eq=False)
class Panel:
    """The rates of one class of registers.

    Attributes:
        name: of the class.
        rows: names of the layers.
        shares: of their live sites, which rows are as high as.
        values: in %, (rows, bits); NaN where nothing was tried.

    """

    name: str
    rows: Sequence[str]
    shares: Sequence[float]
    values: Reals


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def heat_map(path: Path, panels: Sequence[Panel], title: str) -> None:
    """Draw panels below each other, and the scale of their colours, into a .png file."""
    heights = [_heights(panel) for panel in panels]
    total = _TOP + sum(sum(rows) + 90 for rows in heights) + 70
    image = Image.new("RGB", (_WIDTH, total), "white")
    draw = ImageDraw.Draw(image)
    draw.text((40, 26), title, _INK, _font(30))
    draw.text((40, 70), "a row is as high as its share of the live bits", _INK, _font(20))
    most = max((float(v) for p in panels for v in p.values.ravel() if v == v), default=1.0)
    most = min(100.0, most) or 1.0
    top = _TOP
    for panel, rows in zip(panels, heights, strict=True):
        top = _panel(draw, panel, rows, top, most)
    _scale(draw, total - 60, most)
    with replacing(path) as temporary:
        image.quantize(128).save(temporary, optimize=True)


def _heights(panel: Panel) -> list[int]:
    whole = sum(panel.shares) or 1.0
    room = min(_ROWS, 34 * len(panel.rows))
    return [max(_LOW, round(room * share / whole)) for share in panel.shares]


def _panel(
    draw: ImageDraw.ImageDraw, panel: Panel, heights: Sequence[int], top: int, most: float
) -> int:
    bits = panel.values.shape[1]
    width = min(110, (_WIDTH - _LEFT - 60) // bits)
    draw.text((40, top), panel.name, _INK, _font(26))
    for bit in range(bits):
        place = _LEFT + bit * width + width / 2
        draw.text((place, top + _GAP - 4), str(bit), _INK, _font(18), anchor="mb")
    y, written = top + _GAP, -99.0
    for row, (name, height) in enumerate(zip(panel.rows, heights, strict=True)):
        for bit in range(bits):
            box = [_LEFT + bit * width, y, _LEFT + (bit + 1) * width - 2, y + height - 2]
            draw.rectangle(box, _color(float(panel.values[row, bit]), most))
        middle = y + height / 2
        if middle - written >= 20:
            draw.text((_LEFT - 14, middle), name[-28:], _INK, _font(18), anchor="rm")
            written = middle
        y += height
    return y + 90 - _GAP


def _color(value: float, most: float) -> tuple[int, int, int] | str:
    if math.isnan(value):
        return _NONE
    place = math.sqrt(min(1.0, max(0.0, value / most))) * (len(_COLORS) - 1)
    first = min(int(place), len(_COLORS) - 2)
    part = place - first
    low, high = _COLORS[first], _COLORS[first + 1]
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _scale(draw: ImageDraw.ImageDraw, top: int, most: float) -> None:
    """Draw the colours from 0 to the largest rate; they go with its square root."""
    for step in range(400):
        value = most * (step / 399) ** 2
        draw.line([(_LEFT + step, top), (_LEFT + step, top + 24)], _color(value, most), 1)
    for part in (0.0, 0.25, 1.0):
        place = _LEFT + 399 * math.sqrt(part)
        draw.text((place, top + 28), percent(most * part), _INK, _font(18), anchor="mt")


def percent(value: float) -> str:
    """Return a rate in % for people, in two digits or whole: "100 %", "12 %", "0.3 %"."""
    return f"{value:.0f} %" if value >= 10 else f"{value:.2g} %"
