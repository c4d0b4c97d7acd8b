"""Sounds of every kind, and what a folder of them becomes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.data import sound
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry import find
from zoo.tasks import keyword_spotting as task

RATE = 16000
RECIPE = find("micronet-kws-s")


def tone(hertz: float, rate: int = RATE, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def folder_of(place: Path, *labels: str, clips: int = 12) -> Path:
    for number, label in enumerate(labels):
        (place / label).mkdir(parents=True)
        for take in range(clips):
            soundfile.write(place / label / f"{take}.wav", tone(200 + 90 * number + take), RATE)
    return place


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "suffix"),
    [(16000, 1, "PCM_16", "wav"), (44100, 2, "PCM_24", "flac"), (8000, 1, "PCM_U8", "wav"),
     (48000, 6, "FLOAT", "wav"), (22050, 1, "VORBIS", "ogg")],
)  # fmt: skip
def test_any_rate_channels_and_format_is_the_same_sound(
    tmp_path: Path, rate: int, channels: int, subtype: str, suffix: str
) -> None:
    wave = np.repeat(tone(440, rate)[:, None], channels, 1)
    soundfile.write(tmp_path / f"a.{suffix}", wave, rate, subtype=subtype)
    found = sound.read(tmp_path / f"a.{suffix}", RATE)
    assert len(found) == pytest.approx(RATE, abs=40)
    middle = slice(2000, 14000)  # beyond the ends, where the resampler has one side only
    assert np.abs(found[middle] - tone(440)[middle]).max() < 0.03


def test_arrays_of_integers_are_full_scale() -> None:
    wave = np.array([[-32768, -32768], [0, 0], [16384, 16384]], np.int16)
    assert sound.read(wave, RATE).tolist() == [-1.0, 0.0, 0.5]
    assert sound.read(np.array([0, 128, 255], np.uint8), RATE).tolist() == [-1.0, 0.0, 127 / 128]


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    for name, message in (("text.wav", "is not a sound"), ("empty.wav", "is empty"),
                          ("gone.wav", "no such file")):  # fmt: skip
        with pytest.raises(MismatchError, match=message):
            sound.read(tmp_path / name, RATE)
    with pytest.raises(MismatchError, match="not a number"):
        sound.read(np.array([0.0, np.nan]), RATE)
    with pytest.raises(MismatchError, match="is no sound"):
        sound.read(np.zeros((2, 3, 4)), RATE)
    with pytest.raises(MismatchError, match="no sounds in"):
        sound.find(tmp_path.joinpath("none").mkdir() or tmp_path / "none")


def test_a_folder_of_other_words_makes_a_network_for_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "apple", "pear")
    fitted = task.for_data(RECIPE, str(folder))
    assert fitted.preprocessing["labels"] == ["apple", "pear", "silence", "unknown"]
    assert fitted.args["num_classes"] == 4
    own = folder_of(
        tmp_path / "own", *(w for w in RECIPE.preprocessing["labels"] if w != "silence")
    )
    assert task.for_data(RECIPE, str(own)) is RECIPE
    (tmp_path / "few/only").mkdir(parents=True)
    bare = dataclasses.replace(RECIPE, preprocessing={**RECIPE.preprocessing, "labels": ["a", "b"]})
    with pytest.raises(MismatchError, match="expected a folder for each of two words"):
        task.for_data(bare, str(tmp_path / "few"))


def test_other_folders_are_unknown_and_silence_is_made(tmp_path: Path) -> None:
    words = [w for w in RECIPE.preprocessing["labels"] if w not in ("silence", "unknown")]
    folder = folder_of(tmp_path, *words, "house", "tree", clips=4)
    data = task.training_data(RECIPE, str(folder))
    labels = RECIPE.preprocessing["labels"]
    counts = torch.bincount(torch.cat([data.train.labels, data.held_out.labels]), minlength=12)
    assert counts[labels.index("unknown")] == 8
    assert counts[labels.index("silence")] == 0
    _, targets = task.batch(data, RECIPE, 0, range(96), 96)
    assert 1 <= (targets.argmax(1) == labels.index("silence")).sum() <= 24


def test_a_split_step_sees_the_same_clips(tmp_path: Path) -> None:
    data = task.training_data(*(lambda r: (r, str(tmp_path)))(
        task.for_data(RECIPE, str(folder_of(tmp_path, "a", "b")))))  # fmt: skip
    recipe = task.for_data(RECIPE, str(tmp_path))
    whole = task.batch(data, recipe, 3, range(6), 6)
    parts = [task.batch(data, recipe, 3, range(k, k + 2), 6) for k in (0, 2, 4)]
    for both, split in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(both, torch.cat(split))


def test_a_missing_word_and_few_clips_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, "down", "up", clips=2)
    with pytest.raises(MismatchError, match="expects one for each label"):
        task.training_data(RECIPE, str(tmp_path))
    recipe = task.for_data(RECIPE, str(folder_of(tmp_path / "own", "a", "b", clips=2)))
    with pytest.raises(MismatchError, match="has 4 clips"):
        task.training_data(recipe, str(tmp_path / "own"))


def test_an_unknown_front_end_shows_the_known_ones() -> None:
    preprocessing = {**RECIPE.preprocessing, "front_end": "mfcc-micronet"}
    recipe = dataclasses.replace(RECIPE, preprocessing=preprocessing)
    with pytest.raises(UnknownNameError, match="did you mean mfcc-micronets"):
        task.features(torch.zeros(1, 16000), recipe)


def test_own_words_from_the_command_to_a_file(tmp_path: Path) -> None:
    """Train, evaluate, run and export on words of one's own."""
    folder = folder_of(tmp_path / "words", "low", "high")
    small = {"steps": 4, "batch_size": 4, "warmup_steps": 0, "eval_every": 4, "precision": "no"}
    zoo.train("micronet-kws-s", tmp_path / "run", data=str(folder), device="cpu", **small)
    result = zoo.evaluate(tmp_path / "run", folder)
    assert result["clips"] == 24
    said = zoo.run(tmp_path / "run", folder / "low/0.wav")
    assert {label for label, _ in said.best} == {"low", "high", "silence", "unknown"}
    file = zoo.export(
        tmp_path / "run", tmp_path / "a.tflite", format="tflite", int8=True, data=str(folder)
    )
    assert file.path.is_file()


