"""Published files as checkpoints: the same integers, the right front end, weights to start from."""

import dataclasses
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.cli import main
from zoo.deploy.file_network import FileNetwork
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError, UnsafeFileError
from zoo.registry import checkpoint as checkpoints
from zoo.registry import find, published
from zoo.registry.checkpoint import Checkpoint
from zoo.registry.layout import FILE
from zoo.registry.published import FILES, Published
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last
from zoo.tasks import task_of

INTEGERS = {
    "micronet-kws-m": "micronet_kws_m_int8",
    "micronet-ad-m": "micronet_ad_m_int8",
    "micronet-vww-4": "micronet_vww4_128_128_INT8",
    "mlperf-tiny-kws": "mlperf_kws_int8",
    "mlperf-tiny-ic": "mlperf_ic_resnet8_int8",
    "mlperf-tiny-vww": "mlperf_vww_96_int8",
    "mlperf-tiny-ad": "mlperf_ad01_int8",
    "mlperf-tiny-sww": "str_ww_ref_model",
}
FLOATS = {
    "mlperf-tiny-kws": "mlperf_kws_float32",
    "mlperf-tiny-ic": "mlperf_ic_resnet8_float",
    "mlperf-tiny-vww": "mlperf_vww_96_float",
    "mlperf-tiny-ad": "mlperf_ad01_fp32",
}


def file_of(data: Path, name: str) -> Path:
    """Return the integer file of a recipe."""
    folder = data / ("sww" if name == "mlperf-tiny-sww" else "tflite")
    return folder / f"{INTEGERS[name]}.tflite"


def likely(recipe: zoo.Recipe, count: int) -> torch.Tensor:
    """Return inputs in the range of a network's own."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, *recipe.input_shape[1:], generator=generator)
    usual = (0, 1) if recipe.subtask == "wake-word" else (-20, 20)
    low, high = recipe.preprocessing.get("range", usual)
    return x * (high - low) + low


def with_softmax(content: bytes, logits: torch.Tensor) -> torch.Tensor:
    """Return what a file's softmax makes of the integers before it; without one, those."""
    whole = parse_tflite(content)
    last = whole.ops[-1]
    if last.kind != "softmax":
        return logits
    graph = dataclasses.replace(whole, ops=(last,), inputs=last.inputs)
    made = IntegerNetwork(graph)(logits)
    assert isinstance(made, torch.Tensor)
    return made


def integers(network: FileNetwork, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the integers that go into a file's network, and those that come out."""
    graph = network.graph((1, *x.shape[1:]))
    given = network.integers(graph, channels_last(x))
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning is not None
    made = (network(x) / meaning.scale).round() + meaning.zero_point
    return given, made.to(torch.int8)


# --- with a file of our own in the table ----------------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """An int8 file of a network with random weights, and that network."""
    recipe = find("mlperf-tiny-kws")
    torch.manual_seed(0)
    network = checkpoints.build(recipe)
    path = tmp_path_factory.mktemp("own") / "theirs.tflite"
    export_tflite(network, path, recipe.input_shape, [torch.randn(8, 1, 49, 10) * 10])
    return path, network


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, own: tuple[Path, nn.Module]) -> Published:
    """What the table says about it."""
    facts = Published(
        sha256=hashlib.sha256(own[0].read_bytes()).hexdigest(),
        url="https://example.org/theirs.tflite",
        recipe="mlperf-tiny-kws",
        data="words",
        score={"accuracy": 0.5},
        protocol="a few clips",
        license="MIT",
        rounding="truncate",
    )
    monkeypatch.setattr(published, "FILES", (facts,))
    return facts


