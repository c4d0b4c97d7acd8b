"""Machines that sound wrong: what clips and arrays become, scores by hand, refusals."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn

import zoo
from zoo.data import frontends, machines, sound
from zoo.errors import MismatchError
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.tasks import anomaly_detection as task

RATE = 16000
ENCODER, CLASSIFIER = find("mlperf-tiny-ad"), find("micronet-ad-s")
FRONT = frontends.named("log-mel-mlperf")


def hum(hertz: float, seconds: float = 2.5, noise: float = 0.01, seed: int = 0) -> NDArray[Any]:
    moments = np.arange(int(RATE * seconds)) / RATE
    dice = np.random.default_rng(seed)
    wave = 0.3 * np.sin(2 * np.pi * hertz * moments) + dice.normal(0, noise, len(moments))
    return wave.astype(np.float32)


def write(path: Path, wave: NDArray[Any], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype="FLOAT")
    return path


def folder_of(place: Path, *names: str, clips: int = 3, anomalies: int = 1) -> Path:
    for number, name in enumerate(names):
        for take in range(clips + anomalies):
            wrong = take >= clips
            kind = "anomaly" if wrong else "normal"
            wave = hum(200 + 150 * number, noise=0.1 if wrong else 0.01, seed=take)
            write(place / f"{kind}_id_{name}_{take:08}.wav", wave)
    return place


class Half(nn.Module):
    """Gives half of what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/normal_id_01_00000007.wav", ("01", False)),
        ("test/anomaly_id_12_00000007.flac", ("12", True)),
        ("6_dB_slider/id_04/normal/00000000.wav", ("04", False)),
        ("id_04/abnormal/00000000.wav", ("04", True)),
    ],
)
def test_names_and_folders_tell_machine_and_truth(path: str, expected: tuple[str, bool]) -> None:
    assert machines.told(Path(path)) == expected


@pytest.mark.parametrize("path", ["clip.wav", "normal/01.wav", "id_01/wrong/0.wav"])
def test_what_does_not_tell_is_refused(path: str) -> None:
    with pytest.raises(MismatchError, match=r"does not say which machine.*normal_id_01_00000000"):
        machines.told(Path(path))


def test_a_file_a_wave_and_energies_have_one_score(tmp_path: Path) -> None:
    wave = hum(300)
    torch.manual_seed(0)
    model = build(ENCODER).eval()
    energies = FRONT(torch.from_numpy(wave)[None])[0, 0].numpy().T
    write(tmp_path / "a.wav", wave)
    given: tuple[Any, ...] = (tmp_path / "a.wav", wave, wave[:, None], energies)
    said = [task.run(model, ENCODER, source) for source in given]
    assert len({one.score for one in said}) == 1
    assert said[0].windows == energies.shape[1] - 4
    assert "machine" not in said[0].text


def test_a_long_sound_is_that_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    wave = hum(300, seconds=4)
    whole = machines.spectrogram(wave, FRONT, 5)
    monkeypatch.setattr(machines, "_PART", 10 * FRONT.hop)
    assert torch.equal(machines.spectrogram(wave, FRONT, 5), whole)
    assert whole.shape == (FRONT.frames(len(wave)), 128)


def test_scores_are_mean_squares_in_decibels() -> None:
    """Of a network that halves what it sees: half of each normalized energy is its error."""
    energies = np.random.default_rng(0).normal(-40, 10, (128, 30)).round(0).astype(np.float32)
    windows = np.stack([energies.T[k : k + 5].reshape(640) for k in range(26)])
    half = (windows + 30) / 2
    of_window = dataclasses.replace(
        ENCODER, preprocessing={**ENCODER.preprocessing, "residual": "window"}
    )
    found = task.run(Half(), of_window, energies).score
    assert found == pytest.approx((half**2).mean(), rel=1e-6)
    found = task.run(Half(), ENCODER, energies).score
    assert found == pytest.approx((half.mean(0) ** 2).mean(), rel=1e-6)


