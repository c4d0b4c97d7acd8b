"""What the commands say about the memory of activations; states that are never overwritten."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zoo
from zoo.cli import main
from zoo.cost import memory
from zoo.graph.ir import Graph, Op, State, Tensor
from zoo.verbs.planning import plan_memory


def test_memory_is_printed_and_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["estimate", "mlperf-tiny-vww", "--target", "stm32f746-216mhz-cmsisnn", "--memory"]
    assert main(words) == 0
    header, first, second, *_ = capsys.readouterr().out.splitlines()[1:]
    assert " ".join(header.split()) == "ORDER IN PLACE PLACEMENT ARENA NOTHING IS SMALLER"
    assert " ".join(first.split()) == "given no greedy 73,728 B -"
    assert " ".join(second.split()) == "given no smallest 55,296 B in any order"
    assert main([*words, "--json"]) == 0
    (cost,) = json.loads(capsys.readouterr().out)
    assert [p["arena_bytes"] for p in cost["memory"]] == [73_728, 55_296, 73_728, 55_296]


def test_a_plan_goes_into_a_tflite_file_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "mlperf-tiny-ic", "--least-memory", "--out", "ic.onnx"]) == 1
    assert "--least-memory is of .tflite files" in capsys.readouterr().err


def test_a_file_is_planned_in_its_own_numbers_on_any_target(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3)).eval()
    data = [torch.randn(1, 1, 16, 16)]
    file = zoo.export(
        module, tmp_path / "n.tflite", int8=True, data=data, input_shape=(1, 1, 16, 16)
    )
    sizes = [plan_memory(str(file.path), name)[0].arena_bytes for name in ("cpu", "ethos-u55-256")]
    assert sizes == [4 * 14 * 14 + 2 * 12 * 12] * 2  # while the second layer runs


@pytest.mark.parametrize("kept", ["outputs", "state", "next"])
def test_what_is_read_after_the_last_op_is_not_written_over(kept: str) -> None:
    names = ("x", "a", "y")
    tensors = {n: Tensor(name=n, shape=(64,), dtype="int8", kind="activation") for n in names}
    ops = [
        Op(name=o, kind="relu", inputs=(i,), outputs=(o,), attributes={}, macs=0, module="")
        for i, o in (("x", "a"), ("a", "y"))
    ]
    initial = np.zeros(64, np.int8)
    states = {
        "outputs": (),
        "state": (State(name="x", next="x", initial=initial),),
        "next": (State(name="x", next="a", initial=initial),),
    }[kept]
    graph = Graph(
        ops=tuple(ops),
        tensors=tensors,
        inputs=() if states else ("x",),
        outputs=("a", "y") if kept == "outputs" else ("y",),
        states=states,
    )
    offsets = memory.plan(graph, "int8").offsets
    later, safe = {"outputs": ("y", "a"), "state": ("a", "x"), "next": ("y", "a")}[kept]
    assert offsets[later] != offsets[safe]
