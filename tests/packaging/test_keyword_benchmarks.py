"""The folds and folders of the benchmarks that train networks to hear words."""

import collections
import io
import zipfile

import numpy as np
import pytest
import soundfile

from benchmarks import keywords, kws_digits, kws_own_words
from benchmarks import kws_synthetic as bench


def clip(label, name, seed):
    buffer = io.BytesIO()
    wave = np.random.default_rng(seed).uniform(-0.1, 0.1, 1600)
    soundfile.write(buffer, wave, 16000, format="WAV")
    return keywords.Clip(label, name, buffer.getvalue())


def test_folds_have_a_fifth_of_each_label_and_equal_sounds_together():
    real = [clip(label, f"{n}.wav", (k, n)) for k, label in enumerate("abc") for n in range(21)]
    real += [
        keywords.Clip(label, "again.wav", real[n].content) for label, n in (("a", 3), ("b", 30))
    ]
    parts = bench.folds(real)
    assert sorted(c[:2] for part in parts for c in part) == sorted(c[:2] for c in real)
    for label in "abc":
        counts = [sum(c[0] == label for c in part) for part in parts]
        assert max(counts) - min(counts) <= 2
    for twin in ("a", "b"):
        content = next(c[2] for c in real if c[:2] == (twin, "again.wav"))
        homes = {n for n, part in enumerate(parts) for c in part if c[2] == content}
        assert len(homes) == 1


def test_neural_clips_are_there_three_times_and_only_to_train_on(tmp_path):
    for part in ("train", "val"):
        for name in ("kokoro-0000.wav", "flite-0000.wav"):
            place = tmp_path / "words" / part / "up"
            place.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(clip("up", name, 1)[2])
    out = bench.weighted(tmp_path / "words", tmp_path / "out")
    found = collections.Counter(p.parent.parent.name for p in out.rglob("*kokoro*.wav"))
    assert found == {"train": 3, "val": 1}
    assert len(list(out.rglob("flite*.wav"))) == 2
    kept = bench.some(out, "train", 2)
    assert [name for _, name, _ in kept] == ["made-flite-0000.wav", "made-kokoro-0000.wav"]


def test_the_recipe_says_what_is_special_about_it():
    recipe = bench.recipe("micronet-kws-m", 2)
    assert (recipe.name, recipe.train.seed) == ("micronet-kws-m", 2)
    assert recipe.preprocessing["front_end"] == "mfcc-wide"
    assert recipe.train.options["retakes"] > 0
    assert recipe.default_tag == "synthetic"


@pytest.fixture
def archive(tmp_path):
    """Three takes of two digits by each person."""
    path = tmp_path / "digits.zip"
    with zipfile.ZipFile(path, "w") as made:
        for digit in (0, 7):
            for person in keywords.PEOPLE:
                for take in (0, 5, 20):
                    name = f"{digit}_{person}_{take}.wav"
                    made.writestr(f"recordings/{name}", clip("", name, (digit, take)).content)
    return path


def test_digits_say_who_speaks_and_how_often(archive, tmp_path):
    clips = keywords.digits(archive)
    assert len(clips) == 36
    assert {(c.label, c.person, c.take) for c in clips} == {
        (label, person, take)
        for label in ("zero", "seven")
        for person in keywords.PEOPLE
        for take in (0, 5, 20)
    }
    made = keywords.folder(tmp_path / "made", train=clips[:3], test=clips[3:5])
    assert len(list(made.glob("train/*/*.wav"))) == 3
    assert len(list(made.glob("test/*/*.wav"))) == 2


def test_each_person_is_held_out_once():
    people = [person for pair in kws_digits.PAIRS for person in pair]
    assert sorted(people) == sorted(keywords.PEOPLE)


def test_what_is_judged_was_not_learned(archive, tmp_path, monkeypatch):
    """The clips of a person's words, and of the others', by the folders they are written to."""
    monkeypatch.setattr(kws_own_words, "train", lambda *_, **__: tmp_path / "run")
    monkeypatch.setattr(kws_own_words, "judged", lambda run, data, name: 0.5)
    metrics = {"training": {"steps": 1}}
    monkeypatch.setattr(kws_own_words, "metrics_of", lambda run: metrics)
    clips = keywords.digits(archive)
    kws_own_words.of_person("theo", clips, "micronet-kws-s.synthetic", tmp_path)
    mine, others = tmp_path / "words-of-theo", tmp_path / "words-without-theo"
    names = {part: sorted(p.name for p in mine.glob(f"{part}/*/*")) for part in ("train", "test")}
    assert names["train"] == ["theo_0.wav", "theo_0.wav", "theo_5.wav", "theo_5.wav"]
    assert names["test"] == ["theo_20.wav", "theo_20.wav"]
    assert {p.name.split("_")[0] for p in others.glob("test/*/*")} == {*keywords.PEOPLE} - {"theo"}
