"""The front end of a network that hears, as C source: the numbers of `zoo.data.frontends`.

One header in C99 with its tables and no allocation: a real FFT of half its length, the bands'
weights without their zeros, the cosines. Features are float32; the device rounds them by the scale
and zero point of its model's input.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.frontends import FrontEnd, tables
from zoo.data.sound import SILENCE
from zoo.deploy.carray import identifier
from zoo.errors import MismatchError
from zoo.files import write_bytes


@dataclass(frozen=True, kw_only=True)
class FrontEndCounts:
    """What a front end takes as C source.

    Attributes:
        flash_bytes: of its tables.
        ram_bytes: what a frame takes besides the samples and the features.
        operations: floating-point additions and multiplications of a frame; its roots, logarithms
            and comparisons are not among them.

    """

    flash_bytes: int
    ram_bytes: int
    operations: int


@dataclass(frozen=True, kw_only=True)
class FrontEndFile(FrontEndCounts):
    """A header that was written.

    Attributes:
        path: where the file is.

    """

    path: Path


def counted(front: FrontEnd) -> FrontEndCounts:
    """Return what a front end takes as C source, without writing it.

    Raises:
        MismatchError: its transform is not of a power of two.

    """
    _check(front)
    half, widths = front.fft // 2, [b - a for a, b in _spans(front)]
    buffers = front.fft + half + 1 + (front.bands if front.coefficients else 0)
    stored = front.window + front.fft + sum(widths) + front.bands * front.coefficients
    butterflies = half // 2 * int(math.log2(half)) * 10
    bins = (half + 1) * (16 + 3)  # a bin of the real transform, and its power
    ends = (1 if front.adds else 0) + (0 if front.coefficients else 1)
    return FrontEndCounts(
        flash_bytes=4 * stored + 4 * front.bands,
        ram_bytes=4 * buffers,
        operations=front.window * (3 if front.preemphasis else 1) + butterflies + bins
        + 2 * sum(widths) + front.bands * (ends + (2 if front.span else 0))
        + 2 * front.bands * front.coefficients,
    )  # fmt: skip


def write_front_end(front: FrontEnd, path: Path) -> FrontEndFile:
    """Write a front end as `NAME_frame`, `NAME_gain` and `NAME_quantize`, NAME the file's stem.

    They are `inline`, so that a compiler says nothing of those that a device does not call.

    ```python
    from pathlib import Path

    from zoo.data import frontends
    from zoo.deploy.front_end import write_front_end

    write_front_end(frontends.named("mfcc-micronets"), Path("front_end.h"))
    ```
    """
    _check(front)
    name = identifier(path.stem, "front_end")
    taper, triangles, cosines = tables(front)
    spans = _spans(front)
    weights = [column[a:b] for column, (a, b) in zip(triangles.T, spans, strict=True)]
    turns = np.exp(-2j * np.pi * np.arange(front.fft // 2) / front.fft)
    stored = {
        "taper": taper,
        "turns": np.stack([turns.real, turns.imag], 1).reshape(-1),
        "weights": np.concatenate(weights),
        **({} if cosines is None else {"cosines": cosines.T.reshape(-1)}),
    }
    places = {"first": [a for a, _ in spans], "count": [b - a for a, b in spans]}
    text = "\n".join(
        [
            _HEAD.format(
                front=front.name, rate=front.rate, window=front.window, hop=front.hop, name=name,
                guard=f"{name.upper()}_INCLUDED", upper=name.upper(), width=front.width,
                fft=front.fft, bands=front.bands, silence=_number(SILENCE),
            ),
            *(_floats(f"{name}_{key}", value) for key, value in stored.items()),
            *(_integers(f"{name}_{key}", values) for key, values in places.items()),
            _FFT.replace("POINTS", str(front.fft)).replace("NAME", name),
            _frame(front, name),
            _TAIL.replace("NAME", name).replace("SILENCE_OF", f"{name.upper()}_SILENCE"),
            "#endif",
            "",
        ]
    )  # fmt: skip
    write_bytes(path, text.encode())
    return FrontEndFile(path=path, **dataclasses.asdict(counted(front)))


def _check(front: FrontEnd) -> None:
    if front.fft & (front.fft - 1):
        raise MismatchError(f"{front.name} has an FFT of {front.fft} points; expected a power of 2")


def _spans(front: FrontEnd) -> list[tuple[int, int]]:
    """Return the first bin of each band with a weight, and the one after its last."""
    _, triangles, _ = tables(front)
    found = [np.flatnonzero(column) for column in triangles.T]
    return [(int(bins[0]), int(bins[-1]) + 1) if len(bins) else (0, 0) for bins in found]


def _number(value: float) -> str:
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def _lines(items: Sequence[str]) -> str:
    return ",\n    ".join(", ".join(items[i : i + 6]) for i in range(0, len(items), 6))


def _floats(name: str, values: NDArray[np.floating]) -> str:
    items = [_number(float(value)) for value in values]
    return f"static const float {name}[{len(items)}] = {{\n    {_lines(items)}}};"


def _integers(name: str, values: Sequence[int]) -> str:
    items = [str(value) for value in values]
    return f"static const uint16_t {name}[{len(items)}] = {{\n    {_lines(items)}}};"


def _frame(front: FrontEnd, name: str) -> str:
    sample = "samples[i]"
    if front.preemphasis:
        share = _number(front.preemphasis)
        sample = f"(samples[i] - {share} * (i ? samples[i - 1] : before))"
    power = "re * re + im * im"
    if front.power == 1:
        power = f"sqrtf({power})"
    kept = f"    static float energies[{front.bands}];\n" if front.coefficients else ""
    return f"""
