"""What a search says that a network takes is what its exported file takes, whatever its weights."""

import random
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.runtimes import tflite_micro_arena
from zoo.cost import target
from zoo.deploy import tflite_micro, vela
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_read import read_tflite
from zoo.errors import MismatchError
from zoo.nas.limits import Limits
from zoo.nas.measuring import Gauge, measured
from zoo.nas.repair import FULL, Repair
from zoo.nas.searchers.contract import drawn
from zoo.nas.spaces import contract
from zoo.nas.spaces.contract import Choice, Space
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

NPU = "ethos-u55-128"
SPACES = {
    "micronet-kws": {"widest": 64},
    "micronet-ad": {"widest": 48, "pairs": (3, 4)},
    "sesr": {"channels": (4, 8), "blocks": (1, 2)},
    "vit-tiny": {"patches": (8,), "depths": (1, 2), "activations": ("relu",)},
    "ran-e": {"base": "ran-e-32-ib"},
    "micronet-vww": {"sides": (64,), "percent": (50, 100)},
}


def sized(recipe: Recipe) -> tuple[int, ...]:
    return (1, 1, 24, 32) if recipe.subtask == "super-resolution" else recipe.input_shape


def exported(recipe: Recipe, path: Path, seed: int) -> bytes:
    """An int8 file with weights as if trained: of every channel others, and biases."""
    torch.manual_seed(seed)
    network = build(recipe)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    shape = sized(recipe)
    export_tflite(network.eval(), path, shape, [torch.rand(4, *shape[1:])])
    return path.read_bytes()


def drawing(name: str) -> tuple[Space, object, Choice]:
    space = contract.find(name)
    options = space.Options(**SPACES[name])
    return space, options, drawn(contract.decided(space, options), random.Random(name))


@pytest.mark.parametrize("name", sorted(SPACES))
def test_the_file_takes_what_was_said(name: str, tmp_path: Path):
    import dataclasses

    space, options, choice = drawing(name)
    recipe = space.recipe(options, choice, "found")
    recipe = dataclasses.replace(recipe, input_shape=sized(recipe))
    content = exported(recipe, tmp_path / "a.tflite", 0)
    said = measured(recipe, Limits(), None)
    assert not said.refused
    assert said.sram_bytes == tflite_micro_arena(content)["total"]
    assert abs(said.flash_bytes - len(content)) <= 16  # clamps that were never reached are gone
    assert said.macs == read_tflite(tmp_path / "a.tflite").macs
    npu = measured(recipe, Limits(), target(NPU))
    report = vela.compile_file(content, NPU)
    assert report.peak_bytes["Sram"] <= npu.sram_bytes
    assert report.peak_bytes["OffChipFlash"] <= npu.flash_bytes
    assert npu.latency_ms is not None
    assert report.latency_ms <= npu.latency_ms * 1.001


@pytest.mark.parametrize("npu", [None, NPU])
@pytest.mark.parametrize("share", [0.08, 0.4])
def test_repair_ends_close_to_the_tightest_limit_as_measured(
    npu: str | None, share: float, tmp_path: Path
):
    space = contract.find("micronet-kws")
    options = space.Options(widest=64, pairs=(3, 4))
    decisions = contract.decided(space, options)
    device = None if npu is None else target(npu)
    most = measured(
        space.recipe(options, {d.name: d.values[-1] for d in decisions}, "most"), Limits(), device
    )
    limits = Limits(
        sram_bytes=0.6 * most.sram_bytes, flash_bytes=0.9 * most.flash_bytes, macs=share * most.macs
    )
    repair = Repair(
        decisions, limits, Gauge(lambda choice: space.recipe(options, choice, "a"), limits, device)
    )
    found = repair(drawn(decisions, random.Random(3)), random.Random(3))
    assert FULL <= found.load <= 1
    content = exported(space.recipe(options, found.choice, "found"), tmp_path / "a.tflite", 1)
    if npu is None:
        taken = tflite_micro.measured(content).total, len(content)
    else:
        report = vela.compile_file(content, npu)
        taken = report.peak_bytes["Sram"], report.peak_bytes["OffChipFlash"]
    assert taken[0] <= limits.given["sram_bytes"]
    assert taken[1] <= limits.given["flash_bytes"]


def test_what_tflite_micro_does_not_run_is_refused_with_its_reason(
    capfd: pytest.CaptureFixture[str],
):
    space = contract.find("vit-tiny")
    options = space.Options(depths=(1,), patches=(8,), activations=("gelu",))
    choice = contract.start(contract.decided(space, options))
    said = measured(space.recipe(options, choice, "found"), Limits(macs=1e9), None)
    assert "TFLite Micro does not run this network" in said.refused
    assert "GELU" in said.refused
    assert Limits(macs=1e9).load(said) == float("inf")
    assert not capfd.readouterr().err.strip()  # what the runtime prints is not for the user


def test_a_damaged_file_has_no_arena():
    with pytest.raises(MismatchError, match="TFLite Micro does not run this network"):
        tflite_micro.measured(b"TFL3" * 16)


def test_counts_come_first(monkeypatch: pytest.MonkeyPatch):
    """Far beyond a limit not even a graph is made; beyond what a graph counts nothing compiled."""
    space, options, choice = drawing("micronet-kws")
    recipe = space.recipe(options, choice, "found")
    macs = measured(recipe, Limits(), None).macs
    monkeypatch.setattr("zoo.nas.measuring.measured_graph", lambda *_: pytest.fail("compiled"))
    said = measured(recipe, Limits(macs=0.9 * macs), None)
    assert said.macs == macs
    monkeypatch.setattr("zoo.nas.measuring.integer", lambda *_: pytest.fail("traced"))
    assert measured(recipe, Limits(macs=0.5 * macs), None).macs == macs


def test_parameters_are_filled_evenly():
    from zoo.nas.measuring import incompressible

    torch.manual_seed(0)
    weight = incompressible(nn.Linear(64, 64)).weight.detach()
    counts = torch.histc(weight / weight.abs().max(), 16)
    assert counts.min() > 0.7 * counts.mean()
