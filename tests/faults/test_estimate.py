"""`zoo estimate` on others' files, on many targets, and with a compiler that misbehaves."""

import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo import cost
from zoo.cli import main
from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.tflite_read import read_tflite
from zoo.deploy.vela import compile_file
from zoo.errors import MismatchError, UnknownNameError, UnsafeFileError

SHAPE = (1, 4, 12, 12)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file with an operator (ROUND) that the reader here does not have."""
    path = tmp_path / "foreign.tflite"
    x = torch.randn(4, *SHAPE[1:])
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)).eval()
    zoo.export(module, path, format="tflite", int8=True, data=[x], input_shape=SHAPE)
    model = flatbuffer.read(path.read_bytes(), tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    pool = tflite_schema.NAMES.index("MAX_POOL_2D")
    (code,) = (c for c in model["operator_codes"] if c["deprecated_builtin_code"] == pool)
    code["builtin_code"] = code["deprecated_builtin_code"] = tflite_schema.NAMES.index("ROUND")
    code["version"] = 1
    for op in model["subgraphs"][0]["operators"]:
        if model["operator_codes"][op["opcode_index"]] is code:
            op["builtin_options"], op["builtin_options_type"] = None, 0
    for table in model["subgraphs"][0]["tensors"]:  # what is made has the size of what is read
        table["sparsity"] = table["quantization"]["details"] = None
        shape = [int(size) for size in table["shape"]]
        table["shape"] = [10 if size == 5 else size for size in shape]
    content = flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    path.write_bytes(content)
    return path


def test_vela_gets_a_file_that_the_reader_refuses(
    foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    with pytest.raises(MismatchError, match="ROUND"):
        read_tflite(foreign)
    given = zoo.estimate(foreign, "ethos-u55-128", method="vela")
    assert given.input_shape == (1, 12, 12, 4)
    assert given.macs > 0
    assert given.latency_ms > 0
    (line,) = given.host
    assert line.startswith("ROUND at ")
    assert "the file as it is" in given.obtained["macs"]
    assert main(["estimate", str(foreign), "--target", "ethos-u55-128", "--method", "vela"]) == 0
    assert f"  {line}\n" in capsys.readouterr().out


def test_vela_gets_a_file_byte_for_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    path = tmp_path / "a.tflite"
    x = torch.randn(4, *SHAPE[1:])
    zoo.export(network(), path, format="tflite", int8=True, data=[x], input_shape=SHAPE)
    report = compile_file(path.read_bytes(), "ethos-u55-128")
    monkeypatch.setattr("zoo.deploy.tflite_read.parse_tflite", None)  # nothing here reads it
    given = zoo.estimate(path, "ethos-u55-128", method="vela")
    assert given.latency_ms == report.latency_ms > 0
    with pytest.raises(MismatchError, match=r"takes inputs of \(1, 12, 12, 4\); leave"):
        zoo.estimate(path, "ethos-u55-128", method="vela", input_shape=SHAPE)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UnsafeFileError, match=r"a\.tflite: "):
        zoo.estimate(path, "ethos-u55-128", method="vela")


@pytest.mark.data
@pytest.mark.parametrize("folder", ["tflite", "tflite-public"])
def test_vela_takes_public_files(shared_data: Path, folder: str) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    files = sorted((shared_data / folder).glob("*.tflite"))
    assert files
    for file in files:
        given = zoo.estimate(file, "ethos-u55-256", method="vela")
        assert given.latency_ms > 0 or given.host, file
        assert len(set(given.host)) == len(given.host), file
        assert not [line for line in given.host if line.startswith("CODE")], file


def test_vela_is_stopped_when_it_takes_too_long() -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    start = time.monotonic()
    with pytest.raises(MismatchError, match=r"did not finish .* in 0.001 s and was stopped"):
        zoo.estimate(
            network(), "ethos-u55-128", method="vela", input_shape=SHAPE, time_limit_s=1e-3
        )
    assert time.monotonic() - start < 60
    with pytest.raises(MismatchError, match="time_limit_s is -1; expected seconds"):
        zoo.estimate(network(), "ethos-u55-128", method="vela", input_shape=SHAPE, time_limit_s=-1)


def test_a_compiler_that_crashes_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(
        MismatchError, match=r"Vela crashed with code 1 on this network for"
    ) as error:
        zoo.estimate(network(), "ethos-u55-128", method="vela", input_shape=SHAPE)
    assert "\n" not in str(error.value)


def test_a_file_that_crashes_the_compiler_does_not_crash_us(tmp_path: Path) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    path = tmp_path / "a.tflite"
    x = torch.randn(4, *SHAPE[1:])
    zoo.export(network(), path, format="tflite", int8=True, data=[x], input_shape=SHAPE)
    model = flatbuffer.read(path.read_bytes(), tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    for table in model["subgraphs"][0]["tensors"]:
        table["sparsity"] = table["quantization"]["details"] = None
        table["quantization"]["scale"] = 0 * table["quantization"]["scale"]
    path.write_bytes(flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER))
    with pytest.raises(MismatchError, match=r"Vela c.* this network for ethos-u55-128") as caught:
        zoo.estimate(path, "ethos-u55-128", method="vela")
    assert "\n" not in str(caught.value)


def test_others_may_print_while_vela_works(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing redirects the standard output of the whole process."""
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.PixelShuffle(2)).eval()  # Vela says why it stays
    found: list[cost.Cost] = []

    def price() -> None:
        found.append(zoo.estimate(module, "ethos-u55-128", method="vela", input_shape=SHAPE))

    thread, count = threading.Thread(target=price), 0
    thread.start()
    while thread.is_alive():
        os.write(1, b"here\n")
        count += 1
        time.sleep(0.002)
    thread.join()
    assert found[0].host
    assert capfd.readouterr() == ("here\n" * count, "")