def test_retakes_are_of_every_label_alike_and_the_same_after_a_break(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "few", "many", clips=12)
    for take in range(60):
        soundfile.write(folder / f"many/more{take}.wav", tone(700 + take), RATE)
    recipe = task.for_data(RECIPE, str(folder)).override({"train.options.retakes": 3})
    data = task.training_data(recipe, str(folder))
    inputs, targets = task.batch(data, recipe, 5, range(120), 120)
    counts = torch.bincount(targets.argmax(1), minlength=4)
    assert counts[3] == 0
    assert counts[:3].min() > 20
    other = recipe.override({"train.seed": 1})  # the same retakes, drawn in another order
    assert task.training_data(other, str(folder)).heard is data.heard
    assert not torch.equal(task.batch(data, other, 5, range(120), 120)[0], inputs)
    task.kept.cache_clear()
    fresh = task.training_data(recipe, str(folder))
    assert fresh.heard is not data.heard
    parts = [task.batch(fresh, recipe, 5, range(k, k + 40), 120) for k in (80, 0, 40)]
    again = torch.cat([parts[1][0], parts[2][0], parts[0][0]])
    assert torch.equal(inputs, again)
    assert len(fresh.heard) <= 3 * (len(data.train) + len(data.train) // 4)


def test_what_val_holds_is_held_out_and_judged_as_retakes(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", "a", "b", clips=12)
    folder_of(tmp_path / "val", "a", "b", clips=4)
    recipe = task.for_data(RECIPE, str(tmp_path))
    data = task.training_data(recipe, str(tmp_path))
    assert (len(data.train), len(data.held_out)) == (24, 8)
    again = task.training_data(recipe.override({"train.options.retakes": 2}), str(tmp_path))
    silence = recipe.preprocessing["labels"].index("silence")
    assert again.held_out.labels.tolist() == [*data.held_out.labels.tolist(), silence, silence]
    assert again.facts["held_out"] == 10
    assert not torch.equal(again.held_out.samples[:8], data.held_out.samples)
    assert torch.equal(again.train.samples, data.train.samples)


def test_clips_of_digital_silence_hiss_where_a_network_learned_from_retakes(
    tmp_path: Path,
) -> None:
    """Zeros around a word, and nothing above 4 kHz: features that no retake has."""
    clip = torch.zeros(1, RATE)
    clip[0, 4000:12000] = torch.from_numpy(tone(440)[:8000]).float()
    folder = str(folder_of(tmp_path, "low", "high"))
    plain = task.for_data(RECIPE, folder)
    taught = task.for_data(RECIPE.override({"train.options.retakes": 2}), folder)
    assert torch.equal(task.hissing(clip, plain), clip)
    found = task.hissing(clip, taught)
    assert torch.equal(found, task.hissing(clip, taught))
    level = clip[0, 4000:12000].square().mean().sqrt()
    added = (found - clip).square().mean().sqrt()
    assert 20 * torch.log10(level / added) == pytest.approx(60, abs=0.5)
    coded = task.hissing((clip * 32767).short(), taught)
    torch.testing.assert_close(coded, found, atol=1e-4, rtol=0)
    silence = torch.zeros(1, RATE)
    assert torch.equal(task.hissing(silence, taught), silence)