def test_a_classifier_scores_the_machine_that_the_name_tells(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build(CLASSIFIER).eval()
    energies = np.random.default_rng(0).normal(-40, 10, (64, 84)).astype(np.float32)
    pictures = np.stack(
        [energies.T[k : k + 64].reshape(32, 2, 32, 2).mean((1, 3)) for k in (0, 20)]
    )
    with torch.no_grad():
        logits = model(torch.from_numpy(pictures + 30)[:, None])
    expected = -logits.log_softmax(1).mean(0)
    said = task.run(model, CLASSIFIER, energies)
    assert said.score == pytest.approx(float(expected.min()), abs=2e-3)
    assert said.machine == CLASSIFIER.preprocessing["labels"][int(expected.argmin())]
    file = write(tmp_path / "normal_id_06_1.wav", hum(300))
    assert "as machine 06" in task.run(model, CLASSIFIER, file).text


def test_twice_the_bands_are_averaged_in_pairs() -> None:
    """Nearly what a front end of half as many hears: its triangles are wider, not the same."""
    wave = torch.from_numpy(hum(440, noise=0.1))[None]
    front = frontends.named("log-mel-micronets")
    own, wide = front(wave)[0, 0], FRONT(wave)[0, 0]
    powers = 10 ** (wide.double() / 10)
    expected = 10 * torch.log10((powers[:, ::2] + powers[:, 1::2]) / 2)
    found = machines.spectrogram(wide.numpy().T, front, 64)
    assert torch.allclose(found.double(), expected, atol=1e-4)
    assert (found - own).abs().median() < 1.5


def test_arrays_are_read_as_files_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sounds", "01", "02")
    files = sound.find(folder)
    spectrograms = [machines.spectrogram(file, FRONT, 5).numpy().T for file in files]
    told = [machines.told(file) for file in files]
    np.savez(
        tmp_path / "all.npz",
        spectrograms=np.stack(spectrograms),
        machines=[machine for machine, _ in told],
        anomalies=[wrong for _, wrong in told],
    )
    first, second = (machines.read(p, FRONT, 5) for p in (folder, tmp_path / "all.npz"))
    assert torch.equal(first.frames, second.frames)
    assert first.machines == second.machines
    assert first.anomalies.tolist() == second.anomalies.tolist()
    assert machines.machines(tmp_path / "all.npz") == ["01", "02"]


def test_a_split_step_sees_the_same_windows(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "00", "02", "04", "06")
    for recipe in (ENCODER, CLASSIFIER):
        data = task.training_data(recipe, str(folder))
        assert len(data.held_out) == 4
        assert len(data.train) == 8
        whole = task.batch(data, recipe, 3, range(6), 6)
        parts = [task.batch(data, recipe, 3, range(k, k + 2), 6) for k in (0, 2, 4)]
        for both, split in zip(whole, zip(*parts, strict=True), strict=True):
            assert torch.equal(both, torch.cat(split))


def test_targets_of_a_mixture_are_its_shares(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "00", "02", "04", "06")
    recipe = CLASSIFIER.override({"train.options.mixup": 1.0})
    data = task.training_data(recipe, str(folder))
    _, targets = task.batch(data, recipe, 0, range(32), 32)
    assert torch.allclose(targets.sum(1), torch.ones(32))
    assert ((targets > 0).sum(1) == 2).any()
    plain = recipe.override({"train.options.mixup": 0.0})
    _, targets = task.batch(data, plain, 0, range(32), 32)
    assert targets.max(1).values.eq(1).all()


def test_data_name_the_classes_of_a_classifier_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "a", "b", "c", clips=1, anomalies=0)
    fitted = task.for_data(CLASSIFIER, str(folder))
    assert fitted.preprocessing["labels"] == ["a", "b", "c"]
    assert fitted.args["num_classes"] == 3
    assert task.for_data(ENCODER, str(folder)) is ENCODER
    alone = folder_of(tmp_path / "one", "07", clips=2, anomalies=0)
    with pytest.raises(MismatchError, match=r"one machine, 07.*zoo train mlperf-tiny-ad"):
        task.for_data(CLASSIFIER, str(alone))


def test_machines_without_anomalies_are_left_out_of_the_means(tmp_path: Path) -> None:
    folder_of(tmp_path, "01", clips=4, anomalies=2)
    folder_of(tmp_path, "02", clips=2, anomalies=0)
    result = task.evaluate(build(ENCODER).eval(), ENCODER, tmp_path)
    assert [row["machine"] for row in result["per_machine"]] == ["01"]
    for key in ("auc", "pauc", "normal_95"):
        assert result[key] == result["per_machine"][0][key]
    assert result["clips"] == 8
    (tmp_path / "normal").mkdir()
    normal = folder_of(tmp_path / "normal", "01", anomalies=0)
    with pytest.raises(MismatchError, match="no machine has both normal and anomalous clips"):
        task.evaluate(build(ENCODER).eval(), ENCODER, normal)


