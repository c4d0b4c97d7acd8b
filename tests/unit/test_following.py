"""Words in a sound without end: how it is cut does not matter, and each is said once."""

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.cli import main
from zoo.data.following import Follower, Patience, followed
from zoo.data.sound import Wave
from zoo.errors import MismatchError, MissingExtraError

RATE, SAMPLES = 1000, 500
LABELS = ("silence", "low", "high")


def judge(waves: Tensor) -> Tensor:
    """Tell apart by the mean: silence near 0, low below, high above."""
    means = waves.mean(1)
    logits = torch.stack([0.2 - means.abs(), -means, means], 1) * 40
    return logits.softmax(1)


def follower(**settings: Any) -> Follower:
    patience = Patience(
        **{"stride_s": 0.1, "smoothing": 2, "threshold": 0.6, "refractory_s": 1.5, **settings}
    )
    return Follower(judge, LABELS, ("silence",), rate=RATE, samples=SAMPLES, patience=patience)


def sound() -> Wave:
    wave = np.zeros(6000, np.float32)
    wave[1000:1600], wave[3000:3600], wave[5000:5600] = 0.9, -0.9, 0.9
    return wave


def test_each_word_is_said_once_and_in_time() -> None:
    found = follower().push(sound())
    assert [each.word for each in found] == ["high", "low", "high"]
    for each, end in zip(found, (1.6, 3.6, 5.6), strict=True):
        assert end - 0.45 <= each.time_s <= end + 0.1
        assert 0.6 < each.probability <= 1


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 1500), max_size=12))
def test_how_a_sound_is_cut_does_not_change_what_is_heard(sizes: list[int]) -> None:
    wave, whole = sound(), follower().push(sound())
    pieces, start = [], 0
    for size in sizes:
        pieces.append(wave[start : start + size])
        start += size
    pieces.append(wave[start:])
    assert list(followed(follower(), pieces)) == whole


def test_the_refractory_time_and_the_threshold_hold_back() -> None:
    long = np.full(3000, 0.9, np.float32)
    assert len(follower(refractory_s=10).push(long)) == 1
    times = [each.time_s for each in follower(refractory_s=0.5).push(long)]
    assert min(np.diff(times)) >= 0.5 - 1e-9
    assert not follower(threshold=0.999999).push(sound() * 0.3)
    assert not follower().push(np.zeros(0, np.float32))
    assert not follower().push(np.zeros(400, np.float32))  # less than a window


@pytest.mark.parametrize(
    "wrong", [{"stride_s": 0}, {"threshold": 1}, {"smoothing": 0}, {"refractory_s": -1}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(MismatchError, match="a stride is above 0"):
        follower(**wrong)


@pytest.fixture
def two_words(tmp_path: Path) -> Path:
    import soundfile

    said = [soundfile.read(f"docs/samples/sounds/{word}.wav") for word in ("two", "seven")]
    rate = said[0][1]
    quiet = np.random.default_rng(0).standard_normal(int(1.5 * rate)) * 1e-3
    wave = np.concatenate([quiet, said[0][0], quiet, said[1][0], quiet])
    soundfile.write(tmp_path / "long.wav", wave, rate)
    return tmp_path / "long.wav"


def test_shipped_digits_are_heard_in_a_long_sound(
    two_words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = zoo.run("micronet-kws-s", two_words, stream=True)
    assert [each.word for each in found.detections][-1] == "seven"
    assert "two" in [each.word for each in found.detections]
    short = zoo.run("micronet-kws-s", "docs/samples/sounds/seven.wav", stream=True)
    assert [each.word for each in short.detections] == ["seven"]
    assert short.detections[0].time_s <= short.sound_s
    out = tmp_path / "heard.json"
    assert main(["run", "micronet-kws-s", str(two_words), "--stream", "--out", str(out)]) == 0
    assert "seven at " in capsys.readouterr().out
    assert '"word": "seven"' in out.read_text()
    with pytest.raises(MismatchError, match="networks that hear words; run sesr-m5-x2 without"):
        zoo.run("sesr-m5-x2", "docs/samples/photos/dogs.jpg", stream=True)


class Stream:
    """A microphone of sounddevice's kind, which plays a wave and is then unplugged."""

    def __init__(self, wave: Wave, error: type[Exception]) -> None:
        self.wave, self.error, self.place = wave, error, 0

    def __call__(self, **options: Any) -> "Stream":
        assert options == {"samplerate": 16000, "channels": 1, "dtype": "float32"}
        return self

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def read(self, count: int) -> tuple[Wave, bool]:
        if self.place >= len(self.wave):
            raise self.error("Device unavailable [PaErrorCode -9985]\nmore")
        self.place += count
        return self.wave[self.place - count : self.place, None], False


def test_a_microphone_is_followed_until_it_stops(
    two_words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zoo.data.sound import read

    error = type("PortAudioError", (Exception,), {})
    wave = read(two_words, 16000)
    fake = types.SimpleNamespace(InputStream=Stream(wave, error), PortAudioError=error)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    assert main(["run", "micronet-kws-s", "microphone", "--stream"]) != 0
    said = capsys.readouterr()
    assert "two at " in said.out
    assert "seven at " in said.out
    assert "no microphone can be heard: Device unavailable [PaErrorCode -9985]; give" in said.err


def test_a_microphone_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.data.sound import microphone

    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"microphone"):
        next(microphone(16000))
