"""The folds and folders of the benchmark that trains on synthetic words and judges on real ones."""

import collections
import io

import numpy as np
import soundfile

from benchmarks import kws_synthetic as bench


def clip(label, name, seed):
    buffer = io.BytesIO()
    wave = np.random.default_rng(seed).uniform(-0.1, 0.1, 1600)
    soundfile.write(buffer, wave, 16000, format="WAV")
    return label, name, buffer.getvalue()


def test_folds_have_a_fifth_of_each_label_and_equal_sounds_together():
    real = [clip(label, f"{n}.wav", (k, n)) for k, label in enumerate("abc") for n in range(21)]
    real += [("a", "again.wav", real[3][2]), ("b", "again.wav", real[30][2])]
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
    recipe = bench.recipe()
    assert recipe.preprocessing["front_end"] == "mfcc-wide"
    assert recipe.train.options["retakes"] > 0
    assert recipe.default_tag == "synthetic"
