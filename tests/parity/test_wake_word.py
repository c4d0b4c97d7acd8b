"""Wake words: the front end's formula, streams cut anywhere, the published network, its counts."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import zoo
from zoo.data import frontends
from zoo.data.heard import Detection
from zoo.errors import MismatchError
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.tasks import wake_word

RATE, HOP, WINDOW, FRAMES = 16000, 512, 1024, 30
# Where MLPerf Tiny says that the word is in its wave of ten seconds.
SPANS = [[1.0, 1.647625], [4.0, 4.76175], [7.0, 7.358625]]


def features(wave: NDArray[np.float64]) -> NDArray[np.float64]:
    """The formula of MLPerf Tiny, frame by frame: (frames, 40)."""
    emphasised = wave - (1 - 2**-5) * np.concatenate([[0], wave[:-1]])
    mel = 1127 * np.log(1 + np.arange(1, 513) * RATE / WINDOW / 700)
    edges = np.linspace(0, 1127 * np.log(1 + 8000 / 700), 42)
    rows = []
    for start in range(0, len(wave) - WINDOW + 1, HOP):
        power = np.abs(np.fft.rfft(emphasised[start : start + WINDOW] * np.hamming(WINDOW))) ** 2
        energies = [
            np.interp(mel, edges[k : k + 3], [0, 1, 0]) @ power[1:] / WINDOW for k in range(40)
        ]
        rows.append((10 * np.log10(np.maximum(energies, 1e-30)) + 52) / 64)
    return np.clip(rows, 0, 1)


def test_the_front_end_is_mlperfs_formula() -> None:
    wave = np.random.default_rng(0).normal(0, 0.05, 8000) * np.linspace(0, 1, 8000)
    found = frontends.named("log-mel-wake-word")(torch.from_numpy(wave)[None])[0, 0]
    assert found.shape == (frontends.named("log-mel-wake-word").frames(8000), 40)
    np.testing.assert_allclose(found, features(wave), atol=1e-6)


class Loud(nn.Module):
    """Hears its word wherever the mean feature of the last frame is above a half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(200.0))

    def forward(self, x: Tensor) -> Tensor:
        level = (x[:, :, -1].mean((1, 2)) - 0.5) * self.scale
        return torch.stack([level, torch.zeros_like(level), torch.full_like(level, -99)], 1)


def bursts(*seconds: float, length_s: float = 6.0) -> NDArray[np.float32]:
    """Return silence with a loud hiss of 0.2 seconds at each of some times."""
    wave = np.zeros(int(length_s * RATE), np.float32)
    hiss = np.random.default_rng(1).normal(0, 0.3, RATE // 5)
    for second in seconds:
        start = int(second * RATE)
        wave[start : start + len(hiss)] += hiss
    return wave


def test_a_word_is_detected_once_until_the_refractory_time_is_over() -> None:
    recipe = find("mlperf-tiny-sww")
    found = wake_word.run(Loud(), recipe, bursts(1.5, 2.0, 4.0)).detections
    assert [d.word for d in found] == ["marvin", "marvin"]  # the second hiss came too soon
    assert [d.time_s for d in found] == pytest.approx([1.55, 4.05], abs=0.05)
    assert all(d.probability > 0.95 for d in found)


def test_smoothing_needs_more_than_a_moment() -> None:
    recipe = find("mlperf-tiny-sww")
    slow = zoo.Recipe(**{**vars(recipe), "preprocessing": {**recipe.preprocessing, "smoothing": 9}})
    assert wake_word.run(Loud(), recipe, bursts(2.0)).detections
    assert not wake_word.run(Loud(), slow, bursts(2.0)).detections


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 40_000), max_size=8))
def test_how_a_stream_is_cut_changes_nothing(cuts: list[int]) -> None:
    wave, recipe = bursts(1.2, 1.9, length_s=2.5), find("mlperf-tiny-sww")
    whole = wake_word.Listener(Loud(), recipe).push(wave)
    listener = wake_word.Listener(Loud(), recipe)
    pieces = np.split(wave, sorted(min(cut, len(wave)) for cut in cuts))
    assert [d for piece in pieces for d in listener.push(piece)] == whole
    assert len(whole) == 1


def test_the_same_to_the_last_bit_by_a_real_network() -> None:
    torch.manual_seed(0)
    recipe = find("mlperf-tiny-sww")
    model, wave = build(recipe).eval(), bursts(1.2, 1.9, length_s=2.5)
    whole = list(wake_word.Listener(model, recipe).windows(wave))
    for count in (3, 40):
        listener = wake_word.Listener(model, recipe)
        cut = [each for piece in np.array_split(wave, count) for each in listener.windows(piece)]
        assert [moment for moment, _ in cut] == [moment for moment, _ in whole]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(cut, whole, strict=True))


def test_misses_false_alarms_and_delay_are_counted(tmp_path: Path) -> None:
    """Two words of three, one hiss that is none, and one in the second after a word."""
    soundfile.write(tmp_path / "long.wav", bursts(1.5, 2.3, 4.0, 8.0, length_s=10), RATE)
    times = tmp_path / "long_ww_windows.json"
    times.write_text(json.dumps([[1.5, 1.7], [4.0, 4.2], [6.0, 6.2]]))
    found = wake_word.evaluate(Loud(), find("mlperf-tiny-sww"), tmp_path)
    assert {key: found[key] for key in ("clips", "words", "missed", "false_alarms")} == {
        "clips": 1, "words": 3, "missed": 1, "false_alarms": 1,
    }  # fmt: skip
    assert found["miss_rate"] == pytest.approx(1 / 3)
    assert found["false_alarms_per_hour"] == pytest.approx(360)
    assert 0 < found["delay_s"] < 0.1
    times.write_text("[[1.5]]")
    with pytest.raises(MismatchError, match=r"long_ww_windows.json.*\[beginning, end\]"):
        wake_word.evaluate(Loud(), find("mlperf-tiny-sww"), tmp_path)


def test_what_is_too_short_or_no_sound_is_refused() -> None:
    recipe = find("mlperf-tiny-sww")
    with pytest.raises(MismatchError, match=r"0.50 s long; mlperf-tiny-sww sees 0.99 s"):
        wake_word.run(Loud(), recipe, np.zeros(8000, np.float32))
    listener = wake_word.Listener(Loud(), recipe)
    assert listener.push([]) == []
    with pytest.raises(MismatchError, match="not a number"):
        listener.push(np.array([0.0, np.nan]))


@pytest.mark.data
def test_the_published_network_hears_its_wave(shared_data: Path, tmp_path: Path) -> None:
    """Two of the three words, and nothing else, however the wave is cut."""
    made = zoo.import_tflite(shared_data / "sww/str_ww_ref_model.tflite", tmp_path / "made")
    wave = soundfile.read(shared_data / "sww/short_wav_easy10s.wav", dtype="float32")[0]
    heard = zoo.run(made.path, wave).detections
    assert [d.time_s for d in heard] == pytest.approx([1.408, 5.024])
    soundfile.write(tmp_path / "easy.wav", wave, RATE)
    (tmp_path / "easy_ww_windows.json").write_text(json.dumps(SPANS))
    found = zoo.evaluate(made.path, tmp_path)
    assert (found["missed"], found["false_alarms"]) == (1, 0)
    model = zoo.load(made.path)
    listener, parts = wake_word.Listener(model, made.recipe), list[Detection]()
    for start in range(0, len(wave), 7777):
        parts += listener.push(wave[start : start + 7777])
    assert tuple(parts) == heard
