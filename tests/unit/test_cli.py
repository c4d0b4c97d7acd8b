"""The command line: results on stdout, one line per error on stderr, and the exit codes."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.cli import main
from zoo.registry import find
from zoo.registry.checkpoint import Checkpoint, build

NAME = "sesr-m3-x2"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A shelf of shipped weights that holds one checkpoint."""
    shelf = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    recipe = find(NAME)
    metrics = {"held_out": {"psnr_y_db": 30.0, "images": 2}}
    tensors = build(recipe).state_dict()
    Checkpoint.write(shelf / f"{NAME}.photos", recipe, tensors, metrics, license="CC-BY-4.0")
    return shelf


@pytest.fixture(autouse=True)
def shelf(weights, monkeypatch):
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", weights)
    return weights


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    array = np.random.default_rng(0).integers(0, 256, (40, 44, 3)).astype(np.uint8)
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def zoo_prints(capsys):
    """Run a command that succeeds in silence on stderr; return what it prints."""

    def run(*words):
        assert main([str(word) for word in words]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    return run


@pytest.fixture
def zoo_refuses(capsys):
    """Run a command that fails with one line; return it."""

    def run(*words):
        assert main([str(word) for word in words]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("zoo: ")
        assert printed.err.endswith("\n")
        assert printed.err.count("\n") == 1
        return printed.err[5:-1]

    return run


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


# --- what works -----------------------------------------------------------------------------------


def test_list(zoo_prints, capsys):
    lines = zoo_prints("list").splitlines()
    assert lines[0].split()[:2] == ["NAME", "PARAMETERS"]
    assert len(lines) == 1 + len(zoo.names())
    cells = [re.split("  +", line) for line in lines]
    assert any(row[0] == NAME and row[3] == "photos" for row in cells)
    assert any(row[0] == "sesr-m7-x2" and row[3] == "-" for row in cells)
    assert ["sesr-m7-x2", "18,372"] in [row[:2] for row in cells]
    found = json.loads(zoo_prints("list", "sesr-m?-x2", "--json"))
    assert [item["name"] for item in found] == [
        "sesr-m2-x2",
        "sesr-m3-x2",
        "sesr-m5-x2",
        "sesr-m7-x2",
    ]
    assert found[1]["weights"] == ["photos"]
    assert len(json.loads(zoo_prints("list", "--family", "sesr", "--json"))) == 12
    assert json.loads(zoo_prints("list", "--family", "none", "--json")) == []
    assert len(json.loads(zoo_prints("list", "--task", "super-resolution", "--json"))) >= 10
    assert main(["list", "nothing-*"]) == 0
    assert "no recipe matches 'nothing-*'" in capsys.readouterr().err


def test_show(zoo_prints, weights):
    text = zoo_prints("show", NAME)
    for part in (NAME, "2103.09404", "Apache-2.0", "weights  photos, licence: CC-BY-4.0"):
        assert part in text
    facts = json.loads(zoo_prints("show", NAME, "--json"))
    assert facts["recipe"] == find(NAME).to_json()
    assert facts["weights"][0]["license"] == "CC-BY-4.0"
    assert "none shipped" in zoo_prints("show", "sesr-m7-x4")
    assert "weights  photos" in zoo_prints("show", weights / f"{NAME}.photos")


def test_run(zoo_prints, photo, tmp_path):
    facts = json.loads(zoo_prints("run", NAME, photo, "--json"))
    assert facts["out"] == str(tmp_path / f"photo-{NAME}.png")
    assert (facts["width"], facts["height"], facts["bits"]) == (88, 80, 8)
    text = zoo_prints("run", f"{NAME}.photos", photo, "--out", tmp_path / "new" / "big.jpg")
    assert text.startswith(f"{tmp_path / 'new' / 'big.jpg'}  88x80, ")
    with Image.open(tmp_path / "new" / "big.jpg") as image:
        assert image.size == (88, 80)
    zoo_prints("run", NAME, photo, "--dtype", "bfloat16", "--threads", "1")


def test_evaluate(zoo_prints, photo, weights):
    result = json.loads(zoo_prints("evaluate", NAME, "--data", photo.parent, "--json"))
    assert result["images"] == 1
    assert 0 < result["ssim_y"] < 1
    assert result["psnr_y_db"] > 5
    assert "border 2" in result["protocol"]
    lines = zoo_prints("evaluate", NAME, "--data", photo.parent, "--record", "mine").splitlines()
    assert lines[0].split() == [
        "image",
        "psnr_y_db",
        "ssim_y",
        "bicubic_psnr_y_db",
        "bicubic_ssim_y",
    ]
    assert [line.split()[0] for line in lines[1:]] == ["photo", "mean", "protocol:"]
    recorded = Checkpoint.read(weights / f"{NAME}.photos").metrics["evaluations"]["mine"]
    assert recorded["psnr_y_db"] == result["psnr_y_db"]


def test_estimate(zoo_prints):
    words = ("--target", "ethos-u55-256,phone-npu-4tops", "--shape", "1,1,32,32")
    costs = json.loads(zoo_prints("estimate", NAME, *words, "--json"))
    assert [cost["target"] for cost in costs] == ["ethos-u55-256", "phone-npu-4tops"]
    assert all(cost["latency_ms"] > 0 for cost in costs)
    assert costs[0]["macs"] == 32 * 32 * (25 * 16 + 3 * 9 * 16 * 16 + 25 * 16 * 4)
    text = zoo_prints("estimate", "sesr-m7-x2", "--shape", "1,1,32,32")  # no weights needed
    assert "ethos-u55-256" in text


def test_card(zoo_prints, tmp_path):
    text = zoo_prints("card", NAME)
    assert text.startswith("---\nlicense: cc-by-4.0\n")
    assert zoo_prints("card", NAME, "--out", tmp_path / "CARD.md") == ""
    assert (tmp_path / "CARD.md").read_text(encoding="utf-8") == text


def test_export(zoo_prints, tmp_path):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "m.onnx"
    assert zoo_prints("export", NAME, "--out", out).startswith(f"{out}  {out.stat().st_size} bytes")


def test_cache(zoo_prints, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("ZOO_CACHE", str(cache))
    assert json.loads(zoo_prints("cache", "list", "--json")) == []
    for name in ("a", "b", ".killed-now", ".killed-long-ago"):
        (cache / "prepared" / name).mkdir(parents=True)
        (cache / "prepared" / name / "planes.bin").write_bytes(bytes(1000))
    (cache / "prepared" / ".DS_Store").touch()
    for name in ("a", ".killed-long-ago", ".DS_Store"):
        os.utime(cache / "prepared" / name, (0, 0))
    found = json.loads(zoo_prints("cache", "list", "--json"))
    assert [(e["kind"], Path(e["path"]).name, e["size_bytes"]) for e in found] == [
        ("prepared", "a", 1000),
        ("prepared", "b", 1000),
    ]
    assert found[0]["unused_days"] > 1000
    text = zoo_prints("cache", "prune", "--unused-days", "30")
    assert text.endswith(f"0.0 MB removed from {cache}\n")
    assert files(cache / "prepared") == [".DS_Store", ".killed-now", "b", *["planes.bin"] * 2]
    zoo_prints("cache", "prune")
    assert "b" not in files(cache / "prepared")


def test_env(zoo_prints):
    facts = json.loads(zoo_prints("env", "--json"))
    assert facts["zoo"] == zoo.__version__
    assert facts["torch"] == torch.__version__
    assert "python" in zoo_prints("env")


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["show", "run", "evaluate", "estimate", "card", "export"])
def test_an_unknown_name_shows_near_misses(command, zoo_refuses, photo):
    words = {"run": [photo], "evaluate": ["--data", photo.parent]}.get(command, [])
    error = zoo_refuses(command, "sesr-m3-x3", *words)
    assert error.startswith("unknown recipe 'sesr-m3-x3'; did you mean sesr-m3-x")
    assert files(photo.parent) == ["photo.png"]


@pytest.mark.parametrize("command", ["run", "evaluate", "card", "export"])
@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("sesr-m7-x2", "no weights of 'sesr-m7-x2' are shipped; type: zoo train sesr-m7-x2"),
        (f"{NAME}.set5", "unknown tag of sesr-m3-x2 'set5'"),
        ("./gone", "gone is not a checkpoint (no such folder)"),
        ("org/repo", "offline mode is on (HF_HUB_OFFLINE=1)"),
        ("Not a ref", "'Not a ref' is not a ref; expected name[.tag]"),
    ],
    ids=["no-weights", "tag", "path", "repo", "text"],
)
def test_a_ref_without_weights_is_refused(command, ref, message, zoo_refuses, photo):
    words = {"run": [photo], "evaluate": ["--data", photo.parent]}.get(command, [])
    assert message in zoo_refuses(command, ref, *words)
    assert files(photo.parent) == ["photo.png"]