def test_patterns_of_targets() -> None:
    names = cost.target_names()
    assert cost.matching("all") == names
    assert cost.matching("ethos-*") == [name for name in names if name.startswith("ethos-")]
    assert cost.matching("ethos") == cost.matching("ethos-*")
    assert cost.matching("ethos-u55") == [name for name in names if name.startswith("ethos-u55-")]
    assert len(cost.matching("stm32*")) == 7
    assert cost.matching("stm32f746") == ["stm32f746-216mhz-cmsisnn"]
    assert cost.matching("cpu") == ["cpu"]
    with pytest.raises(UnknownNameError, match=r"did you mean .*ethos-u55") as caught:
        cost.matching("ethos-u56")
    assert all(name in str(caught.value) for name in names)
    with pytest.raises(UnknownNameError, match=r"unknown target 'stm33\*' "):
        cost.matching("stm33*")


def test_several_targets_give_several_costs(caplog: pytest.LogCaptureFixture) -> None:
    module = network()
    given = zoo.estimate(module, ["stm32*", "ethos-u55-64", "ethos-u55"], input_shape=SHAPE)
    assert [c.target for c in given] == [
        *cost.matching("stm32*"), "ethos-u55-64", "ethos-u55-128", "ethos-u55-256", "ethos-u55-32"
    ]  # fmt: skip
    place = len(cost.matching("stm32*"))
    assert zoo.estimate(module, ["ethos-u55-64"], input_shape=SHAPE) == [given[place]]
    with pytest.raises(MismatchError, match=r"means \d+ targets .*a list: \['ethos-\*'\]"):
        zoo.estimate(module, "ethos-*", input_shape=SHAPE)
    assert "left out" not in caplog.text
    every = zoo.estimate(module, ["all"], method="roofline", input_shape=SHAPE)
    rooflines = {n for n in cost.target_names() if cost.target(n).method == "roofline"}
    assert {c.target for c in every} == rooflines
    assert "left out of 'all': cpu, " in caplog.text
    assert "(target 'cpu' is measured" in caplog.text
    with pytest.raises(MismatchError, match="is roofline, not measured"):
        zoo.estimate(module, ["stm32*"], method="measured", input_shape=SHAPE)


def test_the_command_takes_patterns_and_lists_targets(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "sesr-m5-x2", "--target", "ethos-*,stm32f746", "--shape", "1,1,90,160"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [line.partition(":")[0] for line in lines if not line.startswith(" ")]
    assert heads == [*cost.matching("ethos-*"), "stm32f746-216mhz-cmsisnn"]
    with pytest.raises(SystemExit):
        main(["estimate", "--help"])
    text = capsys.readouterr().out
    for name in cost.target_names():
        assert f"  {name} " in text
        assert cost.target(name).summary in text


def test_plain_output_says_what_does_not_fit_and_what_the_host_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "sesr-m5-x2", "--target", "stm32f746,ethos-u55-256"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("  10.8 MiB of activations exceed 320.0 KiB of SRAM by 10.5 MiB; ")
    assert any(line.startswith("  DEPTH_TO_SPACE at the top level ") for line in lines[2:])
