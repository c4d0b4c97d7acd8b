"""Pictures of what photographs of landscapes lack: grids, dots, stripes, checks, rings and twigs.

Surfaces with such patterns, turned, bent and seen at an angle, overlap each other in each picture,
from a few pixels a period on. A picture is a function of its number; nothing of anybody's is in it.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zoo.data.resize import resize

SIZE = (480, 320)  # (width, height), as the photographs of BSDS500
_FINER = 3  # drawn so many times as large, then shrunk as the photographs are
Plane = NDArray[np.float64]
Mask = NDArray[np.bool_]


def picture(number: int, seed: int = 0) -> Image.Image:
    """Return one picture of `SIZE`."""
    random = np.random.Generator(np.random.Philox(key=[seed, number]))
    rows, columns = np.mgrid[: SIZE[1] * _FINER, : SIZE[0] * _FINER] / _FINER
    canvas = np.empty((*rows.shape, 3))
    for layer in range(int(random.integers(4, 8))):
        where = _region(random, rows, columns) if layer else np.ones(rows.shape, np.bool_)
        inside = _pattern(random, *_surface(random, rows, columns))
        first, second = _colors(random)
        light = _light(random, rows, columns)[..., None]
        canvas[where] = (np.where(inside[..., None], first, second) * light)[where]
    pixels = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Image.fromarray(resize(pixels, 1 / _FINER))


def _surface(random: np.random.Generator, rows: Plane, columns: Plane) -> tuple[Plane, Plane]:
    """Return a surface's own coordinates, in pixels: turned, at an angle to the eye, and bent."""
    turn = random.uniform(0, 2 * np.pi)
    x, y = columns - random.uniform(0, SIZE[0]), rows - random.uniform(0, SIZE[1])
    across, along = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    tilt = random.uniform(0, 1 / 700)
    away = np.maximum(1 + tilt * across, 0.2)
    across, along = across / away, along / away
    if random.random() < 0.5:
        length = random.uniform(60, 240)
        across = across + length * random.uniform(0, 0.2) * np.sin(along / length * 2)
    return across, along


def _pattern(random: np.random.Generator, u: Plane, v: Plane) -> Mask:
    """Return where a surface has its first colour."""
    period = float(np.exp(random.uniform(np.log(3.5), np.log(40))))
    share = random.uniform(0.15, 0.6)
    a, b = u / period, v / (period * random.choice([1, 1, random.uniform(0.5, 3)]))
    kind = int(random.integers(0, 7))
    if kind == 0:  # a grid
        return np.asarray((a % 1 < share * 0.6) | (b % 1 < share * 0.6))
    if kind == 1:  # dots, every second row moved
        a = a + 0.5 * (np.floor(b) % 2)
        return np.asarray((a % 1 - 0.5) ** 2 + (b % 1 - 0.5) ** 2 < (0.2 + share / 2) ** 2)
    if kind == 2:  # stripes
        return np.asarray(a % 1 < share)
    if kind == 3:  # checks
        return np.asarray((np.floor(a) + np.floor(b)) % 2 == 0)
    if kind == 4:  # bricks
        a = a / 2 + 0.5 * (np.floor(b) % 2)
        return np.asarray((a % 1 < share * 0.2) | (b % 1 < share * 0.4))
    if kind == 5:  # rings
        return np.asarray(np.hypot(a, b) % 1 < share)
    return _twigs(random, u, v)


def _twigs(random: np.random.Generator, u: Plane, v: Plane) -> Mask:
    inside = np.zeros(u.shape, np.bool_)
    for _ in range(int(random.integers(10, 60))):
        turn, width = random.uniform(0, np.pi), random.uniform(0.4, 2.5)
        curve = random.uniform(-8, 8) * np.sin(u / random.uniform(20, 90))
        way = u * np.cos(turn) + (v + curve) * np.sin(turn) - random.uniform(-300, 300)
        inside |= np.abs(way) < width
    return inside


def _region(random: np.random.Generator, rows: Plane, columns: Plane) -> Mask:
    """Return where a surface is seen: an ellipse, or what lies between four edges."""
    x, y = columns - random.uniform(0, SIZE[0]), rows - random.uniform(0, SIZE[1])
    if random.random() < 0.4:
        return np.asarray(
            (x / random.uniform(30, 180)) ** 2 + (y / random.uniform(30, 140)) ** 2 < 1
        )
    turn, inside = random.uniform(0, np.pi), np.ones(rows.shape, np.bool_)
    for side in range(4):
        angle = turn + side * np.pi / 2 + random.uniform(-0.3, 0.3)
        inside &= x * np.cos(angle) + y * np.sin(angle) < random.uniform(30, 170)
    return inside


def _colors(random: np.random.Generator) -> tuple[Plane, Plane]:
    """Return two colours; seldom do they differ little."""
    first = random.uniform(0, 255, 3)
    toward = random.uniform(0, 255) if random.random() < 0.4 else 255.0 * (first.mean() < 128)
    return first, first + (toward - first) * random.uniform(0.3, 1) + random.uniform(-20, 20, 3)


def _light(random: np.random.Generator, rows: Plane, columns: Plane) -> Plane:
    turn = random.uniform(0, 2 * np.pi)
    way = (columns * np.cos(turn) + rows * np.sin(turn)) / SIZE[0]
    return np.clip(1 + random.uniform(0, 0.6) * (way - way.max()), 0.15, 1)