def test_tampered_weights_are_refused_and_nothing_is_written(zoo_refuses, photo, tmp_path, weights):
    folder = tmp_path / "tampered"
    folder.mkdir()
    for file in (weights / f"{NAME}.photos").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    error = zoo_refuses("run", folder, photo, "--out", tmp_path / "new" / "big.png")
    assert "model.safetensors is corrupt or was tampered with" in error
    assert not (tmp_path / "new").exists()


def test_what_is_not_in_the_local_hub_names_its_folder(zoo_refuses, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HUB", "")  # put back after the test: --hub changes it
    monkeypatch.setenv("ZOO_HUB_DIR", str(tmp_path))
    assert zoo_refuses("pull", "org/x", "--hub", "local") == (
        f"org/x is not in the local hub {tmp_path}; type: zoo push MODEL org/x --hub local, "
        "or name the hub that has it: --hub https://huggingface.co"
    )


def bad_source(kind, photo):
    path, good = photo.with_name("bad.png"), photo.read_bytes()
    if kind == "folder":
        return path.parent
    if kind == "bomb":
        Image.new("1", (11_000, 10_000)).save(path)
    elif kind != "missing":
        content = {"truncated": good[: len(good) // 2], "text": b"hello", "empty": b""}
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read as a picture"),
        ("text", "is not a picture; expected one of .png"),
        ("empty", "is an empty file"),
        ("bomb", "pixels; the limit is 100000000"),
        ("missing", "no such file"),
        ("folder", "is a folder; expected a picture file"),
    ],
)
def test_a_source_that_is_no_picture_is_refused(kind, message, zoo_refuses, photo, tmp_path):
    source = bad_source(kind, photo)
    before = files(tmp_path)
    assert message in zoo_refuses("run", NAME, source, "--out", tmp_path / "new" / "big.png")
    assert files(tmp_path) == before


@pytest.mark.parametrize("source", [".", "/", ""])
def test_a_source_without_a_name_is_refused(source, zoo_refuses, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "is a folder" in zoo_refuses("run", NAME, source)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("photo.png/big.png", "cannot write into"),
        ("big.gif", "unknown picture format .gif"),
        ("big", "unknown picture format (no suffix)"),
        ("folder.png", "it is a folder; expected a file name"),
        ("a" * 300 + ".png", "File name too long"),
    ],
    ids=["below-a-file", "gif", "no-suffix", "folder", "too-long"],
)
def test_an_output_that_cannot_be_written_is_refused(out, message, zoo_refuses, photo, tmp_path):
    (tmp_path / "folder.png").mkdir()
    assert message in zoo_refuses("run", NAME, photo, "--out", tmp_path / out)
    assert files(tmp_path) == ["folder.png", "photo.png"]


