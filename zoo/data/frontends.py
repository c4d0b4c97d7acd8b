"""What comes before a network that hears: from waves to cepstra, by the name of a front end.

A front end is part of its model: with another window, level or scaling of the first coefficient
a published network loses 2 to 5 points. So a recipe names it, and a checkpoint keeps the name.

| name | window, hop | FFT | 40 bands | logarithm |
|---|---|---|---|---|
| `mfcc-micronets` | 40 ms, 20 ms | 1024 | of TensorFlow's `mfcc` | floor 1e-12 |
| `mfcc-mlperf` | 30 ms, 20 ms | 512 | of `tf.signal` | plus 1e-6 |
| `mfcc-wide` | 40 ms, 20 ms | 1024 | of TensorFlow's `mfcc`, to 7600 Hz | floor 1e-12 |

All take 16 kHz, magnitudes (not powers), bands from 20 to 4000 Hz (`mfcc-wide`: to 7600, where
hissing sounds differ), the first ten rows of the cosine transform of type II, all times
sqrt(2/40), and a clip whose largest sample is 1.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import UnknownNameError

_SILENCE = 1e-4  # a clip whose peak is lower is left as it is: it would be noise made loud


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """How waves become features.

    Attributes:
        name: in recipes.
        rate: samples a second.
        window: samples of a frame, weighted by a periodic Hann window.
        hop: samples from a frame to the next.
        fft: points of the transform, the frame and zeros after it.
        bands: triangles between `low` and `high` Hz, evenly spaced on the scale
            1127 ln(1 + f / 700).
        mel: whose triangles: those of TensorFlow's operator `mfcc`, or of `tf.signal`. They differ
            in which bins count and in the type they are computed in.
        floor: the least energy before the logarithm, or what is added to it.
        adds: whether `floor` is added.
        coefficients: how many of the cosine transform are kept.

    """

    name: str
    rate: int = 16000
    window: int
    hop: int = 320
    fft: int
    bands: int = 40
    low: float = 20.0
    high: float = 4000.0
    mel: Literal["mfcc", "signal"]
    floor: float
    adds: bool
    coefficients: int = 10

    def frames(self, samples: int) -> int:
        """Return how many whole frames that many samples hold."""
        return max(0, 1 + (samples - self.window) // self.hop)

    def __call__(self, waves: Tensor) -> Tensor:
        """Map waves `(N, samples)` to features `(N, 1, frames, coefficients)` in float32.

        Frames are independent of each other: they are the same numbers in a file and in a stream.
        """
        frames = waves.double().unfold(1, self.window, self.hop) * _hann(self.window)
        spectrum = torch.fft.rfft(frames, self.fft).abs()
        energies = spectrum @ _triangles(self)
        energies = energies + self.floor if self.adds else energies.clamp_min(self.floor)
        return (energies.log() @ _cosines(self)).float()[:, None]


def at_full_scale(waves: Tensor) -> Tensor:
    """Return waves `(N, samples)`, each with a largest sample of 1; silence is left as it is."""
    peak = waves.abs().amax(1, keepdim=True)
    return torch.where(peak < _SILENCE, waves, waves / peak.clamp_min(_SILENCE))


@functools.cache
def _hann(size: int) -> Tensor:
    return torch.hann_window(size, periodic=True, dtype=torch.float64)


def _mel(frequency: NDArray[np.floating] | float) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(np.asarray(frequency) / 700))


@functools.cache
def _triangles(front: FrontEnd) -> Tensor:
    """Return the weights `(fft / 2 + 1, bands)` of the bins in each band, linear in mel."""
    width = front.rate / front.fft
    bins = np.arange(front.fft // 2 + 1)
    edges = np.linspace(_mel(front.low), _mel(front.high), front.bands + 2)
    place = _mel(bins * width)[:, None]
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    weights = np.clip(np.minimum(rising, falling), 0, None)
    if front.mel == "mfcc":  # only whole bins inside the band, as `MfccMelFilterbank` has it
        outside = (bins < int(1.5 + front.low / width)) | (bins > int(front.high / width))
        weights[outside] = 0
    else:
        weights[0] = 0
    return torch.from_numpy(weights)


@functools.cache
def _cosines(front: FrontEnd) -> Tensor:
    """Return the rows of the type II cosine transform, `(bands, coefficients)`."""
    band, k = np.mgrid[: front.bands, : front.coefficients]
    rows = math.sqrt(2 / front.bands) * np.cos(math.pi * k * (band + 0.5) / front.bands)
    return torch.from_numpy(rows)


FRONT_ENDS: Mapping[str, FrontEnd] = MappingProxyType(
    {
        front.name: front
        for front in (
            FrontEnd(
                name="mfcc-micronets", window=640, fft=1024, mel="mfcc", floor=1e-12, adds=False
            ),
            FrontEnd(
                name="mfcc-mlperf", window=480, fft=512, mel="signal", floor=1e-6, adds=True
            ),
            FrontEnd(
                name="mfcc-wide", window=640, fft=1024, high=7600.0, mel="mfcc", floor=1e-12,
                adds=False,
            ),
        )
    }
)  # fmt: skip


def named(name: str) -> FrontEnd:
    """Return a front end by name.

    Raises:
        UnknownNameError: there is none.

    """
    if name not in FRONT_ENDS:
        raise UnknownNameError.near(
            "front end", name, FRONT_ENDS, f"known: {', '.join(FRONT_ENDS)}"
        )
    return FRONT_ENDS[name]