def test_what_cannot_be_judged_is_refused_in_a_line(tmp_path: Path) -> None:
    model = build(ENCODER).eval()
    given: list[tuple[Any, str]] = [
        (np.zeros(RATE, np.float32), "the array is silent"),
        (write(tmp_path / "silent.wav", np.zeros(RATE)), "silent.wav is silent"),
        (write(tmp_path / "empty.wav", np.zeros(0)), "empty.wav is empty"),
        (hum(300, seconds=0.1), "has 2 frames; expected 5 or more, 0.19 s of sound"),
        (np.zeros((128, 3), np.float32), "has 3 frames; expected 5"),
        (np.full((128, 9), np.nan, np.float32), "energy that is not a number"),
        (tmp_path / "gone.wav", "no such file"),
    ]
    for source, message in given:
        with pytest.raises(MismatchError, match=message) as caught:
            task.run(model, ENCODER, source)
        assert "\n" not in str(caught.value)
    with pytest.raises(MismatchError, match="machine 99 is not one that micronet-ad-s learned: 00"):
        task.run(build(CLASSIFIER), CLASSIFIER, write(tmp_path / "normal_id_99_0.wav", hum(300)))


def test_data_that_cannot_be_learned_from_are_refused(tmp_path: Path) -> None:
    only = folder_of(tmp_path / "only", "01", clips=0, anomalies=2)
    with pytest.raises(MismatchError, match="has no normal clips"):
        task.training_data(ENCODER, str(only))
    few = folder_of(tmp_path / "few", "01", clips=1, anomalies=0)
    with pytest.raises(MismatchError, match="one normal clip of machine 01"):
        task.training_data(ENCODER, str(few))
    (tmp_path / "arrays").mkdir()
    file = tmp_path / "arrays/train.npz"
    two = {"spectrograms": np.zeros((2, 128, 9)), "machines": ["1", "2"]}
    for arrays, message in (
        ({**two, "anomalies": ["0", "1"]}, r"anomalies of \(2,\) <U1"),
        ({**two, "machines": [["1", "2"]]}, r"machines of \(1, 2\)"),
        ({"spectrograms": np.zeros((2, 128, 9))}, "has no machines"),
        (
            {"spectrograms": np.zeros((2, 9)), "machines": ["1", "2"]},
            r"has spectrograms of \(2, 9\)",
        ),
        ({"spectrograms": np.zeros((2, 128, 9)), "machines": ["1"]}, "2 spectrograms, 1 machines"),
        ({"spectrograms": np.zeros((2, 100, 9)), "machines": ["1", "2"]}, "has 100 bands"),
    ):
        np.savez(file, **arrays)  # type: ignore[arg-type]
        with pytest.raises(MismatchError, match=message):
            task.training_data(ENCODER, str(tmp_path / "arrays"))
    file.write_bytes(b"PK no archive")
    with pytest.raises(MismatchError, match="cannot be read"):
        task.training_data(ENCODER, str(tmp_path / "arrays"))


def test_another_rate_is_resampled_with_a_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound._note.cache_clear()
    files = [write(tmp_path / f"{k}.wav", hum(300)[::2], RATE // 2) for k in range(2)]
    with caplog.at_level(logging.WARNING, "zoo"):
        for file in files:
            assert len(sound.read(file, RATE)) == pytest.approx(2.5 * RATE, abs=40)
    (line,) = caplog.messages
    assert line == (
        "sounds of 8000 Hz are resampled to 16000 Hz; above 4000 Hz there is nothing to hear"
    )


def test_from_the_command_to_a_file(tmp_path: Path) -> None:
    """Train, evaluate, run and export on machines of one's own."""
    folder = folder_of(tmp_path / "machines", "01", "02", clips=4)
    small = {"steps": 4, "batch_size": 4, "warmup_steps": 0, "eval_every": 4, "device": "cpu"}
    for name in ("mlperf-tiny-ad", "micronet-ad-s"):
        made = zoo.train(name, tmp_path / name, data=str(folder), **small)
        assert made.metrics["held_out"]["score"] > 0
        result = zoo.evaluate(tmp_path / name, folder)
        assert result["clips"] == 10
        assert 0 <= result["pooled_auc"] <= 1
        assert zoo.run(tmp_path / name, folder / "normal_id_01_00000000.wav").score > 0
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "No weights trained on ToyCar are shipped" in card
        file = zoo.export(
            tmp_path / name, tmp_path / "a.tflite", format="tflite", int8=True, data=str(folder)
        )
        assert file.path.is_file()