def test_alpha_into_jpeg_is_refused(zoo_refuses, tmp_path):
    Image.new("RGBA", (9, 9)).save(tmp_path / "a.png")
    error = zoo_refuses("run", NAME, tmp_path / "a.png", "--out", tmp_path / "b.jpg")
    assert "transparency" in error
    assert files(tmp_path) == ["a.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "gpu9"), "device 'gpu9' cannot be used"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used"),
        (("--dtype", "int8"), "unknown dtype 'int8'"),
        (("--dtype", "nn"), "unknown dtype 'nn'"),
    ],
    ids=["device", "cuda", "integer", "no-dtype"],
)
def test_a_device_or_type_that_cannot_be_used_is_refused(words, message, zoo_refuses, photo):
    assert message in zoo_refuses("run", NAME, photo, *words)
    assert files(photo.parent) == ["photo.png"]


def test_folders_that_cannot_be_evaluated_are_refused(zoo_refuses, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no pictures in" in zoo_refuses("evaluate", NAME, "--data", tmp_path / "empty")
    assert "no such folder" in zoo_refuses("evaluate", NAME, "--data", tmp_path / "gone")
    small = tmp_path / "small"
    small.mkdir()
    Image.new("RGB", (40, 14)).save(small / "a.png")
    assert "a.png is 40x14 pixels; expected at least 15x15" in (
        zoo_refuses("evaluate", NAME, "--data", small)
    )
    Image.new("RGB", (40, 40)).save(small / "b_HR.png")
    assert "b_HR.png has no partner b_LR.png" in zoo_refuses("evaluate", NAME, "--data", small)
    Image.new("RGB", (20, 21)).save(small / "b_LR.png")
    assert "b_LR.png is 20x21; expected 20x20" in zoo_refuses("evaluate", NAME, "--data", small)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "ethos-u55-255"), "unknown target 'ethos-u55-255'; did you mean"),
        (("--target", ""), "unknown target ''"),
        (("--method", "guess"), "unknown method 'guess'"),
        (("--shape", "1,1,x,4"), "--shape '1,1,x,4'; expected whole numbers"),
        (("--shape", ""), "--shape ''; expected whole numbers"),
        (("--shape", "1,1,-5,4"), "--shape '1,1,-5,4'; expected whole numbers"),
        (("--shape", "1,3,8,8"), "cannot trace SESR with an input of shape (1, 3, 8, 8)"),
    ],
    ids=["target", "no-target", "method", "letters", "no-shape", "negative", "channels"],
)
def test_a_cost_that_cannot_be_estimated_is_refused(words, message, zoo_refuses):
    assert message in zoo_refuses("estimate", NAME, *words)


