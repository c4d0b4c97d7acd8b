"""Sounds that are worth little, folders that teach nothing, files that are not the named ones.

Each is tried as the command line and the page's tab Listen get it.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import zoo
from zoo.cli import main
from zoo.data import sound
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError, ZooError
from zoo.page import listening
from zoo.page.listening import EXAMPLES, Ears
from zoo.quantization.int8.post_training import quantize
from zoo.tasks import keyword_spotting as task

RATE, NAME = 16000, "micronet-kws-s"
PLAIN = ["--set", "train.precision=no"]  # a process trains in one precision
TRAIN = ["train", NAME, *PLAIN]
Wave = np.ndarray


def speech(gain: float = 1.0) -> Wave:
    wave, rate = soundfile.read(EXAMPLES / "seven.wav", dtype="float32")
    return gain * sound.read(EXAMPLES / "seven.wav", RATE) if rate != RATE else gain * wave


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


@pytest.fixture
def said(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """Write a sound, let a command have it, and return the exit status and all that it says."""

    def run(wave: Wave, *options: str, rate: int = RATE, command: str = "run") -> tuple[int, str]:
        caplog.clear()
        soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
        status = main([command, NAME, str(tmp_path / "a.wav"), *options])
        out = capsys.readouterr()
        return status, out.out + out.err + caplog.text

    return run


Said = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["clip", "stream"])
def test_silence_is_said_to_be_silence(said: Said, options: tuple[str, ...]) -> None:
    status, text = said(np.zeros(RATE), *options)
    assert status == 0
    assert "the sound is silent" in text
    assert "silent" not in said(speech(), *options)[1]


@pytest.mark.parametrize("options", [(), ("--stream",)], ids=["clip", "stream"])
def test_a_clipped_sound_is_said_to_be(said: Said, options: tuple[str, ...]) -> None:
    loud = np.clip(speech() / np.abs(speech()).max() * 20, -1, 1)
    status, text = said(loud, *options)
    assert status == 0
    assert "of the sound is at full scale: it is clipped" in text
    assert "clipped" not in said(speech() / np.abs(speech()).max(), *options)[1]


def test_of_a_long_sound_the_middle_is_heard_and_said_to_be(said: Said) -> None:
    quiet = np.random.default_rng(0).standard_normal(4 * RATE) * 1e-3
    status, text = said(np.concatenate([quiet, speech(), quiet]))
    assert status == 0
    assert "its middle 1 s is heard; add --stream" in text
    assert "middle" not in said(speech())[1]


def test_more_than_two_hours_are_refused_before_they_are_read(said: Said, tmp_path: Path) -> None:
    said(np.zeros(8))
    data = (tmp_path / "a.wav").read_bytes()
    with soundfile.SoundFile(tmp_path / "b.wav", "w", 1000, 1, "PCM_U8") as file:
        for _ in range(73):
            file.write(np.zeros(100_000))
    assert len(data) < 200
    for options in ((), ("--stream",)):
        assert main(["run", NAME, str(tmp_path / "b.wav"), *options]) == 1
    with pytest.raises(ZooError, match=r"is 2.0 hours long; expected at most two"):
        zoo.run(NAME, tmp_path / "b.wav")


def test_a_folder_is_no_sound_and_a_header_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "head.wav").write_bytes(b"RIFF" + struct.pack("<I", 36) + b"WAVE")
    for path, message in ((tmp_path, "is a folder; expected a sound"),
                          (tmp_path / "head.wav", "is not a sound")):  # fmt: skip
        assert main(["run", NAME, str(path)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize("ref", [NAME, "micronet-kws-s.synthetic-int8"], ids=["float", "int8"])
def test_stereo_that_stops_is_what_was_heard_till_then(ref: str) -> None:
    """And, to the last bit, however it is cut: the last bit of a batch depends on its size."""
    model, recipe = zoo.load(ref), zoo.checkpoint(ref).recipe
    quiet = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 1e-3
    wave = np.concatenate([quiet, speech(), quiet])
    patience = {"threshold": 0.2, "refractory_s": 0.2}
    whole = task.follower(model, recipe, **patience).push(wave)
    assert len(whole) > 1
    left_only = np.stack([2 * wave, 0 * wave], 1)  # channels are averaged
    for count in (1, 5, 17):
        stereo = task.follower(model, recipe, **patience)
        pieces = np.array_split(left_only, count)
        assert [d for piece in pieces for d in stereo.push(piece)] == whole
        assert stereo.push(np.zeros((0, 2), np.float32)) == []  # it stopped
        assert stereo.push([]) == []


def folder_of(place: Path, **clips: int) -> Path:
    for label, count in clips.items():
        (place / label).mkdir(parents=True)
        for take in range(count):
            soundfile.write(place / label / f"{take}.wav", speech(0.5 + take / 100), RATE)
    return place


def test_one_word_teaches_nothing_but_beside_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = folder_of(tmp_path / "one", lamp=25)
    assert main([*TRAIN, "--data", str(one), "--out", str(tmp_path / "out")]) == 1
    assert "clips of one word, lamp" in capsys.readouterr().err
    recipe = task.for_data(zoo.find(NAME), str(folder_of(tmp_path / "two", lamp=1, unknown=1)))
    assert recipe.preprocessing["labels"] == ["lamp", "silence", "unknown"]


def test_ten_clips_are_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ten = folder_of(tmp_path / "ten", lamp=5, heater=5)
    assert main([*TRAIN, "--data", str(ten), "--out", str(tmp_path / "out")]) == 1
    assert "has 10 clips; expected 20 or more" in capsys.readouterr().err


def test_labels_that_are_not_the_checkpoints_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = folder_of(tmp_path / "other", lamp=2, heater=2)
    assert main(["evaluate", NAME, "--data", str(other)]) == 1
    error = capsys.readouterr().err
    assert "has the folders heater, lamp; micronet-kws-s expects one for each label" in error


def test_weights_of_another_network_are_no_start_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = folder_of(tmp_path / "words", lamp=12, heater=12)
    command = ["train", "micronet-kws-m", "--from", "micronet-kws-s.fsdd", "--data", str(words)]
    assert main([*command, *PLAIN, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "cannot start from these weights: layers.0.conv.weight: copying" in error
    assert error.count("torch.Size") == 2


def test_a_file_that_is_not_the_named_one_is_said_to_be_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torch.nn.Conv2d(1, 4, 3).eval()
    content = serialize_tflite(quantize(network, [torch.rand(2, 1, 8, 8)], (1, 1, 8, 8)))
    named = tmp_path / "micronet_kws_m_int8.tflite"
    for wrong, message in (
        (content, "is not a file that the zoo knows"),
        (content[:40], "micronet_kws_m_int8.tflite"),
        (b"RIFF", "does not begin like a TFLite file"),
        (b"", "does not begin like a TFLite file"),
    ):
        named.write_bytes(wrong)
        assert main(["import", str(named), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    sounds = tmp_path / "a.wav"
    soundfile.write(sounds, speech(), RATE)
    assert main(["import", str(sounds), "--out", str(tmp_path / "out")]) == 1
    assert "a TFLite file is named .tflite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wave", "rate", "words"),
    [
        (np.zeros(8000), 8000, "the sound is silent"),
        (np.sign(np.sin(np.arange(RATE) / 9)), RATE, "it is clipped"),
        (np.stack([speech()] * 6, 1), RATE, "heard in"),
        (np.zeros(0), RATE, "is empty"),
        (np.full(RATE, np.nan), RATE, "not a number"),
    ],
    ids=["silent", "clipped", "six channels", "empty", "not numbers"],
)
def test_the_page_says_so_too(
    ears: Ears, tmp_path: Path, wave: Wave, rate: int, words: str
) -> None:
    soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
    try:
        found = ears.hear(tmp_path / "a.wav", ears.default)
        text = listening.facts(found, ears.shelf[ears.default])
    except ZooError as error:
        text = str(error)
    assert words in text


def test_of_a_stream_nothing_is_said_to_be_left_out(said: Said) -> None:
    assert "middle" not in said(np.concatenate([speech(), np.zeros(3 * RATE)]), "--stream")[1]


def test_channels_first_are_not_averaged_over_time() -> None:
    with pytest.raises(ZooError, match=r"has 16000 channels; expected .* transpose"):
        zoo.run(NAME, np.zeros((2, 16000), np.float32))


@pytest.mark.parametrize("source", [(RATE, np.ones(9)), [[0.1, 0.2], [0.3]]], ids=["pair", "lists"])
def test_what_has_several_shapes_is_no_sound(source: object) -> None:
    with pytest.raises(ZooError, match="of several shapes is no sound"):
        sound.read(source, RATE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tensor_is_a_sound_whatever_its_type(dtype: torch.dtype) -> None:
    given = torch.linspace(-1, 1, 9).to(dtype).requires_grad_()
    assert np.array_equal(sound.read(given, RATE), given.detach().float().numpy())


def test_a_format_that_cannot_be_sought_in_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "gsm.wav", speech(), RATE, subtype="GSM610")
    found = sound.read(tmp_path / "gsm.wav", RATE)[: len(speech())]
    assert np.corrcoef(found, speech())[0, 1] > 0.9


def test_an_option_that_a_stream_has_not_is_named(said: Said) -> None:
    status, text = said(speech(), "--stream", "--suppression", "nms")
    assert (status, text.count("\n")) == (1, 1)
    assert f"'suppression' is no option of {NAME}; its task takes stride_s, smoothing, thr" in text


def test_the_threshold_and_the_device_reach_a_stream(said: Said) -> None:
    quiet = np.zeros(RATE, np.float32)
    wave = np.concatenate([quiet, speech(), quiet])
    counts = [
        len(zoo.run(NAME, wave, stream=True, threshold=each).detections) for each in (0.05, 0.999)
    ]
    assert counts[0] > counts[1]
    assert "a threshold from 0 to below 1" in said(wave, "--stream", "--threshold", "1.5")[1]
    assert "cuda" in said(wave, "--stream", "--device", "cuda")[1]


def test_a_row_of_a_data_set_is_a_sound_with_its_rate() -> None:
    wave = speech()
    half = {"path": None, "array": wave[::2], "sampling_rate": RATE // 2}
    assert np.array_equal(sound.read({"array": wave, "sampling_rate": RATE}, RATE), wave)
    assert abs(len(sound.read(half, RATE)) - len(wave)) <= 1
    for bad in ({"array": wave}, {"bytes": b""}, {"array": wave, "sampling_rate": 0}):
        with pytest.raises(MismatchError, match="sampling_rate"):
            sound.read(bad, RATE)


def test_floats_beyond_full_scale_are_heard_alike_by_training_and_running(tmp_path: Path) -> None:
    recipe = zoo.find(NAME)
    for name, gain in (("a.wav", 1.0), ("b.wav", 20000.0)):
        wave = speech() / np.abs(speech()).max() * gain
        soundfile.write(tmp_path / name, wave, RATE, subtype="FLOAT")
    clips = task.clips.decoded([(tmp_path / "a.wav", 0), (tmp_path / "b.wav", 0)], recipe)
    assert int((clips.samples[0].int() - clips.samples[1].int()).abs().max()) <= 1
