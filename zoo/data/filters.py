"""Eight looks of a photograph as fixed filters: what the family `looks` learns from.

A filter takes and gives RGB `(H, W, 3)`, float32 in [0, 1]. It looks at most some 20 pixels around
each pixel, and its texture (dots, hatching, grain) lies still on the picture: it repeats every
`PERIOD` pixels from the upper left corner, as the fixed planes of the network do. There is no
chance in it: the grain is one table, made of a seed. The filters are not tuned to what a
network can learn; they were chosen by eye before anything was trained.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError, UnknownNameError

Array = NDArray[np.float32]
Filter = Callable[[Array], Array]
PERIOD = 24  # pixels, of all texture; that of `zoo.models.looks`
_DOTS, _HATCH = 8, 8  # pixels, their own periods; both divide PERIOD
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_SEED = 20240613  # of the grain, one table for ever


# --- texture ----------------------------------------------------------------------------------


@functools.cache
def grain() -> Array:
    """Return the paper's grain: `(PERIOD, PERIOD)` in [-1, 1], its opposite edges fit together."""
    dice = np.random.Generator(np.random.PCG64(_SEED))
    rough = dice.standard_normal((PERIOD, PERIOD))
    rows, columns = np.meshgrid(*[np.fft.fftfreq(PERIOD)] * 2, indexing="ij")
    # Grains of one to three pixels, by a window on the frequencies: the table wraps around.
    window = np.exp(-((np.hypot(rows, columns) - 0.25) ** 2) / (2 * 0.12**2))
    window[0, 0] = 0
    fine = np.fft.ifft2(np.fft.fft2(rough) * window).real
    return np.asarray(np.clip(fine / (2.5 * fine.std()), -1, 1), np.float32)


def textures(height: int, width: int) -> Array:
    """Return the planes `(3, height, width)` in [-1, 1]: grain, dots, hatching.

    The dots stand on a screen of 45 degrees, cos(2 pi x / 8) cos(2 pi y / 8); the hatching
    runs from lower left to upper right, a line every 8 pixels of a row.
    """
    y, x = np.mgrid[:height, :width].astype(np.float32)
    turn = np.float32(2 * np.pi)
    dots = np.cos(turn * x / _DOTS) * np.cos(turn * y / _DOTS)
    hatch = np.cos(turn * (x + y) / _HATCH)
    rows, columns = np.arange(height) % PERIOD, np.arange(width) % PERIOD
    return np.stack([grain()[np.ix_(rows, columns)], dots, hatch]).astype(np.float32)


# --- tools ------------------------------------------------------------------------------------


def _blur(x: Array, sigma: float) -> Array:
    return np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), np.float32)


def _luma(x: Array) -> Array:
    return np.asarray(x @ _LUMA, np.float32)


