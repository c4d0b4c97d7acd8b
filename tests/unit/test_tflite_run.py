"""`zoo run` on `.tflite` files: inputs, outputs, labels, normalization, sounds, streams."""

import io
import itertools
import json
import wave
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from tests.parity.test_tflite_recurrent import lstm, streamed
from tests.tflite_files import File, one
from zoo.cli import main
from zoo.deploy import flatbuffer, tflite_metadata
from zoo.deploy.tflite import load_tflite
from zoo.deploy.tflite_run import FrameStream, run_tflite, stream_tflite
from zoo.errors import MismatchError, UnsafeFileError


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 1
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def two(folder: Path) -> Path:
    """A file with two inputs, a and b, and two outputs, sum and product."""
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor(name, (1, 3)) for name in ("a", "b")]
    graph.outputs = [graph.tensor(name, (1, 3)) for name in ("sum", "product")]
    graph.op("ADD", ["a", "b"], ["sum"])
    graph.op("MUL", ["a", "b"], ["product"])
    path = folder / "two.tflite"
    path.write_bytes(file.bytes())
    return path


def test_several_inputs_and_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = two(tmp_path)
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[4, 5, 6]], np.float32)
    np.savez(tmp_path / "named.npz", b=b, a=a)
    np.savez(tmp_path / "placed.npz", a, b)
    for source in ("named.npz", "placed.npz"):
        out = tmp_path / f"out-{source}"
        text = said(capsys, "run", str(path), str(tmp_path / source), "--out", str(out))
        assert "sum: float32 (1, 3)\n" in text
        made = np.load(out)
        np.testing.assert_array_equal(made["sum"], a + b)
        np.testing.assert_array_equal(made["product"], a * b)
    facts = json.loads(said(capsys, "run", str(path), str(tmp_path / "named.npz"), "--json"))
    assert [output["name"] for output in facts["outputs"]] == ["sum", "product"]
    for given in ([a, b], {"a": a, "b": b}):
        np.testing.assert_array_equal(zoo.run(path, given).outputs[1].stored, a * b)
    np.save(tmp_path / "a.npy", a)
    message = refused(capsys, "run", str(path), str(tmp_path / "a.npy"))
    assert "takes 2 inputs: a (1, 3), b (1, 3); give FILE.npz" in message
    out = str(tmp_path / "y.npy")
    message = refused(capsys, "run", str(path), str(tmp_path / "named.npz"), "--out", out)
    assert f"type {tmp_path / 'y.npz'}" in message
    with pytest.raises(MismatchError, match="there is no 'b' among a"):
        zoo.run(path, {"a": a})


def classifier(
    labels: str | None = "cat\ndog\nbird\n", *, name: str = "labels.txt", **more: Any
) -> bytes:
    """Means of the channels of a 2x2 picture, with metadata."""
    file = File()
    graph = file.main
    dtype, *meaning = more.pop("input", ("float32",))
    graph.inputs = [graph.tensor("x", (1, 2, 2, 3), dtype, *meaning)]
    graph.outputs = [graph.tensor("y", (1, 3), dtype, *meaning)]
    graph.constant("axes", np.array([1, 2], np.int32))
    graph.op("MEAN", ["x", "axes"], ["y"])
    unit = {"options_type": 1, "options": more.pop("normalization", None)}
    tensor: dict[str, Any] = {"process_units": [unit] if unit["options"] else None}
    associated = [{"name": name, "type": 2}] if labels is not None else None
    facts = {
        "name": "Colours\nof pictures",
        "license": "CC0",
        "subgraph_metadata": [
            {
                "input_tensor_metadata": [tensor],
                "output_tensor_metadata": [{"associated_files": associated}],
            }
        ],
    }
    content = more.pop("content", flatbuffer.write(facts, tflite_metadata.SCHEMA, b"M001"))
    file.more["metadata"] = [{"name": "TFLITE_METADATA", "buffer": file.buffer(content)}]
    data = file.bytes()
    if labels is None:
        return data
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("labels.txt", labels)
    return data + archive.getvalue()


NORMALIZATION = {
    "mean": np.array([10, 20, 30], np.float32),
    "std": np.array([2, 4, 8], np.float32),
}


