"""A chart of lines and points as a PNG, drawn with Pillow: all that the zoo needs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE, LEFT, RIGHT, TOP, BOTTOM = (1500, 900), 150, 60, 130, 120
INK, FAINT = "#222222", "#dddddd"
COLORS = ("#1f6fb4", "#d1495b", "#2e8b57", "#8a5a9e", "#c77d0a", "#5c6670")


@dataclass(frozen=True)
class Series:
    """Points `(x, y)` under one name, joined by a line unless `line` is off, each with a label."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = field(default=())
    line: bool = True


def chart(
    path: Path,
    series: Sequence[Series],
    *,
    title: str,
    x: str,
    y: str,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw the series into one pair of axes and write `path`."""
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image)
    points = [point for one in series for point in one.points]
    to_x = _axis([p[0] for p in points], LEFT, SIZE[0] - RIGHT, log_x)
    to_y = _axis([p[1] for p in points], SIZE[1] - BOTTOM, TOP, log_y)
    draw.text((LEFT, 24), title, INK, _font(32))
    for value, place in to_x.ticks:
        draw.line([(place, TOP), (place, SIZE[1] - BOTTOM)], FAINT, 2)
        draw.text((place, SIZE[1] - BOTTOM + 12), value, INK, _font(24), anchor="mt")
    for value, place in to_y.ticks:
        draw.line([(LEFT, place), (SIZE[0] - RIGHT, place)], FAINT, 2)
        draw.text((LEFT - 12, place), value, INK, _font(24), anchor="rm")
    draw.text((SIZE[0] / 2, SIZE[1] - 30), x, INK, _font(26), anchor="mm")
    side = Image.new("RGB", (SIZE[1] - TOP - BOTTOM, 40), "white")
    ImageDraw.Draw(side).text((side.width / 2, 20), y, INK, _font(26), anchor="mm")
    image.paste(side.rotate(90, expand=True), (10, TOP))
    place = float(LEFT)
    for number, one in enumerate(series):
        color = COLORS[number % len(COLORS)]
        _draw(draw, one, color, to_x.place, to_y.place)
        draw.text((place, 76), one.name, color, _font(26))
        place += draw.textlength(one.name, _font(26)) + 50
    path.parent.mkdir(exist_ok=True)
    image.quantize(64).save(path, optimize=True)


def _draw(
    draw: ImageDraw.ImageDraw,
    one: Series,
    color: str,
    to_x: Callable[[float], float],
    to_y: Callable[[float], float],
) -> None:
    places = [(to_x(a), to_y(b)) for a, b in one.points]
    if one.line:
        draw.line(places, color, 4)
    for place in places:
        draw.ellipse([place[0] - 7, place[1] - 7, place[0] + 7, place[1] + 7], color)
    for label, place in zip(one.labels, places, strict=False):
        # Above and to the left: clear of a line that rises, and of one below it.
        draw.text((place[0] - 8, place[1] - 8), label, color, _font(22), anchor="rb")


@dataclass(frozen=True)
class _Axis:
    place: Callable[[float], float]
    ticks: list[tuple[str, float]]


def _axis(values: Sequence[float], start: float, end: float, logarithmic: bool) -> _Axis:
    move = math.log10 if logarithmic else float
    low, high = move(min(values)), move(max(values))
    margin = 0.06 * ((high - low) or 1)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return start + (move(value) - low) / (high - low) * (end - start)

    if logarithmic:
        wanted = [
            f * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for f in (1, 2, 5)
        ]
    else:
        step = 10 ** math.floor(math.log10(high - low))
        step = next(step * f for f in (0.1, 0.2, 0.5, 1) if (high - low) / (step * f) <= 10)
        wanted = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return _Axis(place, [(f"{v:g}", place(v)) for v in wanted if low <= move(v) <= high])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