def _step(x: Array, low: float, high: float) -> Array:
    """Return a smooth step: 0 below `low`, 1 above `high`."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _saturate(x: Array, factor: float) -> Array:
    grey = _luma(x)[..., None]
    return np.asarray(np.clip(grey + (x - grey) * factor, 0, 1), np.float32)


def _between(low: Array, high: Array, share: Array) -> Array:
    share = share if share.ndim == 3 else share[..., None]  # (H, W) or (H, W, 1)
    return np.asarray(low + (high - low) * share, np.float32)


def _colour(*rgb: int) -> Array:
    return np.asarray(np.array(rgb, np.float32) / 255, np.float32)


def _padded(x: Array, width: int) -> Array:
    sides = (width, width, width, width)
    return np.asarray(cv2.copyMakeBorder(x, *sides, cv2.BORDER_REFLECT_101), np.float32)


def _painted(x: Array, radius: int, sharpness: float = 4) -> Array:
    """Return flat strokes that keep edges: Kuwahara's filter with soft weights (Papari 2007).

    Around each pixel lie four squares that share it as a corner, and four beside them; each
    pixel gets the mean of their means, weighted by the inverse of their variance.
    """
    size, half = 2 * (radius // 2) + 1, radius // 2 + 1
    mean = np.asarray(cv2.boxFilter(x, -1, (size, size)), np.float32)
    square = cv2.boxFilter(_luma(x) ** 2, -1, (size, size)) - _luma(mean) ** 2
    total, weights = np.zeros_like(x), np.zeros(x.shape[:2], np.float32)
    padded = _padded(mean, half)
    spread = _padded(np.asarray(square, np.float32), half)
    rows, columns = x.shape[:2]
    for down, right in ((-1, -1), (-1, 1), (1, -1), (1, 1), (0, -1), (0, 1), (-1, 0), (1, 0)):
        spot = np.s_[half * (1 + down) :, half * (1 + right) :]
        weight = (np.maximum(spread[spot][:rows, :columns], 0) + 4e-4) ** -sharpness
        weight *= 1e-12
        total += padded[spot][:rows, :columns] * weight[..., None]
        weights += weight
    return np.asarray(total / weights[..., None], np.float32)


def _lines(x: Array, sigma: float, threshold: float, softness: float) -> Array:
    """Return 1 on paper and 0 on ink: a difference of Gaussians, cut softly (Winnemoeller 2012)."""
    grey = _luma(x)
    edges = _blur(grey, sigma) - 0.98 * _blur(grey, 1.6 * sigma)
    return np.asarray(1 - _step(-edges, threshold, threshold + softness), np.float32)


# --- the looks --------------------------------------------------------------------------------


def oil(x: Array) -> Array:
    """Return a painting: broad strokes, deep colours, light on the ridges of the paint."""
    strokes = _painted(_painted(x, 5), 3)
    rich = _saturate(strokes, 1.5)
    curve = rich + 0.35 * rich * (1 - rich) * (2 * rich - 1) * 2
    grey = _luma(strokes)
    relief = _blur(grey, 0.8) - np.roll(_blur(grey, 0.8), (2, 2), (0, 1))
    relief[:2], relief[:, :2] = 0, 0
    canvas = 0.02 * textures(*x.shape[:2])[0]
    return np.clip(curve + (np.clip(0.9 * relief, -0.16, 0.16) + canvas)[..., None], 0, 1)


def watercolour(x: Array) -> Array:
    """Return washes on rough paper: light, pigment gathered where a wash ends."""
    wash = _painted(_painted(x, 5, 3), 3, 3)
    grey = _luma(wash)
    thin = 0.74 - 0.4 * _step(grey, 0.3, 0.9)
    bright = 1 - (1 - _saturate(wash, 1.7)) * thin[..., None]
    ends = _blur(grey, 1) - _blur(grey, 3.5)
    pooled = np.clip(-3 * np.minimum(ends, 0) - 0.02, 0, 0.35)
    rough = textures(*x.shape[:2])[0] * 0.05 * (1 - 0.6 * _step(grey, 0.6, 1.0))
    paper = _colour(253, 250, 242)
    return np.clip(paper * (bright * (1 - pooled)[..., None] + rough[..., None]), 0, 1)


def cartoon(x: Array) -> Array:
    """Return a drawn film: flat bright colours in five steps, black ink."""
    flat = _painted(_painted(x, 4), 3)
    grey = _luma(flat)
    steps = 5
    level = grey * steps - 0.5
    whole = np.floor(level)
    banded = (whole + _step(level - whole, 0.38, 0.62) + 0.5) / steps
    toned = flat * (np.clip(banded, 0.06, 1) / np.maximum(grey, 0.04))[..., None]
    bright = _saturate(np.clip(toned, 0, 1), 1.55) ** np.float32(0.88)
    ink = _lines(flat, 1.1, 0.006, 0.022)
    return np.clip(_between(_colour(24, 20, 34), bright, ink), 0, 1)


def pencil(x: Array) -> Array:
    """Return graphite on paper: outlines, and shading by two layers of strokes."""
    grey = _luma(x)
    grain_, _, hatch = textures(*x.shape[:2])
    dodged = np.asarray(grey / np.maximum(_blur(grey, 4), 0.04), np.float32)
    outline = _step(dodged, 0.62, 0.985) ** 0.9
    tone = _blur(grey, 1.2)
    strokes = 0.5 + 0.5 * hatch + 0.25 * grain_
    first = 1 - 0.34 * _step(0.62 - tone, -0.1, 0.4) * (0.45 + 0.55 * _step(strokes, 0.25, 0.75))
    second = 1 - 0.46 * _step(0.34 - tone, -0.08, 0.26) * (0.75 + 0.25 * _step(1 - strokes, 0.2, 1))
    drawn = (0.16 + 0.84 * outline) * first * second * (1 + 0.035 * grain_)
    return np.clip(
        _between(_colour(38, 38, 46), _colour(251, 248, 240), np.clip(drawn, 0, 1)), 0, 1
    )


def neon(x: Array) -> Array:
    """Return glowing tubes along the edges of a dark picture, in its own hues."""
    soft = _blur(x, 1.2)
    across = cv2.Sobel(soft, cv2.CV_32F, 1, 0, scale=0.25)
    down = cv2.Sobel(soft, cv2.CV_32F, 0, 1, scale=0.25)
    edge = np.sqrt(across**2 + down**2).max(2)
    tube = _step(edge, 0.025, 0.16)
    near = _blur(x, 2.5)
    least, most = near.min(2, keepdims=True), near.max(2, keepdims=True)
    hue = (near - least) / np.maximum(most - least, 0.02)
    # Grey has no hue: there the tubes are cyan, or magenta where it is light.
    plain = _between(_colour(20, 225, 255), _colour(255, 60, 190), _step(_luma(near), 0.35, 0.7))
    lamp = _between(plain, hue, _step(most - least, 0.06, 0.22))
    glow = lamp * _blur(tube, 3.5)[..., None]
    core = np.clip(lamp * 1.05 + 0.25, 0, 1) * tube[..., None]
    dark = x * x * _colour(48, 30, 92) + _colour(10, 4, 26)
    return np.clip(1 - (1 - dark) * (1 - np.clip(0.75 * glow, 0, 1)) * (1 - core), 0, 1)


def halftone(x: Array) -> Array:
    """Return a comic's print: round dots of the picture's own colours on light paper."""
    soft = _blur(x, 1.4)
    grey = _luma(soft)
    screen = 0.5 + 0.5 * textures(*x.shape[:2])[1]
    cover = 1 - (0.04 + 0.92 * _step(grey, 0.0, 1.0))
    dot = _step(cover - screen, -0.1, 0.1)
    rich = _saturate(soft, 1.9)
    ink = rich * 0.5 + _colour(24, 14, 52) * (1 - 0.35 * rich)
    paper = 1 - (1 - rich) * _colour(105, 110, 125)
    return np.clip(_between(paper * _colour(255, 250, 238), ink, dot), 0, 1)


def night(x: Array) -> Array:
    """Return the hours after sunset: blue shadows, moonlit greys, lamps that still glow."""
    grey = _luma(x)
    cold = _saturate(x, 0.5) * _colour(92, 118, 166)
    deep = cold * (0.45 + 0.55 * _step(grey, 0.0, 0.9)[..., None]) + _colour(5, 9, 26)
    warmth = _step(x[..., 0] - x[..., 2], 0.06, 0.45) * _step(grey, 0.25, 0.75)
    lamps = _saturate(x, 1.3) * _colour(255, 190, 110)
    lit = _between(deep, lamps, 0.62 * warmth)
    bloom = _blur(np.clip(lit - 0.45, 0, 1), 4)
    return np.clip(lit + 0.5 * bloom, 0, 1)


def film(x: Array) -> Array:
    """Return a print of the seventies: teal shadows, amber lights, red halos, grain."""
    curve = x + 0.9 * x * (1 - x) * (2 * x - 1)
    grey = _luma(np.clip(curve, 0, 1))
    toned = _saturate(np.clip(curve, 0, 1), 0.85)
    shadows, lights = _colour(-14, 26, 40), _colour(44, 14, -34)
    split = shadows * (1 - grey)[..., None] ** 1.5 + lights * _step(grey, 0.2, 0.85)[..., None]
    faded = 0.07 + 0.9 * np.clip(toned + split, 0, 1)
    halo = _blur(_step(_luma(x), 0.72, 0.98), 5)[..., None] * _colour(60, 16, 0)
    middle = 4 * grey * (1 - grey)
    rough = textures(*x.shape[:2])[0] * (0.02 + 0.035 * middle)
    return np.clip(faded + halo * (1 - faded) + rough[..., None], 0, 1)


# In this order they are applied where several are mixed: brush, drawing, print, then light.
FILTERS: Mapping[str, Filter] = MappingProxyType(
    {
        "oil": oil,
        "watercolour": watercolour,
        "cartoon": cartoon,
        "pencil": pencil,
        "neon": neon,
        "halftone": halftone,
        "night": night,
        "film": film,
    }
)


def named(name: str) -> Filter:
    """Return a filter by name.

    Raises:
        UnknownNameError: there is none.

    """
    if name not in FILTERS:
        raise UnknownNameError.near("filter", name, FILTERS, f"known: {', '.join(FILTERS)}")
    return FILTERS[name]


def mixed(x: Array, strengths: Mapping[str, float]) -> Array:
    """Return several looks, one over the other, each by its strength in [0, 1].

    In the order of `FILTERS`, each is the next step y <- y + strength (filter(y) - y). So night
    over a pencil drawing at 1 and 1 is the drawing at night, and a strength of 0 leaves a look out.

    Raises:
        UnknownNameError: no such filter.
        MismatchError: a strength outside [0, 1].

    """
    for name, strength in strengths.items():
        named(name)
        if not 0 <= strength <= 1:
            raise MismatchError(f"the strength of {name} is {strength}; expected 0 to 1")
    for name, look in FILTERS.items():
        share = np.float32(strengths.get(name, 0))
        if share:
            x = np.asarray(x + share * (look(x) - x), np.float32)
    return np.asarray(x, np.float32)