def picture(folder: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    pixels = np.array([[[200, 100, 50]] * 2] * 2, np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png", pixels[0, 0]


def test_labels_and_normalization_are_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(normalization=NORMALIZATION))
    source, pixel = picture(tmp_path)
    wanted = (pixel.astype(np.float32) - NORMALIZATION["mean"]) / NORMALIZATION["std"]
    np.testing.assert_allclose(zoo.run(path, source).real[0], wanted)
    assert said(capsys, "run", str(path), str(source)).startswith("cat: 95  dog: 20  bird: 2.5\n")
    facts = json.loads(said(capsys, "run", str(path), str(source), "--json"))
    assert facts["best"][0][0] == {"index": 0, "value": 95.0, "label": "cat"}
    about = tflite_metadata.about(path.read_bytes())
    assert about.texts == {"name": "Colours of pictures", "license": "CC0"}
    shown = said(capsys, "show", str(path))
    assert "Colours of pictures" in shown
    assert "3 labels: cat, dog, bird" in shown
    facts = json.loads(said(capsys, "show", str(path), "--json"))
    assert facts["about"]["labels"] == [["cat", "dog", "bird"]]


def test_uint8_inputs_are_pixels(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    source, pixel = picture(tmp_path)
    for normalization in (None, NORMALIZATION):
        content = classifier(input=("uint8", 1 / 128, 128), normalization=normalization)
        path.write_bytes(content)
        np.testing.assert_array_equal(zoo.run(path, source).output[0], pixel)


def test_metadata_that_are_damaged_or_made_to_harm_are_refused(tmp_path: Path) -> None:
    whole = classifier()
    assert tflite_metadata.about(whole).labels == (("cat", "dog", "bird"),)
    assert tflite_metadata.about(classifier(labels=None)).labels == ((),)
    for content, message in (
        (classifier(name="../../etc/passwd"), "labels '../../etc/passwd' cannot be read"),
        (whole[: whole.index(b"PK\3\4")], "labels 'labels.txt' cannot be read"),
        (classifier("x" * (2**22 + 1)), "have more than 4 MiB"),
        (classifier(content=b"never a FlatBuffers file"), "does not begin like a ModelMetadata"),
        (
            classifier(normalization={**NORMALIZATION, "std": np.zeros(3, np.float32)}),
            "normalization that is not a number",
        ),
        (
            classifier(normalization={**NORMALIZATION, "std": np.ones(2, np.float32)}),
            "normalization that does not fit itself",
        ),
    ):
        with pytest.raises(UnsafeFileError, match=message):
            tflite_metadata.about(content)


def test_what_the_metadata_say_is_not_needed_to_run_on_arrays(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(classifier(normalization={**NORMALIZATION, "mean": np.ones(2, np.float32),
                                               "std": np.ones(2, np.float32)}))  # fmt: skip
    source, _ = picture(tmp_path)
    with pytest.raises(MismatchError, match="metadata normalize 2 channels of 3"):
        zoo.run(path, source)
    assert zoo.run(path, np.ones((1, 2, 2, 3), np.float32)).real.tolist() == [[1, 1, 1]]


def sound(path: Path, samples: np.ndarray[Any, Any], width: int = 2, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return path


def running_sum(folder: Path) -> Path:
    """A float network that adds four samples to what it has added before."""
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor("x", (1, 4))]
    graph.tensor("handle", (), "resource")
    graph.tensor("before", (1, 4))
    graph.outputs = [graph.tensor("y", (1, 4))]
    graph.op("VAR_HANDLE", [], ["handle"], options={"container": "", "shared_name": "s"})
    graph.op("READ_VARIABLE", ["handle"], ["before"])
    graph.op("ADD", ["x", "before"], ["y"])
    graph.op("ASSIGN_VARIABLE", ["handle", "y"], [])
    path = folder / "sum.tflite"
    path.write_bytes(file.bytes())
    return path


def test_sounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = running_sum(tmp_path)
    samples = (np.arange(12) * 1000 - 4000).astype("<i2")
    real = samples.astype(np.float32) / 2**15
    source = sound(tmp_path / "a.wav", samples)
    np.testing.assert_allclose(
        stream_tflite(path, source).real, real.reshape(3, 4).cumsum(0), atol=1e-6
    )
    both = np.stack([samples, samples // 2], 1)
    stereo = sound(tmp_path / "b.wav", both, channels=2)
    np.testing.assert_allclose(
        stream_tflite(path, stereo).real[0], both[:4].mean(1) / 2**15, atol=1e-6
    )
    eight = sound(tmp_path / "c.wav", np.array([0, 128, 255, 64], np.uint8), width=1)
    np.testing.assert_allclose(run_tflite(path, eight).real, [[-1, 0, 127 / 128, -0.5]])
    text = said(capsys, "run", str(path), str(source), "--stream", "--out", f"{tmp_path}/y.npy")
    assert "float32 (3, 4)" in text
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), real.reshape(3, 4).cumsum(0), atol=1e-6)
    (tmp_path / "bad.wav").write_bytes(b"RIFF nothing")
    assert "is not a PCM .wav file" in refused(capsys, "run", str(path), f"{tmp_path}/bad.wav")


@pytest.mark.parametrize("pieces", [(12,), (1,) * 12, (5, 7), (3, 3, 3, 3), (4, 0, 8)])
def test_however_a_stream_is_cut_its_outputs_are_the_same(
    tmp_path: Path, pieces: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (12, 3)).astype(np.int8)
    path = tmp_path / "s.tflite"
    path.write_bytes(streamed().bytes())
    wanted = stream_tflite(path, x).output
    assert wanted.shape == (6, 2, 3)
    network = load_tflite(path)
    by_call = [network(torch.from_numpy(part[None].copy())) for part in x.reshape(6, 2, 3)]
    np.testing.assert_array_equal(wanted, torch.cat(by_call).numpy())
    stream = FrameStream(load_tflite(path))
    starts = np.cumsum((0, *pieces))
    made = [stream.push(x[a:b])[0] for a, b in itertools.pairwise(starts)]
    np.testing.assert_array_equal(torch.cat(made).numpy(), wanted)
    np.testing.assert_array_equal(stream_tflite(path, x.reshape(6, 2, 3)).output, wanted)
    np.testing.assert_array_equal(stream_tflite(path, x[None]).output, wanted)


def test_without_stream_each_sample_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "lstm.tflite"
    path.write_bytes(lstm(0))
    x = np.random.default_rng(0).integers(-128, 128, (4, 3, 7)).astype(np.int8)
    together = run_tflite(path, x).output
    alone = np.concatenate([run_tflite(path, sample).output for sample in x])
    np.testing.assert_array_equal(together, alone)
    assert (stream_tflite(path, x).output != together).any()


def test_what_cannot_be_streamed_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = running_sum(tmp_path)
    np.save(tmp_path / "short.npy", np.ones(3, np.float32))
    message = refused(capsys, "run", str(path), f"{tmp_path}/short.npy", "--stream")
    assert "the source has 3 numbers; a call takes 4" in message
    np.save(tmp_path / "odd.npy", np.ones((5, 2), np.float32))
    message = refused(capsys, "run", str(path), f"{tmp_path}/odd.npy", "--stream")
    assert "of shape (5, 2) is neither inputs (N, 4) nor steps (T, )" in message
    message = refused(capsys, "run", str(two(tmp_path)), f"{tmp_path}/odd.npy", "--stream")
    assert "a stream has one input; the network takes a, b" in message
    message = refused(capsys, "run", "sesr-m5-x2", f"{tmp_path}/odd.npy", "--stream")
    assert "stream is for .tflite files" in message


@pytest.mark.parametrize(
    "given",
    [
        np.zeros((3, 7), np.float32),
        np.zeros((0, 4), np.float32),
        np.array(["a"]),
        np.zeros((1, 4), complex),
        np.full((1, 5), 1000),
    ],
)
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_arrays_that_do_not_fit_say_so_in_one_line(
    given: Any, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meaning = (kind, *(() if kind == "float32" else (0.1, 3)))
    path = tmp_path / "net.tflite"
    path.write_bytes(one("RELU", [((1, 4), *meaning)], [((1, 4), *meaning)], version=2))
    np.save(tmp_path / "x.npy", given)
    message = refused(capsys, "run", str(path), str(tmp_path / "x.npy"))
    assert "x0" in message
    assert "expected" in message


def test_a_nan_has_no_integer(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(one("RELU", [((1, 4), "int8", 0.1, 3)], [((1, 4), "int8", 0.1, 3)], version=2))
    with pytest.raises(MismatchError, match="holds a NaN, which int8 has not"):
        zoo.run(path, np.full((1, 4), np.nan))


def test_of_several_entry_points_the_main_graph_is_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = File()
    for place, kind in enumerate(("RELU", "WHILE")):
        graph = file.main if place == 0 else file.subgraph()
        graph.inputs, graph.outputs = [graph.tensor("x", (1, 3))], [graph.tensor("y", (1, 3))]
        graph.op(kind, ["x"], ["y"])
    keys = [{"signature_key": key, "subgraph_index": i} for i, key in enumerate(("go", "learn"))]
    file.more["signature_defs"] = keys
    path = tmp_path / "net.tflite"
    path.write_bytes(file.bytes())
    assert zoo.run(path, np.array([[-1, 0, 2]], np.float32)).real.tolist() == [[0, 0, 2]]
    assert "entry points: go, learn; the main graph is run" in said(capsys, "show", str(path))
