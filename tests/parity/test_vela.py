"""Vela in process against its own command line, and what it leaves to the host CPU."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo import cost
from zoo.deploy.tflite_read import read_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import NPUS, compile_graph
from zoo.errors import MismatchError, UnknownNameError
from zoo.graph.ir import Graph
from zoo.graph.rewrite import on_npu
from zoo.models.sesr import SESR
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork

pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")


@pytest.fixture(scope="module")
def sesr() -> Graph:
    torch.manual_seed(0)
    module = SESR(channels=16, blocks=2, scale=2).eval()
    return quantize(module, [torch.rand(2, 1, 24, 32)], (1, 1, 24, 32))


def command_line(graph: Graph, npu: str, folder: Path) -> dict[str, str]:
    """Return the summary that the program `vela` writes."""
    program = shutil.which("vela", path=str(Path(sys.executable).parent)) or shutil.which("vela")
    if program is None:
        pytest.skip("the program vela is not installed")
    (folder / "net.tflite").write_bytes(serialize_tflite(graph))
    device = NPUS[npu]
    options = ["--accelerator-config", npu, "--config", "Arm/vela.ini", "--system-config"]
    options += [device.system_config, "--memory-mode", device.memory_mode, "--output-dir", "out"]
    subprocess.run([program, "net.tflite", *options], check=True, capture_output=True, cwd=folder)
    summary = folder / "out" / f"net_summary_{device.system_config}.csv"
    return next(csv.DictReader(summary.read_text().splitlines()))


@pytest.mark.parametrize("npu", ["ethos-u55-128", "ethos-u65-512", "ethos-u85-256"])
def test_in_process_equals_the_command_line(sesr: Graph, npu: str, tmp_path: Path) -> None:
    report, row = compile_graph(sesr, npu), command_line(sesr, npu, tmp_path)
    assert report.cycles == int(float(row["cycles_total"]))
    assert report.npu_cycles == int(float(row["cycles_npu"]))
    assert report.macs == int(row["nn_macs"])
    assert report.latency_ms == pytest.approx(1e3 * float(row["inference_time"]))
    assert report.peak_bytes["Sram"] == 1024 * float(row["sram_memory_used"])
    assert report.weight_bytes == int(row["total_original_weights"])


def test_host_operators_are_named_with_a_fix_that_works(
    sesr: Graph, capfd: pytest.CaptureFixture[str]
) -> None:
    (op,) = compile_graph(sesr, "ethos-u55-256").cpu_ops
    assert (op.kind, op.module) == ("depth_to_space", "")
    assert str(op).startswith("DEPTH_TO_SPACE at the top level runs on the host CPU (Unsupported")
    fixed = on_npu(sesr)
    for npu in ("ethos-u55-256", "ethos-u65-256", "ethos-u85-256"):
        assert not compile_graph(fixed, npu).cpu_ops
    x = torch.randint(-128, 128, sesr.input_shape, dtype=torch.int8)
    assert torch.equal(IntegerNetwork(fixed)(x), IntegerNetwork(sesr)(x))
    assert capfd.readouterr() == ("", "")


def test_the_npu_form_runs_on_tflite_micro(sesr: Graph, judges: dict[str, object]) -> None:
    content = serialize_tflite(on_npu(sesr))
    x = torch.randint(-128, 128, (2, *sesr.input_shape[1:]), dtype=torch.int8)
    given = judges["tflite-micro"](content)(x)  # type: ignore[operator]
    assert torch.equal(torch.from_numpy(given), IntegerNetwork(sesr)(x))


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "npu", "cycles"),
    [
        # reference/cost.md, sections 2 and 3: Vela 5.2, High_End_Embedded, Shared_Sram
        ("mlperf_kws_int8", "ethos-u55-128", 89_900),
        ("micronet_kws_m_int8", "ethos-u55-128", 417_755),
    ],
)
def test_published_networks(shared_data: Path, file: str, npu: str, cycles: int) -> None:
    report = compile_graph(read_tflite(shared_data / "tflite" / f"{file}.tflite"), npu)
    assert report.cycles == cycles
    assert not report.cpu_ops


def test_cost_by_vela_says_so() -> None:
    module = SESR(channels=16, blocks=2, scale=2).eval()
    target = cost.target("ethos-u55-256")
    shape = (1, 1, 90, 160)
    given = cost.estimate(module, target, method="vela", input_shape=shape)
    rough = cost.estimate(module, target, input_shape=shape)
    assert given.method == "vela"
    assert given.macs == rough.macs
    assert given.parameters["weights"] == rough.parameters["weights"]
    assert given.latency_ms == pytest.approx(rough.latency_ms, rel=0.5)
    assert "Vela" in given.obtained["latency_ms"]
    assert "without 1 operator on the host CPU" in given.obtained["latency_ms"]
    assert given.notes[0].startswith("DEPTH_TO_SPACE")


@pytest.mark.parametrize("name", ["sesr-m5-x2", "sesr-m5-relu-x2"])
def test_a_recipe_is_estimated_like_its_trained_file(name: str, tmp_path: Path) -> None:
    """The network is fresh there: its slopes, all alike, must not pass for a cheap leaky ReLU."""
    shape = (1, 1, 90, 160)
    module = zoo.load(name)
    graph = quantize(module, [torch.rand(shape)], shape)
    (tmp_path / "a.tflite").write_bytes(serialize_tflite(graph))
    file = zoo.estimate(tmp_path / "a.tflite", "ethos-u55-256", method="vela")
    recipe = zoo.estimate(name, "ethos-u55-256", method="vela", input_shape=shape)
    assert recipe.latency_ms == pytest.approx(file.latency_ms, rel=0.02)
    rough = zoo.estimate(name, "ethos-u55-256", input_shape=shape)
    assert rough.latency_ms == pytest.approx(file.latency_ms, rel=0.1)


def test_what_vela_cannot_estimate() -> None:
    with pytest.raises(MismatchError, match="not an Ethos-U"):
        cost.estimate(nn.ReLU().eval(), cost.target("cpu"), method="vela", input_shape=(1, 3))
    graph = quantize(nn.Sequential(nn.Linear(4, 2)).eval(), [torch.rand(4, 4)], (1, 4))
    with pytest.raises(UnknownNameError, match="did you mean ethos-u55-256"):
        compile_graph(graph, "ethos-u55-255")


@pytest.mark.parametrize("npu", ["ethos-u65-256", "ethos-u65-512", "ethos-u85-256"])
def test_what_does_not_fit_the_sram_of_a_system_lies_in_its_dram(npu: str) -> None:
    device = cost.target(npu)
    layers = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)).eval()
    found = cost.estimate(layers, device, method="vela", input_shape=(1, 8, 240, 240))
    assert found.peak_activation_bytes <= device.numbers["sram_bytes"].value
    assert found.moved_bytes["dram"] > 2 * 8 * 240 * 240
    assert found.fits


def test_every_accelerator_of_vela_is_a_target() -> None:
    assert set(NPUS) <= set(cost.target_names())
    assert cost.target("ethos-u85-512").method == "roofline"