/* From one frame of samples, full scale from -1 to 1, to its features. `before` is the sample that
   came before the frame, 0 at the start; only front ends with preemphasis read it. */
static inline void {name}_frame(const float *samples, float before, float *features) {{
    static float points[{front.fft}];
    static float heights[{front.fft // 2 + 1}];
{kept}    (void)before;
    for (int i = 0; i < {front.window}; ++i) points[i] = {sample} * {name}_taper[i];
    for (int i = {front.window}; i < {front.fft}; ++i) points[i] = 0.0f;
    {name}_transform(points);
    for (int k = 0; k <= {front.fft // 2}; ++k) {{
        float re, im;
        {name}_bin(points, k, &re, &im);
        heights[k] = {power};
    }}
    const float *weight = {name}_weights;
    for (int band = 0; band < {front.bands}; ++band) {{
        float sum = 0.0f;
        for (int i = 0; i < {name}_count[band]; ++i)
            sum += *weight++ * heights[{name}_first[band] + i];
{_ending(front, name)}}}
"""


def _ending(front: FrontEnd, name: str) -> str:
    """Return what becomes of the sum of each band: cosines of logarithms, or decibels."""
    floor = _number(front.floor)
    energy = f"sum + {floor}" if front.adds else f"sum > {floor} ? sum : {floor}"
    if front.coefficients:
        return f"""        energies[band] = logf({energy});
    }}
    for (int k = 0; k < {front.coefficients}; ++k) {{
        float sum = 0.0f;
        for (int band = 0; band < {front.bands}; ++band)
            sum += {name}_cosines[k * {front.bands} + band] * energies[band];
        features[k] = sum;
    }}
"""
    if front.span is None:
        return f"        features[band] = 10.0f * log10f({energy});\n    }}\n"
    low, high = front.span
    start = _number(low + 10 * math.log10(front.window))
    share = _number(1 / (high - low))
    return f"""        float level = (10.0f * log10f({energy}) - {start}) * {share};
        features[band] = level < 0.0f ? 0.0f : level > 1.0f ? 1.0f : level;
    }}
"""


_HEAD = """/* {front}: {rate} Hz, frames of {window} samples every {hop}, {width} features each.
   Written by edge-zoo; meant to be included by one source file. Not reentrant. */
#ifndef {guard}
#define {guard}
#include <math.h>
#include <stdint.h>

#define {upper}_RATE {rate}
#define {upper}_WINDOW {window}
#define {upper}_HOP {hop}
#define {upper}_WIDTH {width}
#define {upper}_SILENCE {silence}
"""

_FFT = """
/* The transform of POINTS real numbers in place, as that of half as many complex ones. */
static void NAME_transform(float *points) {
    const int half = POINTS / 2;
    for (int i = 1, j = 0; i < half; ++i) {
        int bit = half >> 1;
        for (; j & bit; bit >>= 1) j ^= bit;
        j |= bit;
        if (i < j) {
            float re = points[2 * i], im = points[2 * i + 1];
            points[2 * i] = points[2 * j];
            points[2 * i + 1] = points[2 * j + 1];
            points[2 * j] = re;
            points[2 * j + 1] = im;
        }
    }
    for (int length = 2; length <= half; length <<= 1) {
        const int step = POINTS / length;
        for (int start = 0; start < half; start += length) {
            for (int k = 0; k < length / 2; ++k) {
                float *a = points + 2 * (start + k), *b = a + length;
                const float c = NAME_turns[2 * k * step], s = NAME_turns[2 * k * step + 1];
                const float re = b[0] * c - b[1] * s, im = b[0] * s + b[1] * c;
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
        }
    }
}

/* Bin k of the real transform, 0 <= k <= POINTS / 2. */
static void NAME_bin(const float *points, int k, float *re, float *im) {
    const int half = POINTS / 2, same = k % half, other = (half - k) % half;
    const float a = points[2 * same], b = points[2 * same + 1];
    const float c = points[2 * other], d = -points[2 * other + 1];
    const float even_re = 0.5f * (a + c), even_im = 0.5f * (b + d);
    const float odd_re = 0.5f * (b - d), odd_im = 0.5f * (c - a);
    const float turn_re = k < half ? NAME_turns[2 * k] : -1.0f;
    const float turn_im = k < half ? NAME_turns[2 * k + 1] : 0.0f;
    *re = even_re + odd_re * turn_re - odd_im * turn_im;
    *im = even_im + odd_re * turn_im + odd_im * turn_re;
}
"""

_TAIL = """
/* What a clip of keywords is multiplied with, so that its largest sample is 1; 1 for silence. */
static inline float NAME_gain(const float *samples, int count) {
    float peak = 0.0f;
    for (int i = 0; i < count; ++i) peak = fmaxf(peak, fabsf(samples[i]));
    return peak < SILENCE_OF ? 1.0f : 1.0f / peak;
}

/* To the integers of a model's input, whose scale and zero point its file has. */
static inline void NAME_quantize(const float *features, int count, float scale, int zero_point,
                          int8_t *out) {
    for (int i = 0; i < count; ++i) {
        const float step = rintf(features[i] / scale) + (float)zero_point;
        out[i] = (int8_t)(step < -128.0f ? -128.0f : step > 127.0f ? 127.0f : step);
    }
}
"""
