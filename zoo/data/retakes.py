"""Retakes: a clip as another speaker, room, microphone and street would have given it.

Clips of synthetic voices are clean and alike; what makes a network trained on them hear real people
is mostly what happens here. All of it works on waves `(samples,)` in float32, and is a function of
the wave and the dice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data.sound import Wave, fitted, trimmed

Dice = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Retakes:
    """How far a retake may be from its clip.

    Attributes:
        rate: samples a second.
        samples: of a retake.
        speed: how much faster or slower, of 1; the pitch goes with it.
        shift: seconds that the centre of its energy may be from the middle.
        equalised: the share of retakes through another microphone.
        reverberant: the share in a room.
        clipped: the share that is too loud for its microphone.
        noisy: the share with noise `noise_db` below the voice.
        noise_db: the least and the largest ratio of voice to noise, in dB.
        hiss_db: the ratio of voice to the microphone's own noise, which every retake has: a sound
            without any has features that nothing recorded has.

    """

    rate: int = 16000
    samples: int = 16000
    speed: float = 0.22
    shift: float = 0.12
    equalised: float = 0.85
    reverberant: float = 0.5
    clipped: float = 0.15
    noisy: float = 0.92
    noise_db: tuple[float, float] = (0.0, 40.0)
    hiss_db: float = 60.0

    def of(self, wave: Wave, dice: Dice, speech: Sequence[Wave], recorded: Wave | None) -> Wave:
        """Return a retake `(samples,)` of a clip, its largest sample 1.

        Args:
            wave: the clip.
            dice: chooses everything.
            speech: other clips, of which babble is made.
            recorded: recorded noise, which then takes the place of most of what is made.

        """
        played = _played(trimmed(wave), 1 + dice.uniform(-self.speed, self.speed))
        placed = self._placed(played, dice.uniform(-self.shift, self.shift))
        level = float(np.sqrt(np.mean(played**2)))  # before a room spreads it
        if dice.random() < self.equalised:
            placed = _filtered(placed, equaliser(len(placed), self.rate, dice))
        if dice.random() < self.reverberant:
            placed = _reverberant(placed, self.rate, dice)
        if dice.random() < self.clipped:
            most = float(np.abs(placed).max()) * dice.uniform(0.2, 0.7)
            placed = placed.clip(-most, most)
        # Always: babble has gaps, and no microphone hears nothing at all.
        hiss = _white(len(placed), dice)
        placed = placed + np.float32(level * 10 ** (-self.hiss_db / 20)) * hiss
        if dice.random() < self.noisy:
            below = np.float32(level * 10 ** (-dice.uniform(*self.noise_db) / 20))
            placed = placed + below * self.noise(dice, speech, recorded)
        return _full(placed)

    def silence(self, dice: Dice, recorded: Wave | None) -> Wave:
        """Return noise alone `(samples,)`, its largest sample 1."""
        return _full(self.noise(dice, (), recorded))

    def noise(self, dice: Dice, speech: Sequence[Wave], recorded: Wave | None) -> Wave:
        """Return noise `(samples,)` of unit power: recorded, or of one of five kinds."""
        if recorded is not None and len(recorded) > self.samples and dice.random() < 0.7:
            start = int(dice.integers(len(recorded) - self.samples))
            wave = recorded[start : start + self.samples]
        else:
            kinds = [_coloured, _modulated, _clatter, _hum]
            kind = int(dice.integers(len(kinds) + bool(len(speech))))
            if kind == len(kinds):
                wave = self._babble(dice, speech)
            else:
                wave = kinds[kind](self.samples, self.rate, dice)
            if dice.random() < 0.5:
                wave = _filtered(wave, equaliser(len(wave), self.rate, dice))
        unit: Wave = np.asarray(wave / max(float(np.sqrt(np.mean(wave**2))), 1e-6), np.float32)
        return unit

    def _placed(self, wave: Wave, shift: float) -> Wave:
        """Return the wave between zeros, the centre of its energy `shift` s from the middle."""
        energy = np.cumsum(wave.astype(np.float64) ** 2)
        centre = int(np.searchsorted(energy, energy[-1] / 2)) if len(wave) else 0
        start = self.samples // 2 + round(shift * self.rate) - centre
        # A word that fits is never cut.
        start = min(max(start, min(0, self.samples - len(wave))), max(0, self.samples - len(wave)))
        placed = np.zeros(self.samples, np.float32)
        part = wave[max(0, -start) : self.samples - start]
        placed[max(0, start) : max(0, start) + len(part)] = part
        return placed

    def _babble(self, dice: Dice, speech: Sequence[Wave]) -> Wave:
        """Return three to seven others who talk at once."""
        mixed = np.zeros(self.samples, np.float32)
        for _ in range(int(dice.integers(3, 8))):
            other = speech[int(dice.integers(len(speech)))]
            other = fitted(_played(other, dice.uniform(0.8, 1.25)), self.samples)
            mixed += np.roll(other, int(dice.integers(self.samples))) * dice.uniform(0.3, 1)
        return mixed


def _full(wave: Wave) -> Wave:
    full: Wave = np.asarray(wave / max(float(np.abs(wave).max(initial=0)), 1e-6), np.float32)
    return full


def _played(wave: Wave, factor: float) -> Wave:
    """Return a wave `factor` times as fast, samples between samples on straight lines."""
    places = np.arange(0, len(wave) - 1, factor) if len(wave) > 1 else np.zeros(1)
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def equaliser(samples: int, rate: int, dice: Dice) -> NDArray[np.float32]:
    """Return the gain `(samples / 2 + 1,)` of each frequency: another microphone.

    Seven points along the octaves from 60 Hz, 5 dB around 0, straight lines between; now and then
    with little below 80 to 400 Hz, or above 2.5 to 7 kHz.
    """
    frequencies = np.fft.rfftfreq(samples, 1 / rate).clip(20)
    knots = np.geomspace(60, rate / 2, 7)
    gain_db = np.interp(np.log(frequencies), np.log(knots), dice.normal(0, 5, len(knots)))
    if dice.random() < 0.4:
        gain_db -= 12 * np.log2(dice.uniform(80, 400) / frequencies).clip(0)
    if dice.random() < 0.3:
        gain_db -= 12 * np.log2(frequencies / dice.uniform(2500, 7000)).clip(0)
    return np.asarray(10 ** (gain_db / 20), np.float32)


def _inverse(spectrum: NDArray[Any], samples: int) -> Wave:
    """Return the wave of a spectrum; numpy transforms single precision in single precision."""
    return np.fft.irfft(spectrum, samples).astype(np.float32, copy=False)


def _filtered(wave: Wave, gain: NDArray[np.float32]) -> Wave:
    return _inverse(np.fft.rfft(wave) * gain, len(wave))


def _reverberant(wave: Wave, rate: int, dice: Dice) -> Wave:
    """Return a wave and its echoes, noise that fades by 60 dB in 0.1 to 0.7 s."""
    seconds = dice.uniform(0.1, 0.7)
    moments = np.arange(round(seconds * rate)) / rate
    echoes = _white(len(moments), dice) * 10 ** (-3 * moments / seconds).astype(np.float32)
    echoes[: round(0.002 * rate)] = 0
    echoes *= 10 ** (-dice.uniform(0, 15) / 20) / np.sqrt(np.sum(echoes**2))
    echoes[0] = 1
    size = 1 << (len(wave) + len(echoes) - 1).bit_length()  # quick to transform
    return _inverse(np.fft.rfft(wave, size) * np.fft.rfft(echoes, size), size)[: len(wave)]


# --- noise, of any power --------------------------------------------------------------------------


def _white(samples: int, dice: Dice) -> Wave:
    white: Wave = dice.standard_normal(samples, np.float32)
    return white


def _coloured(samples: int, rate: int, dice: Dice) -> Wave:
    """Return noise with a spectrum like f^-a, a from 0 (white) to 2 (brown)."""
    white = np.fft.rfft(_white(samples, dice))
    fall = np.arange(1, len(white) + 1, dtype=np.float32) ** np.float32(-dice.uniform(0, 2) / 2)
    return _inverse(white * fall, samples)


def _modulated(samples: int, rate: int, dice: Dice) -> Wave:
    """Return coloured noise that swells a few times a second: wind, traffic, waves."""
    wave = _coloured(samples, rate, dice)
    count = int(dice.integers(3, 12))
    swell = 10 ** (dice.uniform(-1.2, 0, count))
    return (wave * np.interp(np.linspace(0, count - 1, samples), np.arange(count), swell)).astype(
        np.float32
    )


def _clatter(samples: int, rate: int, dice: Dice) -> Wave:
    """Return knocks that ring for some hundredths of a second, on a little noise: dishes, keys."""
    wave = _coloured(samples, rate, dice)
    wave *= 0.05 / wave.std()
    for _ in range(int(dice.integers(1, 15))):
        length = int(rate * dice.uniform(0.005, 0.1))
        start = int(dice.integers(samples - length))
        moments = np.arange(length) / rate
        ring = np.sin(2 * np.pi * dice.uniform(300, 6000) * moments) + dice.normal(0, 0.5, length)
        wave[start : start + length] += ring * np.exp(-6 * moments * rate / length) * dice.random()
    return wave


def _hum(samples: int, rate: int, dice: Dice) -> Wave:
    """Return overtones of one pitch, of the mains or of a motor, on a little noise."""
    pitch, moments = dice.choice([50, 60, dice.uniform(30, 300)]), np.arange(samples) / rate
    wave = _coloured(samples, rate, dice)
    wave *= dice.uniform(0.05, 0.5) / wave.std()
    for overtone in range(1, int(dice.integers(3, 20))):
        turns = pitch * overtone * moments + dice.random()
        angles = ((turns - np.floor(turns)) * (2 * np.pi)).astype(np.float32)
        wave += np.sin(angles) * np.float32(dice.random() / overtone)
    return wave
