"""Draws the house: one bar for each room, from the roof down, and its extension points.

Rooms and their order are those of `tests/unit/test_imports.py`; a room's line is the first of its
`__init__.py`; extension points are the packages that module-level constants name.

Run: make tables
"""

import ast
import pkgutil
from collections.abc import Iterator
from html import escape
from pathlib import Path

import zoo
from tests.unit.test_imports import ROOMS

PICTURE = Path(__file__).resolve().parents[1] / "images" / "rooms.svg"
HOUSE = Path(zoo.__file__).parent
ROW, TOP, WIDTH, NAME, LINE = 30, 34, 960, 20, 150
WITHOUT_CODE = (
    "cost.systems",
    "cost.targets",
    "models",
)  # found by name: a file of numbers, a network
STYLE = """
.sky { fill: #f6f8f8 } .room { fill: #ffffff; stroke: #b9c7c5 } .roof { fill: #00796b }
text { font: 13px system-ui, sans-serif; fill: #37474f } .name { font-weight: 700; fill: #00695c }
.add { font-size: 11px; fill: #bf360c }
.cap { fill: #ffffff; font-weight: 600 }
"""


def rooms() -> list[tuple[str, str, list[str]]]:
    """Return each room: its name, what it is, and its extension points."""
    points = sorted({*extension_points(), *WITHOUT_CODE})
    return [
        (
            name,
            summary(HOUSE / name / "__init__.py"),
            [point.partition(".")[2] for point in points if f"{point}.".startswith(f"{name}.")],
        )
        for name in ROOMS
        if (HOUSE / name / "__init__.py").is_file()
    ]


def extension_points() -> Iterator[str]:
    """Give the folders whose members are found by being there: `cost.estimators`."""
    for path in HOUSE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.Tuple):
                for part in ast.walk(node.value):
                    name = part.value if isinstance(part, ast.Constant) else None
                    if isinstance(name, str) and name.startswith("zoo."):
                        place = name.removeprefix("zoo.")
                        if (HOUSE / place.replace(".", "/") / "__init__.py").is_file():
                            yield place


def summary(file: Path) -> str:
    """Return the first sentence of a package's docstring."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    first = " ".join(text.split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".").replace("`", "")


def svg() -> str:
    """Return the picture."""
    listed = rooms()
    height = TOP + ROW * (len(listed) + 1) + 14
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>The rooms of zoo/, from the roof down</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="sky" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<path class="roof" d="M8 {TOP - 4} L60 6 H{WIDTH - 60} L{WIDTH - 8} {TOP - 4} Z"/>',
        f'<text class="cap" x="{WIDTH / 2}" y="25" text-anchor="middle">'
        "zoo/ : a room imports only rooms below it</text>",
    ]
    for number, (name, line, points) in enumerate(listed):
        parts += _row(TOP + ROW * number, name, line, points)
    files = [m.name for m in pkgutil.iter_modules([str(HOUSE)]) if not m.ispkg]
    shown = ", ".join(name for name in files if not name.startswith("_"))
    parts += _row(TOP + ROW * len(listed), "files", shown, [])
    return "\n".join([*parts, "</svg>", ""])


def _row(y: int, name: str, line: str, points: list[str]) -> list[str]:
    parts = [
        f'<rect class="room" x="8" y="{y}" width="{WIDTH - 16}" height="{ROW - 3}" rx="3"/>',
        f'<text class="name" x="{NAME}" y="{y + 18}">{escape(name)}</text>',
        f'<text x="{LINE}" y="{y + 18}">{escape(line)}</text>',
    ]
    if points:
        words = ", ".join(f"{point}/" if point else "a file" for point in points)
        parts.append(
            f'<text class="add" x="{WIDTH - 20}" y="{y + 18}" text-anchor="end">'
            f"add here: {escape(words)}</text>"
        )
    return parts


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