def test_a_known_file_becomes_a_checkpoint_that_computes_its_integers(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    made = zoo.import_tflite(own[0], tmp_path / "made")
    assert (made.tag, made.license, made.metrics["published"]["accuracy"]) == (
        "published", "MIT", 0.5,
    )  # fmt: skip
    network = zoo.load(made.path)
    assert isinstance(network, FileNetwork)
    given, found = integers(network, torch.randn(4, 1, 49, 10) * 10)
    np.testing.assert_array_equal(found, IntegerNetwork(parse_tflite(own[0].read_bytes()))(given))
    for mine, theirs in zip(made.load().parameters(), own[1].parameters(), strict=True):
        assert (mine - theirs).abs().max() <= theirs.abs().max() / 127
    assert zoo.estimate(made.path, "ethos-u55-256").macs == 2_656_768


def test_truncation_is_towards_zero(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    network = zoo.load(zoo.import_tflite(own[0], tmp_path / "made").path)
    assert isinstance(network, FileNetwork)
    graph = network.graph((1, 1, 49, 10))
    meaning = graph.tensors[graph.inputs[0]].quantization
    assert meaning is not None
    x = torch.tensor([0.7, -0.7, 200, -200]) * meaning.scale - meaning.zero_point * meaning.scale
    assert network.integers(graph, x).tolist() == [0, 0, 127, -128]


def test_it_is_shown_exported_and_its_card_is_right(
    tmp_path: Path,
    own: tuple[Path, nn.Module],
    known: Published,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "made"
    assert main(["import", str(own[0]), "--out", str(out)]) == 0
    assert main(["show", str(out)]) == 0
    text = capsys.readouterr().out
    assert "mlperf-tiny-kws.published, licence: MIT" in text
    assert "its authors, on a few clips: accuracy 0.5" in text
    assert main(["card", str(out), "--check"]) == 0
    assert (
        "| a few clips, as its authors state | 0.5000 | paper |" in (out / "README.md").read_text()
    )
    file = tmp_path / "again.tflite"
    zoo.export(out, file, format="tflite", int8=True)
    assert file.read_bytes() == own[0].read_bytes()
    with pytest.raises(MismatchError, match="format tflite"):
        zoo.export(out, tmp_path / "again.onnx", format="onnx", int8=True)
    with pytest.raises(MismatchError, match="49, 10"):
        zoo.export(out, file, format="tflite", int8=True, input_shape=(1, 1, 98, 10))


def test_training_keeps_what_comes_before_the_weights(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    made = zoo.import_tflite(own[0], tmp_path / "made")
    heard = dataclasses.replace(
        made.recipe, preprocessing={**made.recipe.preprocessing, "front_end": "mfcc-micronets"}
    )
    start = Checkpoint.write(
        tmp_path / "start", heard, made.load().state_dict(), {}, tag="published"
    )
    trial = task_of(made.recipe).trial(tmp_path / "data", find("mlperf-tiny-kws"))
    tuned = zoo.train(
        trial.recipe, tmp_path / "run", data=trial.data, init=start.path, device="cpu", lr=1e-9
    )
    assert tuned.recipe.preprocessing["front_end"] == "mfcc-micronets"
    assert tuned.recipe.train.init == "mlperf-tiny-kws.published"
    for key, value in made.load().state_dict().items():
        torch.testing.assert_close(tuned.load().state_dict()[key], value, atol=1e-6, rtol=0)


def test_own_words_start_from_it_but_for_the_last_layer(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    made = zoo.import_tflite(own[0], tmp_path / "made")
    three = dataclasses.replace(
        find("mlperf-tiny-kws"),
        args={**made.recipe.args, "num_classes": 3},
        preprocessing={**made.recipe.preprocessing, "labels": ["left", "right", "silence"]},
    )
    trial = task_of(three).trial(tmp_path / "data", three)
    tuned = zoo.train(
        trial.recipe, tmp_path / "run", data=trial.data, init=made.path, device="cpu", lr=1e-9
    )
    assert tuned.recipe.preprocessing["labels"] == ["left", "right", "silence"]
    mine, theirs = tuned.load().state_dict(), made.load().state_dict()
    assert mine["classifier.weight"].shape == (3, 64)
    for key in theirs.keys() - {"classifier.weight", "classifier.bias"}:
        torch.testing.assert_close(mine[key], theirs[key], atol=1e-6, rtol=0)


def test_a_file_that_was_changed_is_not_opened(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    made = zoo.import_tflite(own[0], tmp_path / "made")
    content = bytearray((made.path / FILE).read_bytes())
    content[-1] ^= 1
    (made.path / FILE).write_bytes(content)
    with pytest.raises(UnsafeFileError, match=FILE):
        zoo.load(made.path)
    (made.path / FILE).unlink()
    with pytest.raises(zoo.errors.MissingWeightsError, match=FILE):
        zoo.load(made.path)


def test_what_is_not_known_is_said_with_its_hash(
    tmp_path: Path, own: tuple[Path, nn.Module]
) -> None:
    digest = hashlib.sha256(own[0].read_bytes()).hexdigest()
    wanted = rf"{digest}.*from int8 \(1, 49, 10, 1\) to int8 \(1, 12\).*zoo show"
    with pytest.raises(MismatchError, match=wanted) as error:
        zoo.import_tflite(own[0], tmp_path / "made")
    assert "\n" not in str(error.value)
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"not a file of that kind")
    with pytest.raises(UnsafeFileError, match=re.escape(str(junk))):
        zoo.import_tflite(junk, tmp_path / "made")
    with pytest.raises(zoo.errors.MissingWeightsError):
        zoo.import_tflite(tmp_path / "none.tflite", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_who_has_no_weights_is_told_where_some_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(zoo.errors.MissingWeightsError, match="zoo show micronet-vww-4"):
        zoo.load("micronet-vww-4")
    assert main(["show", "micronet-vww-4"]) == 0
    assert "zoo import vww4_128_128_INT8.tflite --out DIR" in capsys.readouterr().out


def test_a_folder_that_exists_is_left_alone(
    tmp_path: Path, own: tuple[Path, nn.Module], known: Published
) -> None:
    with pytest.raises(MismatchError, match="already exists"):
        zoo.import_tflite(own[0], tmp_path)


def test_other_layers_are_refused(
    tmp_path: Path, own: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch, known: Published
) -> None:
    for recipe, reason in (("mlperf-tiny-ic", "layers"), ("micronet-kws-s", "layers")):
        wrong = dataclasses.replace(known, recipe=recipe)
        monkeypatch.setattr(published, "FILES", (wrong,))
        with pytest.raises(MismatchError, match=reason):
            zoo.import_tflite(own[0], tmp_path / "made")


@pytest.mark.parametrize("facts", FILES, ids=lambda facts: facts.sha256[:8])
def test_facts_are_whole(facts: Published) -> None:
    recipe = find(facts.recipe)
    assert re.fullmatch("[0-9a-f]{64}", facts.sha256)
    assert facts.url.startswith("https://github.com/")
    assert facts.url.endswith(".tflite")
    assert set(facts.score) <= {metric.key for metric in task_of(recipe).FACTS.metrics}
    assert set(facts.preprocessing) <= set(recipe.preprocessing)
    assert sum(other.sha256 == facts.sha256 for other in FILES) == 1


# --- with the files -------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("name", INTEGERS)
def test_every_integer_is_tflite_micros(shared_data: Path, tmp_path: Path, name: str) -> None:
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    file = file_of(shared_data, name)
    made = zoo.import_tflite(file, tmp_path / "made")
    assert (made.recipe.name, made.tag) == (name, "published")
    network = zoo.load(made.path)
    assert isinstance(network, FileNetwork)
    given, logits = integers(network, likely(made.recipe, 2))
    found = with_softmax(file.read_bytes(), logits)
    interpreter = runtime.Interpreter.from_file(str(file))
    for sample, output in zip(given, found, strict=True):
        interpreter.set_input(sample[None].numpy(), 0)
        interpreter.invoke()
        np.testing.assert_array_equal(output[None].numpy(), interpreter.get_output(0))


@pytest.mark.data
@pytest.mark.parametrize("name", INTEGERS)
def test_weights_to_start_from_compute_what_the_integers_do(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    made = zoo.import_tflite(file_of(shared_data, name), tmp_path / "made")
    x = likely(made.recipe, 4)
    with torch.no_grad():
        network = zoo.load(made.path)
        real, rounded = made.load()(x), network(x)
    assert isinstance(network, FileNetwork)
    graph = network.graph((1, *x.shape[1:]))
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning is not None
    low, high = ((end - meaning.zero_point) * meaning.scale for end in (-128, 127))
    real = real.clamp(low, high)  # noise is not what it was trained on: some logits saturate
    noise = (real - rounded).square().mean() / real.square().mean()
    assert noise < 0.1, f"{10 * float(noise.log10()):.1f} dB"


@pytest.mark.data
@pytest.mark.parametrize("name", FLOATS)
def test_float_files_compute_the_same(shared_data: Path, tmp_path: Path, name: str) -> None:
    file = shared_data / "tflite" / f"{FLOATS[name]}.tflite"
    made = zoo.import_tflite(file, tmp_path / "made")
    assert made.tag == "published-float"
    # That of the keywords has weights of 8 bits: it rounds each of its inputs as it computes.
    assert (made.quantization is None) == (name != "mlperf-tiny-kws")
    x = likely(made.recipe, 4)
    with torch.no_grad():
        found = zoo.load(made.path)(x)
        found = found if name == "mlperf-tiny-ad" else found.softmax(1)
        expected = zoo.load(file)(channels_last(x))
    torch.testing.assert_close(found, expected.view_as(found), atol=2e-4, rtol=1e-4)


@pytest.mark.data
@pytest.mark.parametrize("name", ["micronet-kws-m", "mlperf-tiny-kws"])
def test_it_hears_words(shared_data: Path, tmp_path: Path, name: str) -> None:
    made = zoo.import_tflite(file_of(shared_data, name), tmp_path / "made")
    with zipfile.ZipFile(shared_data / "speech-commands-12/kws01_wav.zip") as archive:
        members = {member.split("/")[0]: member for member in archive.namelist()}
        right = [
            zoo.run(made.path, archive.extract(member, tmp_path)).best[0][0] == word
            for word, member in members.items()
        ]
    assert len(right) == 12
    assert sum(right) >= 10


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(("name", "least"), [("micronet-kws-m", 0.950), ("mlperf-tiny-kws", 0.898)])
def test_it_hears_words_as_well_as_published(
    shared_data: Path, tmp_path: Path, name: str, least: float
) -> None:
    made = zoo.import_tflite(file_of(shared_data, name), tmp_path / "made")
    with zipfile.ZipFile(shared_data / "speech-commands-12/kws01_wav.zip") as archive:
        archive.extractall(tmp_path / "words")
    assert zoo.evaluate(made.path, tmp_path / "words")["accuracy"] >= least
