"""What comes before a network that hears: from waves to features, by the name of a front end.

A front end is part of its model: with another window, level or scaling of the first coefficient
a published network loses 2 to 5 points. So a recipe names it, and a checkpoint keeps the name.

| name | window, hop | FFT | 40 bands | logarithm |
|---|---|---|---|---|
| `mfcc-micronets` | 40 ms, 20 ms | 1024 | of TensorFlow's `mfcc` | floor 1e-12 |
| `mfcc-mlperf` | 30 ms, 20 ms | 512 | of `tf.signal` | plus 1e-6 |
| `mfcc-wide` | 40 ms, 20 ms | 1024 | of TensorFlow's `mfcc`, to 7600 Hz | floor 1e-12 |

These take 16 kHz, magnitudes (not powers), bands from 20 to 4000 Hz (`mfcc-wide`: to 7600, where
hissing sounds differ), the first ten rows of the cosine transform of type II, all times
sqrt(2/40), and a clip whose largest sample is 1.

For machines, energies in dB of 64 ms every 32 ms, of bands from 0 to 8000 Hz that are narrow below
1 kHz and widen above (Slaney's scale, as librosa has it), as loud as they were recorded:

| name | bands |
|---|---|
| `log-mel-micronets` | 64 |
| `log-mel-mlperf` | 128 |

For a wake word, `log-mel-wake-word`, that of MLPerf Tiny's streaming network: 64 ms every 32 ms,
weighted by a symmetric Hamming window after y(t) = x(t) - 31/32 x(t - 1), 40 bands of `tf.signal`
from 0 to 8000 Hz, of powers over the window's length; -52 dB is 0, 12 dB is 1, beyond is clipped.
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

from zoo.data.sound import SILENCE
from zoo.errors import UnknownNameError


@dataclass(frozen=True, kw_only=True)
class FrontEnd:
    """How waves become features.

    Attributes:
        name: in recipes.
        rate: samples a second.
        window: samples of a frame.
        taper: what weights them: a periodic Hann window, or a symmetric Hamming one.
        preemphasis: share of the sample before that is subtracted from each.
        hop: samples from a frame to the next.
        fft: points of the transform, the frame and zeros after it.
        bands: triangles between `low` and `high` Hz, evenly spaced in mel.
        mel: whose triangles: those of TensorFlow's operator `mfcc`, or of `tf.signal`, on the scale
            1127 ln(1 + f / 700), which differ in which bins count; or Slaney's.
        power: 1 sums magnitudes, 2 powers.
        floor: the least energy before the logarithm, or what is added to it.
        adds: whether `floor` is added.
        coefficients: how many of the cosine transform are kept; 0 gives the bands, in dB.
        span: (low, high) dB of a power per sample that become 0 and 1; None leaves dB as they are.

    """

    name: str
    rate: int = 16000
    window: int
    taper: Literal["hann", "hamming"] = "hann"
    preemphasis: float = 0.0
    hop: int = 320
    fft: int
    bands: int = 40
    low: float = 20.0
    high: float = 4000.0
    mel: Literal["mfcc", "signal", "slaney"]
    power: Literal[1, 2] = 1
    floor: float
    adds: bool
    coefficients: int = 10
    span: tuple[float, float] | None = None

    def frames(self, samples: int) -> int:
        """Return how many whole frames that many samples hold."""
        return max(0, 1 + (samples - self.window) // self.hop)

    @property
    def width(self) -> int:
        """Features of a frame."""
        return self.coefficients or self.bands

    def __call__(self, waves: Tensor, before: Tensor | None = None) -> Tensor:
        """Map waves `(N, samples)` to features `(N, 1, frames, width)` in float32.

        Frames are independent of each other: they are the same numbers in a file and in a stream,
        if a front end with preemphasis gets the sample `before` `(N, 1)` a later piece; None is 0.
        """
        waves = waves.double()
        if self.preemphasis:
            first = waves.new_zeros(len(waves), 1) if before is None else before.double()
            waves = waves - self.preemphasis * torch.cat([first, waves[:, :-1]], 1)
        frames = waves.unfold(1, self.window, self.hop) * _taper(self.taper, self.window)
        spectrum = torch.fft.rfft(frames, self.fft).abs()
        energies = (spectrum.square() if self.power == 2 else spectrum) @ _triangles(self)
        energies = energies + self.floor if self.adds else energies.clamp_min(self.floor)
        if not self.coefficients:
            return self._placed(10 * energies.log10()).float()[:, None]
        return (energies.log() @ _cosines(self)).float()[:, None]

    def _placed(self, decibels: Tensor) -> Tensor:
        """Return dB as they are, or between the ends of the span."""
        if self.span is None:
            return decibels
        low, high = self.span
        return ((decibels - 10 * math.log10(self.window) - low) / (high - low)).clamp(0, 1)


def tables(
    front: FrontEnd,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]:
    """Return what a front end multiplies with.

    Returns:
        The taper `(window,)`, the bands' weights `(fft / 2 + 1, bands)` and the cosines
        `(bands, coefficients)`, or None if it has none.

    """
    cosines = _cosines(front).numpy() if front.coefficients else None
    return _taper(front.taper, front.window).numpy(), _triangles(front).numpy(), cosines


def at_full_scale(waves: Tensor) -> Tensor:
    """Return waves `(N, samples)`, each with a largest sample of 1; silence is left as it is."""
    peak = waves.abs().amax(1, keepdim=True)
    return torch.where(peak < SILENCE, waves, waves / peak.clamp_min(SILENCE))


@functools.cache
def _taper(name: str, size: int) -> Tensor:
    if name == "hamming":
        return torch.hamming_window(size, periodic=False, dtype=torch.float64)
    return torch.hann_window(size, periodic=True, dtype=torch.float64)


def _mel(frequency: NDArray[np.floating] | float) -> NDArray[np.float64]:
    return np.asarray(1127 * np.log1p(np.asarray(frequency) / 700))


def _slaney_hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return frequencies: 200/3 Hz a step up to 1 kHz, from there 27 steps to 6.4 times as much."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))


def _slaney_mel(hertz: float) -> float:
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000, 6.4)


@functools.cache
def _triangles(front: FrontEnd) -> Tensor:
    """Return the weights `(fft / 2 + 1, bands)` of the bins in each band.

    They are linear in mel; Slaney's are linear in Hz, each with an area of 1.
    """
    if front.mel == "slaney":
        ends = _slaney_mel(front.low), _slaney_mel(front.high)
        edges = _slaney_hertz(np.linspace(*ends, front.bands + 2))
        place = np.arange(front.fft // 2 + 1)[:, None] * front.rate / front.fft
        area = (edges[2:] - edges[:-2]) / 2
        return torch.from_numpy(_between(place, edges) / area)
    width = front.rate / front.fft
    bins = np.arange(front.fft // 2 + 1)
    edges = np.linspace(_mel(front.low), _mel(front.high), front.bands + 2)
    place = _mel(bins * width)[:, None]
    weights = _between(place, edges)
    if front.mel == "mfcc":  # only whole bins inside the band, as `MfccMelFilterbank` has it
        outside = (bins < int(1.5 + front.low / width)) | (bins > int(front.high / width))
        weights[outside] = 0
    else:
        weights[0] = 0
    return torch.from_numpy(weights)


def _between(place: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the heights `(places, edges - 2)` of triangles from edge to edge but one."""
    rising = (place - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - place) / (edges[2:] - edges[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


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
            *(
                FrontEnd(
                    name=name, window=1024, hop=512, fft=1024, bands=bands, low=0, high=8000,
                    mel="slaney", power=2, floor=2.0**-52, adds=True, coefficients=0,
                )
                for name, bands in (("log-mel-micronets", 64), ("log-mel-mlperf", 128))
            ),
            FrontEnd(
                name="log-mel-wake-word", window=1024, taper="hamming", preemphasis=31 / 32,
                hop=512, fft=1024, low=0, high=8000, mel="signal", power=2, floor=1e-30,
                adds=False, coefficients=0, span=(-52, 12),
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
