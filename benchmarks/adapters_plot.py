"""Switch time against the number of parameters, drawn with Pillow: both axes logarithmic."""

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLORS = {
    "peft LoRA r32": (220, 38, 38),
    "peft SHiRA": (234, 138, 0),
    "ours": (37, 99, 235),
    "ours, block mask": (13, 148, 136),
    "memory limit": (100, 116, 139),
}
INK, GREY, RULE = (15, 23, 42), (100, 116, 139), (226, 232, 240)
W, H, LEFT, TOP, RIGHT, BOTTOM, GAP = 1060, 470, 66, 84, 150, 58, 74


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw one panel per type and write the PNG."""
    kinds = list(dict.fromkeys(key.split()[1] for key in results))
    picture = Image.new("RGB", (W, H), (255, 255, 255))
    pen = ImageDraw.Draw(picture)
    large, small = ImageFont.load_default(18), ImageFont.load_default(12)
    pen.text((20, 14), "Switching a fused adapter, 1 % of the weights, one thread", INK, large)
    series = {kind: _series(results, kind) for kind in kinds}
    values = [y for found in series.values() for points in found.values() for _, y in points]
    sizes = [x for found in series.values() for points in found.values() for x, _ in points]
    low, high = 10 ** math.floor(math.log10(min(values))), max(values) * 1.6
    left_x, right_x = min(sizes) / 1.3, max(sizes) * 1.2
    width = (W - LEFT - RIGHT - GAP * (len(kinds) - 1)) // len(kinds)
    for k, kind in enumerate(kinds):
        origin = LEFT + k * (width + GAP)

        def at(x: float, y: float, origin: int = origin) -> tuple[float, float]:
            across = math.log(x / left_x) / math.log(right_x / left_x)
            up = math.log(y / low) / math.log(high / low)
            return origin + across * width, H - BOTTOM - up * (H - BOTTOM - TOP)

        pen.text((origin, 52), kind, INK, small)
        for decade in range(math.floor(math.log10(low)), math.ceil(math.log10(high))):
            y = at(left_x, 10.0**decade)[1]
            pen.line((origin, y, origin + width, y), fill=RULE)
            pen.text((origin - 8, y), f"{10.0**decade:g} ms", GREY, small, anchor="rm")
        for x in sorted(set(sizes)):
            across = at(x, low)[0]
            label = f"{x / 1e6:.0f}M"
            pen.text((across, H - BOTTOM + 8), label, GREY, small, anchor="ma")
        _lines(pen, series[kind], at, small, legend=k == len(kinds) - 1)
    pen.text((W // 2 - RIGHT // 2, H - 20), "parameters that adapters may change", GREY, small,
             anchor="mm")  # fmt: skip
    picture.save(path, optimize=True)


def _series(results: dict[str, Any], kind: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COLORS}
    for key, result in results.items():
        if key.split()[1] == kind:
            for name in COLORS:
                value = result["median_ms"].get(name, result["memory_limit_ms"])
                found[name].append((float(result["parameters"]), value))
    return found


def _lines(pen: Any, series: Any, at: Any, font: Any, *, legend: bool) -> None:
    ends = []
    for name, points in series.items():
        line = [at(x, y) for x, y in points]
        pen.line(line, fill=COLORS[name], width=1 if name == "memory limit" else 3)
        if name != "memory limit":
            for x, y in line:
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=COLORS[name])
        ends.append((line[-1][1], line[-1][0], name))
    if legend:
        previous = -99.0
        for y, x, name in sorted(ends):
            previous = max(y, previous + 16)
            pen.text((x + 16, previous), name, COLORS[name], font, anchor="lm")
