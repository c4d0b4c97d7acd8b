"""What the Listen tab shows: words of a sound, whoever asks."""

from pathlib import Path

import numpy as np
import pytest

from zoo.errors import MismatchError
from zoo.page import listening
from zoo.page.listening import EXAMPLES, Ears


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


@pytest.mark.parametrize("word", ["two", "seven"])
def test_examples_are_heard(ears: Ears, word: str) -> None:
    found = ears.hear(EXAMPLES / f"{word}.wav", ears.default)
    assert max(found.likely, key=found.likely.__getitem__) == word
    assert sum(found.likely.values()) == pytest.approx(1, abs=1e-4)
    assert [each.word for each in found.detections] == [word]
    assert 0 <= found.detections[0].time_s <= found.sound_s
    assert f">{word}</li>" in listening.timeline(found)
    ear = ears.shelf[ears.default]
    assert word in listening.facts(found, ear)
    assert f"{ear.weights:,}" in ear.label


def test_a_word_in_a_long_quiet_sound_is_the_loudest_second(ears: Ears, tmp_path: Path) -> None:
    import soundfile

    wave, rate = soundfile.read(EXAMPLES / "seven.wav")
    noise = np.random.default_rng(0).standard_normal(3 * rate) * 1e-4
    soundfile.write(tmp_path / "a.flac", np.concatenate([noise, wave, noise]), rate)
    found = ears.hear(tmp_path / "a.flac", ears.default)
    assert max(found.likely, key=found.likely.__getitem__) == "seven"
    assert any(d.word == "seven" and 3 < d.time_s < 4.5 for d in found.detections)


def test_what_is_no_sound_is_refused_in_one_line(ears: Ears, tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "long.wav", np.zeros(8000 * 61), 8000)
    for name, message in (
        ("text.wav", "is not a sound"),
        ("none.wav", "no such file"),
        ("long.wav", "takes up to a minute"),
    ):
        with pytest.raises(MismatchError, match=message):
            ears.hear(tmp_path / name, ears.default)
    with pytest.raises(MismatchError, match="there is no network 'x'"):
        ears.hear(EXAMPLES / "two.wav", "x")
    soundfile.write(tmp_path / "quiet.wav", np.zeros(16000), 16000)
    assert "No word" in listening.timeline(ears.hear(tmp_path / "quiet.wav", ears.default))
