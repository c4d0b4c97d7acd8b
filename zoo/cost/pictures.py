"""Pictures of costs, drawn with Pillow: where the time goes, and what is worth its time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from zoo.cost.axes import Roofline, Scale, slowest
from zoo.cost.result import Cost, milliseconds
from zoo.cost.target import Target
from zoo.errors import MismatchError

INK, FAINT, MUTED = "#222222", "#dddddd", "#777777"
COLORS = {"compute": "#1f6fb4", "sram": "#2e8b57", "flash": "#d1495b", "dram": "#8a5a9e"}
COLORS |= {"host": "#c77d0a"}
WIDTH, ROW, PAD, CHART = 1500, 34, 40, 640
MOST_BARS = 24
_ALL_NAMED = 12  # of so few dots, each has its name beside it, and not upon another


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def operators(cost: Cost, target: Target, path: Path) -> None:
    """Draw a cost: its operators under the target's roofline, and the slowest of them as bars.

    A method that counts no MACs for single operators gives bars alone.
    """
    slow = slowest(cost, MOST_BARS)
    roofline = Roofline.of(cost, target)
    top = CHART if roofline.ops and cost.moved_bytes else 0
    image = Image.new("RGB", (WIDTH, top + PAD * 3 + ROW * (len(slow) + 1)), "white")
    draw = ImageDraw.Draw(image)
    title = f"{cost.target}, {cost.method}: {milliseconds(cost.latency_ms)} ms"
    draw.text((PAD, 20), title, INK, _font(32))
    _legend(draw, {op.bound for op in cost.ops})
    if top:
        _roofline(draw, roofline)
    _bars(draw, cost, top + 2 * PAD)
    _write(image, path)


def _legend(draw: ImageDraw.ImageDraw, bounds: set[str]) -> None:
    place = float(WIDTH - PAD)
    for name in sorted(bounds, reverse=True):
        place -= draw.textlength(name, _font(24)) + 44
        draw.rectangle([place, 30, place + 20, 50], COLORS.get(name, INK))
        draw.text((place + 28, 26), name, INK, _font(24))


def _axes(draw: ImageDraw.ImageDraw, x: Scale, y: Scale, names: tuple[str, str]) -> None:
    for value in x.ticks():
        place = x.place(value)
        draw.line([(place, y.start), (place, y.end)], FAINT, 2)
        draw.text((place, y.start + 8), f"{value:g}", INK, _font(22), anchor="mt")
    for value in y.ticks():
        place = y.place(value)
        draw.line([(x.start, place), (x.end, place)], FAINT, 2)
        draw.text((x.start - 10, place), f"{value:g}", INK, _font(22), anchor="rm")
    draw.text(((x.start + x.end) / 2, y.start + 40), names[0], INK, _font(24), anchor="mt")
    draw.text((x.start, y.end - 36), names[1], INK, _font(24))


def _roofline(draw: ImageDraw.ImageDraw, roofline: Roofline) -> None:
    """Draw each operator: MACs for a byte of weights and activations against MACs in a second."""
    roof, ops = roofline.roof, roofline.ops
    x = Scale.over(roofline.depths, 130, WIDTH - PAD)
    y = Scale.over([*roofline.speeds, *([roof] if roof else [])], CHART - 70, 130)
    _axes(draw, x, y, ("MACs for a byte moved", "GMAC/s"))
    for memory in roofline.slopes:
        if line := roofline.line(memory, x, y):
            draw.line([(x.place(a), y.place(b)) for a, b in line], COLORS[memory], 3)
            spot = line[-1]
            place = (x.place(spot[0]), y.place(spot[1]) - 6)
            draw.text(place, memory, COLORS[memory], _font(22), anchor="rb")
    if roof:
        draw.line([(x.start, y.place(roof)), (x.end, y.place(roof))], INK, 3)
        draw.text((x.start, y.place(roof) - 6), "all multipliers", INK, _font(22), anchor="lb")
    most = max(op.latency_ms for op in ops)
    for op, speed, deep in zip(ops, roofline.speeds, roofline.depths, strict=True):
        radius = 5 + 14 * math.sqrt(op.latency_ms / most)
        a, b = x.place(deep), y.place(speed)
        box = [a - radius, b - radius, a + radius, b + radius]
        draw.ellipse(box, None, COLORS.get(op.bound, INK), 3)


def _bars(draw: ImageDraw.ImageDraw, cost: Cost, top: int) -> None:
    slow = slowest(cost, MOST_BARS)
    total = sum(op.latency_ms for op in cost.ops) or 1.0
    most = max((op.latency_ms for op in slow), default=1.0) or 1.0
    left, right = 560, WIDTH - 260
    for number, op in enumerate(slow):
        y = top + number * ROW
        name = f"{op.module or '-'}  {op.kind}"
        draw.text((left - 14, y + ROW / 2), name[-44:], INK, _font(22), anchor="rm")
        length = (right - left) * op.latency_ms / most
        draw.rectangle([left, y + 5, left + length, y + ROW - 5], COLORS.get(op.bound, INK))
        text = f"{op.latency_ms:.3g} ms, {100 * op.latency_ms / total:.0f} %"
        draw.text((left + length + 10, y + ROW / 2), text, MUTED, _font(20), anchor="lm")
    rest = sum(op.latency_ms > 0 for op in cost.ops) - len(slow)
    if rest:
        end = top + len(slow) * ROW + ROW / 2
        draw.text((left - 14, end), f"and {rest} faster ones", MUTED, _font(20), anchor="rm")


@dataclass(frozen=True)
class Dot:
    """A network: its name, latency in ms, a quality with its interval, and its bytes if known."""

    name: str
    latency_ms: float
    quality: float
    interval: tuple[float, float] | None = None
    stored_bytes: int = 0


def front(dots: Sequence[Dot], better: str = "higher") -> list[Dot]:
    """Return those that no other beats in both, from the fastest to the best."""
    sign = 1 if better == "higher" else -1
    found: list[Dot] = []
    for dot in sorted(dots, key=lambda c: (c.latency_ms, -sign * c.quality)):
        if not found or sign * dot.quality > sign * found[-1].quality:
            found.append(dot)
    return found


def pareto(
    dots: Sequence[Dot], title: str, quality: str, path: Path, *, better: str = "higher"
) -> None:
    """Draw networks by latency and quality, a line through those that none beats in both.

    Raises:
        MismatchError: the name does not end in .png.

    """
    if path.suffix.lower() != ".png":
        raise MismatchError(f"{path} is to be a picture; expected a name that ends in .png")
    image = Image.new("RGB", (WIDTH, 900), "white")
    draw = ImageDraw.Draw(image)
    draw.text((PAD, 24), title, INK, _font(32))
    x = Scale.over([c.latency_ms for c in dots], 150, WIDTH - PAD - 160)
    ends = [end for c in dots for end in (c.quality, *(c.interval or ()))]
    low, high = min(ends), max(ends)
    margin = 0.1 * ((high - low) or abs(high) or 1)

    def place(value: float) -> float:
        return 780 - (value - low + margin) / (high - low + 2 * margin) * 640

    for value in x.ticks():
        draw.line([(x.place(value), 780), (x.place(value), 140)], FAINT, 2)
        draw.text((x.place(value), 790), f"{value:g}", INK, _font(22), anchor="mt")
    for step in range(6):
        value = low + (high - low) * step / 5
        draw.line([(x.start, place(value)), (x.end, place(value))], FAINT, 2)
        draw.text((x.start - 10, place(value)), f"{value:.4g}", INK, _font(22), anchor="rm")
    draw.text(((x.start + x.end) / 2, 830), "latency in ms", INK, _font(24), anchor="mt")
    draw.text((x.start, 100), quality, INK, _font(24))
    best = front(dots, better)
    draw.line([(x.place(c.latency_ms), place(c.quality)) for c in best], COLORS["compute"], 3)
    taken: list[tuple[float, float]] = []
    most = max(c.stored_bytes for c in dots)
    for dot in sorted(dots, key=lambda c: c not in best):
        a, b = x.place(dot.latency_ms), place(dot.quality)
        color = COLORS["compute"] if dot in best else MUTED
        if dot.interval is not None:
            draw.line([(a, place(end)) for end in dot.interval], color, 2)
        radius = 7 if not dot.stored_bytes else 5 + 15 * math.sqrt(dot.stored_bytes / most)
        draw.ellipse([a - radius, b - radius, a + radius, b + radius], color)
        others = [(x.place(c.latency_ms), place(c.quality)) for c in dots if c is not dot]
        for left, top, anchor in _spots(a, b, radius):  # the first that is free
            start = left if anchor[0] == "l" else left - 12 * len(dot.name)
            free = all(abs(start - p) > 240 or abs(top - q) > 22 for p, q in taken)
            reach = 12 * len(dot.name) if len(dots) <= _ALL_NAMED else 0
            if free and not any(start < p < start + reach and abs(top - q) < 16 for p, q in others):
                draw.text((left, top), dot.name, color, _font(20), anchor=anchor)
                taken.append((start, top))
                break
    _write(image, path)


def _spots(a: float, b: float, radius: float) -> Iterator[tuple[float, float, str]]:
    """Yield places for the name of a dot, the best first: its left, middle or right end."""
    yield a + radius + 5, b, "lm"
    for away in (28, 52, 76):
        for up in (-1, 1):
            yield a + radius + 5, b + up * away, "lm"
            yield a - radius - 5, b + up * away, "rm"


def _write(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64).save(path, optimize=True)
