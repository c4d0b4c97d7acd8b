"""The verbs on `.tflite` files: export, load, run, show, estimate."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.cli import main
from zoo.deploy.carray import write_c_array
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_write import write_tflite
from zoo.errors import MismatchError
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 3)]
    module = nn.Sequential(*layers).eval()
    graph = quantize(module, [torch.rand(8, 1, 16, 16)], (1, 1, 16, 16))
    return write_tflite(graph, tmp_path_factory.mktemp("files") / "net.tflite")


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_load_gives_the_files_integers(classifier: Path) -> None:
    module = zoo.load(classifier)
    output = module(torch.zeros(5, 16, 16, 1, dtype=torch.int8))
    assert (output.dtype, output.shape) == (torch.int8, (5, 3))


def test_run_takes_pictures_and_arrays(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.arange(32 * 32, dtype=np.uint8).reshape(32, 32)
    Image.fromarray(picture).save(tmp_path / "a.png")
    facts = json.loads(said(capsys, "run", str(classifier), str(tmp_path / "a.png"), "--json"))
    assert facts["shape"] == [1, 3]
    assert [item["value"] for item in facts["best"][0]] == sorted(
        (item["value"] for item in facts["best"][0]), reverse=True
    )
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 1), np.int8))
    text = said(
        capsys, "run", str(classifier), str(tmp_path / "x.npy"), "--out", str(tmp_path / "y.npy")
    )
    assert "int8 (2, 3)" in text
    wanted = zoo.load(classifier)(torch.zeros(2, 16, 16, 1, dtype=torch.int8))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), wanted.numpy())


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 1, "int8"), (-1, 1, "int8"), (0, 255, "int8"), (0, 1, "int16"), (0, 255, "int16")],
)
def test_pixels_are_in_the_range_of_the_input(
    low: float, high: float, dtype: Literal["int8", "int16"], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 36, 3)).eval()
    inputs = low + (high - low) * torch.rand(8, 1, 8, 8)
    graph = quantize(module, [inputs], (1, 1, 8, 8), Options(activations=dtype))
    file = write_tflite(graph, tmp_path / "net.tflite")
    pixels = np.linspace(0, 255, 64).astype(np.uint8).reshape(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    real = low + (high - low) * pixels.reshape(1, 8, 8, 1).astype(np.float32) / 255
    wanted, given = zoo.run(file, real), zoo.run(file, tmp_path / "a.png")
    assert np.abs(wanted.real - given.real).max() <= 2 * np.abs(wanted.real).max() / 127


def test_show_lists_operators_and_totals(
    classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "show", str(classifier))
    assert "conv2d+relu" in text
    assert f"{classifier.stat().st_size:,} bytes, {4 * 49 * 9 + 4 * 49 * 3:,} MACs" in text
    facts = json.loads(said(capsys, "show", str(classifier), "--json"))
    assert [op["kind"] for op in facts["ops"]] == ["conv2d+relu", "reshape", "fully_connected"]


def test_estimate_reads_files(classifier: Path) -> None:
    cost = zoo.estimate(classifier, "stm32f746-216mhz-cmsisnn")
    assert cost.macs == 4 * 49 * 9 + 4 * 49 * 3
    assert cost.parameters["weights"] == 36 + 588


def small_checkpoint(folder: Path) -> None:
    """Write a checkpoint `c` and a folder `pictures` with one of them."""
    torch.manual_seed(0)
    facts = find("sesr-m3-x2").to_json() | {"input_shape": [1, 1, 24, 32]}
    recipe = Recipe.from_json(facts)
    Checkpoint.write(folder / "c", recipe, build(recipe).state_dict(), {})
    picture = np.random.default_rng(0).integers(0, 256, (100, 120, 3), np.uint8)
    (folder / "pictures").mkdir()
    Image.fromarray(picture).save(folder / "pictures" / "a.png")


def test_int16_and_integer_onnx_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_checkpoint(tmp_path)
    arguments = ["export", f"{tmp_path}/c", "--data", f"{tmp_path}/pictures", "--out"]
    said(capsys, *arguments, f"{tmp_path}/w.tflite", "--format", "tflite", "--int16")
    shown = json.loads(said(capsys, "show", f"{tmp_path}/w.tflite", "--json"))
    assert {op["dtype"] for op in shown["ops"]} == {"int16"}
    outcome = zoo.run(tmp_path / "w.tflite", np.full((24, 32, 1), 0.5, np.float32))
    assert (outcome.output.dtype, outcome.output.shape) == (np.int16, (1, 48, 64, 1))
    pytest.importorskip("onnxruntime")
    text = said(capsys, *arguments, f"{tmp_path}/q.onnx", "--int8")
    assert "within 1 step of the int8 reference" in text


@pytest.mark.parametrize("npu", [False, True])
def test_export_of_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], npu: bool
) -> None:
    small_checkpoint(tmp_path)
    said(
        capsys, "export", str(tmp_path / "c"), "--format", "tflite", "--out", f"{tmp_path}/f.tflite"
    )
    assert zoo.load(tmp_path / "f.tflite")(torch.rand(2, 24, 32, 1)).shape == (2, 48, 64, 1)
    out = tmp_path / "net.tflite"
    options = ["--format", "tflite", "--int8", "--out", str(out), *["--npu"] * npu]
    assert main(["export", str(tmp_path / "c"), *options]) == 1  # nothing to learn ranges from
    assert "add --data DIR" in capsys.readouterr().err
    options += ["--data", str(tmp_path / "pictures")]
    text = said(capsys, "export", str(tmp_path / "c"), *options)
    assert f"{out.stat().st_size} bytes" in text
    shown = json.loads(said(capsys, "show", str(out), "--json"))
    kinds = [op["kind"] for op in shown["ops"]]
    assert ("depth_to_space" in kinds) is not npu
    assert kinds.count("conv2d") == 5
    assert sum(op["macs"] for op in shown["ops"]) == shown["macs"] == 24 * 32 * 8912


def test_ranges_are_learned_from_a_data_set_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'train'")
    small_checkpoint(tmp_path)
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "pictures" / "a.png")]})
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or rows)
    command = ["export", f"{tmp_path}/c", "--format", "tflite", "--int8", "--out"]
    said(capsys, *command, f"{tmp_path}/a.tflite", "--data", f"{tmp_path}/pictures")
    said(capsys, *command, f"{tmp_path}/b.tflite", "--data", "some/photos")
    assert asked == [(("some/photos",), {"split": "train"})]
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main([*command, "c.tflite", "--data", "./some/photos"]) == 1  # a folder, not on the Hub
    assert "no such folder" in capsys.readouterr().err
    assert len(asked) == 1


INT8 = "sesr-m5-x2.bsds-int8"


def test_a_network_trained_for_int8_in_every_format_and_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", INT8, "--int8", "--shape", "1,1,24,32"]
    said(capsys, *command, "--format", "tflite", "--out", f"{tmp_path}/n.tflite")
    x = torch.rand(1, 1, 24, 32)
    outcome = zoo.run(tmp_path / "n.tflite", x[0].permute(1, 2, 0).numpy())
    wanted = zoo.load(INT8)(x)
    np.testing.assert_array_equal(outcome.real[0, :, :, 0], wanted[0, 0].numpy())
    said(capsys, *command, "--format", "c", "--out", f"{tmp_path}/n.h")
    numbers = re.findall(r"0x(..),", (tmp_path / "n.h").read_text())
    assert bytes.fromhex("".join(numbers)) == (tmp_path / "n.tflite").read_bytes()
    runtime = pytest.importorskip("onnxruntime")
    said(capsys, *command, "--format", "onnx", "--out", f"{tmp_path}/n.onnx")
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    session = runtime.InferenceSession(str(tmp_path / "n.onnx"), settings)
    (given,) = session.run(None, {"input": x.numpy()})
    meaning = 1 / 255  # of a clamp to [0, 1]
    assert np.abs(given - wanted.numpy()).max() < 4.1 * meaning
    assert (
        np.abs(given - wanted.numpy()).mean() < 0.5 * meaning
    )  # a step at most in each of 15 layers


def test_shapes_that_do_not_fit_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for shape, message in (("1,3,8,8", "in 'first'"), ("1,1,-1,8", "expected whole numbers")):
        command = ["export", INT8, "--int8", "--format", "tflite", f"--shape={shape}"]
        assert main([*command, "--out", f"{tmp_path}/n.tflite"]) == 1
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_c_array_holds_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) + b"end"
    text = write_c_array(content, tmp_path / "2-my model.h").read_text()
    assert "alignas(16) static const unsigned char model_2_my_model[] = {" in text
    numbers = re.findall(r"0x(..),", text)
    assert bytes.fromhex("".join(numbers)) == content
    compiler = shutil.which("cc")
    if compiler:
        source = tmp_path / "a.c"
        source.write_text(f"{text}int main(void) {{ return (int)(model_2_my_model_size != 259); }}")
        program = str(tmp_path / "a")
        subprocess.run(
            [compiler, "-std=c11", "-Wall", "-Werror", str(source), "-o", program], check=True
        )
        subprocess.run([program], check=True)


@pytest.mark.parametrize(
    ("stem", "name"),
    [("net", "net"), ("for", "model_for"), ("сеть", "model"), ("_x", "model_x"), ("1", "model_1")],
)
def test_c_array_has_a_name_that_is_free_in_c(tmp_path: Path, stem: str, name: str) -> None:
    text = write_c_array(b"x", tmp_path / f"{stem}.h").read_text()
    assert f" {name}[] = {{" in text
    assert f" {name}_size = sizeof({name});" in text


def test_impossible_wishes_are_refused(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="format='tflite'"):
        zoo.export("sesr-m3-x2", tmp_path / "a.onnx", int16=True)
    with pytest.raises(MismatchError, match="exclude each other"):
        zoo.export("sesr-m3-x2", tmp_path / "a.tflite", format="tflite", int8=True, int16=True)
    with pytest.raises(MismatchError, match="add --data DIR"):
        zoo.export("sesr-m3-x2", tmp_path / "a.onnx", int8=True)
    with pytest.raises(MismatchError, match="no calibration inputs"):
        export_tflite(nn.ReLU().eval(), tmp_path / "a.tflite", (1, 3), [])
    with pytest.raises(MismatchError, match=r"is not a NumPy file"):
        zoo.run(classifier, tmp_path / "absent.npy")
    with pytest.raises(MismatchError, match=r"expected int8 \(N, 16, 16, 1\)"):
        zoo.run(classifier, np.zeros((4, 4), np.int8))
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_priced_by_the_rates_of_another_type(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.ReLU()).eval()
    inputs = [torch.rand(1, 1, 8, 8)]
    for kind, options in (
        ("float32", {}),
        ("int16", {"int16": True, "data": inputs}),
        ("int8", {"int8": True, "data": inputs}),
    ):
        file, shape = tmp_path / f"{kind}.tflite", (1, 1, 8, 8)
        zoo.export(network, file, format="tflite", input_shape=shape, **options)
    for target in ("stm32f446-180mhz-cmsisnn", "ethos-u55-128"):
        assert zoo.estimate(tmp_path / "int8.tflite", target).dtype == "int8"
        for kind in ("float32", "int16"):
            with pytest.raises(MismatchError, match=f"computes in {kind}, and the rates of"):
                zoo.estimate(tmp_path / f"{kind}.tflite", target, method="roofline")


def test_the_shape_of_a_file_is_fixed(tmp_path):
    network = torch.nn.Conv2d(1, 4, 3, padding=1).eval()
    file = tmp_path / "x.tflite"
    data = [torch.rand(1, 1, 8, 8)]
    zoo.export(network, file, format="tflite", int8=True, data=data, input_shape=(1, 1, 8, 8))
    with pytest.raises(MismatchError, match="takes inputs of"):
        zoo.estimate(file, "ethos-u55-128", input_shape=(1, 1, 16, 16))
