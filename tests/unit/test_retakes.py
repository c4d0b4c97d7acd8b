"""Retakes: what they keep of a clip, and how far they go."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data import retakes
from zoo.data.retakes import Retakes
from zoo.data.sound import trimmed

RATE = 16000
DRY = {"equalised": 0, "reverberant": 0, "clipped": 0, "noisy": 0, "hiss_db": np.inf}
PLAIN = Retakes(speed=0, shift=0, **DRY)


def word(seconds: float = 0.4, hertz: float = 500, rate: int = RATE) -> np.ndarray:
    moments = np.arange(int(seconds * rate)) / rate
    swell = np.hanning(len(moments))
    return (0.3 * swell * np.sin(2 * np.pi * hertz * moments)).astype(np.float32)


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 40000), st.sampled_from([0.0, 1e-6, 0.5, 1.0]),
    st.booleans(),
)  # fmt: skip
def test_every_clip_gives_a_whole_retake_that_the_dice_repeat(
    seed: int, samples: int, level: float, recorded: bool
) -> None:
    wave = (level * dice(1).uniform(-1, 1, samples)).astype(np.float32)
    noise = dice(2).standard_normal(20000).astype(np.float32) if recorded else None
    first, again = (Retakes().of(wave, dice(seed), [word()], noise) for _ in range(2))
    assert first.shape == (16000,)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() <= 1
    assert np.array_equal(first, again)


def test_a_plain_retake_is_the_word_in_the_middle_at_full_scale() -> None:
    clip = np.concatenate([np.zeros(9000, np.float32), word()])
    found = PLAIN.of(clip, dice(), [], None)
    expected = trimmed(word())
    place = int(np.argmax(np.correlate(found, expected, "valid")))
    part = found[place : place + len(expected) - 1]  # the last sample has no next one
    assert np.allclose(part, expected[:-1] / expected.max(), atol=1e-4)
    assert abs(place + len(expected) / 2 - 8000) < 40


@pytest.mark.parametrize("ratio_db", [0.0, 20.0, 40.0])
def test_noise_is_as_far_below_the_voice_as_it_says(ratio_db: float) -> None:
    noisy = Retakes(
        speed=0, shift=0, equalised=0, reverberant=0, clipped=0, noisy=1,
        noise_db=(ratio_db, ratio_db),
    )  # fmt: skip
    clean = PLAIN.of(word(), dice(), [], None)
    recorded = dice(5).standard_normal(64000).astype(np.float32)  # uncorrelated with the tone
    heard = noisy.of(word(), dice(9), [], recorded).astype(np.float64)
    scale = heard @ clean / (clean @ clean)
    noise = heard / scale - clean
    span = trimmed(clean)
    found = 10 * np.log10(np.mean(span**2) / np.mean(noise**2))
    assert found == pytest.approx(ratio_db, abs=1.0)


def test_nothing_is_as_quiet_as_no_recording_is() -> None:
    quiet = Retakes(equalised=0, reverberant=0, clipped=0, noisy=0)
    found = quiet.of(word(), dice(), [], None)
    assert 1e-4 < found[:1000].std() < 2e-3


def test_gaps_in_babble_are_not_silent() -> None:
    """A frame of zeros has a cepstrum four times as far out as anything recorded."""
    from zoo.data import frontends

    clip = word()
    babble = [np.pad(word(0.05, 300 + 50 * n), (8000, 7000)) for n in range(3)]
    waves = [Retakes(noisy=1).of(clip, dice(seed), babble, None) for seed in range(40)]
    loudness = frontends.named("mfcc-wide")(torch.from_numpy(np.stack(waves)))[..., 0]
    assert loudness.min() > -150


def test_speeds_and_places_reach_as_far_as_they_may_and_no_farther() -> None:
    moved = Retakes(**DRY)
    pitches, centres = [], []
    for seed in range(60):
        found = moved.of(word(), dice(seed), [], None).astype(np.float64)
        pitches.append(np.argmax(np.abs(np.fft.rfft(found))) / 500)
        centres.append(((found**2) @ np.arange(16000) / (found @ found) - 8000) / RATE)
    assert 0.77 <= min(pitches) < 0.83
    assert 1.17 < max(pitches) <= 1.23
    assert -0.125 < min(centres) < -0.09
    assert 0.09 < max(centres) < 0.125


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.75))
def test_a_word_that_fits_is_never_cut(seed: int, seconds: float) -> None:
    far = Retakes(
        speed=0.2, shift=0.5, equalised=0, reverberant=0, clipped=0, noisy=0, hiss_db=np.inf
    )
    found = far.of(word(seconds), dice(seed), [], None)
    assert found[0] == 0 or found[-1] == 0
    assert len(trimmed(found, -60)) >= len(trimmed(word(seconds), -35)) / 1.21 - 2


@pytest.mark.parametrize("kind", ["_coloured", "_modulated", "_clatter", "_hum"])
def test_noise_of_each_kind_is_noise_and_differs(kind: str) -> None:
    make = getattr(retakes, kind)
    waves = [make(16000, RATE, dice(seed)) for seed in range(6)]
    assert all(w.shape == (16000,) and np.isfinite(w).all() and w.std() > 0 for w in waves)
    assert not np.array_equal(waves[0], waves[1])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_has_unit_power_with_and_without_babble(seed: int) -> None:
    for speech in ([], [word(), word(0.8, 900)]):
        noise = Retakes().noise(dice(seed), speech, None)
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, rel=1e-3)


def test_a_room_adds_echoes_that_fade() -> None:
    click = np.zeros(16000, np.float32)
    click[100] = 1
    found = retakes._reverberant(click, RATE, dice(3))
    assert found[100] == pytest.approx(1, abs=1e-3)
    assert np.abs(found[:100]).max() < 1e-3
    early, late = (np.mean(found[a : a + 800] ** 2) for a in (140, 3340))
    assert early > 10 * late
    assert np.abs(found[100 + round(0.7 * RATE) :]).max() < 1e-3


def test_trimming_keeps_what_is_heard_and_an_edge() -> None:
    wave = np.zeros(1000, np.float32)
    wave[400:500] = 1
    assert len(trimmed(wave)) == 100
    assert len(trimmed(wave, edge=30)) == 160
    assert len(trimmed(wave, edge=5000)) == 1000
    assert len(trimmed(np.zeros(10, np.float32))) == 10