def test_files_that_cannot_be_written_are_refused(zoo_refuses, photo, tmp_path):
    for out in (photo / "x", tmp_path):
        assert "cannot write" in zoo_refuses("card", NAME, "--out", out)
    assert "cannot write" in zoo_refuses("export", NAME, "--out", photo / "x")
    assert "unknown format 'tflight'" in zoo_refuses("export", NAME, "--format", "tflight")
    assert files(tmp_path) == ["photo.png"]


@pytest.mark.parametrize("text", ["lr", "", "=1"])
def test_a_setting_that_is_none_is_refused(text, zoo_refuses, tmp_path):
    zoo_refuses("train", NAME, "--data", tmp_path, "--out", tmp_path / "run", "--set", text)
    assert files(tmp_path) == []


@pytest.mark.parametrize("text", ["out=x", "data=x", "resume=true", "recipe=x", "device=x"])
def test_a_setting_never_reaches_an_argument_of_the_verb(text, zoo_refuses, tmp_path):
    error = zoo_refuses("train", NAME, "--data", tmp_path, "--out", tmp_path / "r", "--set", text)
    assert f"no setting 'train.{text.split('=')[0]}'" in error


def test_an_error_of_the_system_is_one_line_too(zoo_refuses, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left\non device")

    monkeypatch.setattr("zoo.cli.upkeep._env", full)
    assert zoo_refuses("env") == "No space left on device"


def test_evaluate_prints_a_row_for_each_sample_in_the_tasks_word(zoo_prints, monkeypatch):
    clips = [{"clip": "a", "auc": 0.25}, {"clip": "b", "auc": 0.75}]
    result = {"clips": 2, "auc": 0.5, "protocol": "as they are", "per_clip": clips}
    monkeypatch.setattr("zoo.verbs.evaluate", lambda *_, **__: result)
    assert zoo_prints("evaluate", "x", "--data", "d").splitlines() == [
        "clip  auc", "a     0.2500", "b     0.7500", "mean  0.5000", "protocol: as they are",
    ]  # fmt: skip
