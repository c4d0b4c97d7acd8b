"""The cycle model of Ethos-U85 against Arm's compiler: blocks, chains, operators, networks."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.test_ethos_u import CASES
from zoo import cost
from zoo.cost.deployed import integer
from zoo.cost.ethos_u.blocks85 import blocks85, part_kernel, sparse
from zoo.cost.ethos_u.chains import chained
from zoo.cost.ethos_u.costs import laid_out
from zoo.cost.ethos_u.passes import Pass
from zoo.cost.learned.features import all_passes_of, compiled_order, passes_of
from zoo.cost.networks.builder import Builder
from zoo.cost.networks.families import network
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph, configuration
from zoo.graph.ir import Graph

regor = pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")

NAME = "ethos-u85-256"
SIZES = [f"ethos-u85-{size}" for size in (128, 256, 512, 1024, 2048)]
UNITS = {
    "Conv2D": "conv",
    "DepthwiseConv2D": "depthwise",
    "FullyConnected": "vector",
    "AvgPool": "pool",
    "MaxPool": "pool",
    "ReduceSum": "reduce",
}


def tables(graph: Graph, npu: str) -> dict[str, list[dict[str, str]]]:
    """Return the compiler's own tables of a network, among them the blocks that it chose."""
    settings, _ = configuration(npu)
    done = regor.compile(
        settings["architecture"],
        serialize_tflite(graph),
        "TFLITE",
        settings["system"],
        settings["options"],
    )
    found = done.opt_database.tables
    names = ("perf", "perf_debug", "perf_debug_main")
    return {
        n: [dict(zip(found[n].header, row, strict=True)) for row in found[n].data] for n in names
    }


def sizes(row: dict[str, str], name: str, sides: str = "hwc") -> Any:
    return tuple(int(float(row[f"{name}_{side}"] or 0)) for side in sides)


def blocks_alike(npu: str, indices: range) -> list[bool]:
    """Return of each pass of some networks whether its blocks are the compiler's."""
    array, alike = cost.target(npu).array, []
    for index in indices:
        drawn = network(21, index)[1]
        found = tables(drawn, npu)
        rest = {row["id"]: row for row in found["perf_debug"]}
        kinds = {row["id"]: row["operator"] for row in found["perf"]}
        for main in found["perf_debug_main"]:
            row, kind = rest[main["id"]], kinds[main["id"]]
            ofm = sizes(row, "ofm_shape")
            striped = sizes(row, "ofm_stripe") != ofm or row["ofm_strides_h"] == "2"
            if kind not in UNITS or striped:
                continue
            job = Pass(
                unit=UNITS[kind],  # type: ignore[arg-type]
                ifm=sizes(row, "ifm_shape"),
                ofm=ofm,
                kernel=sizes(row, "kernel_size", "yx"),
                stride=sizes(row, "kernel_stride", "yx"),
                dilation=sizes(row, "kernel_dilation", "yx"),
                in_bits=32 if row["ifm_dtype"] == "Int32" else 8,
            )
            if ("Sparse" in row["weight_format"]) != sparse(job):
                continue  # weights that happen to be sparse
            block = blocks85(job, array)
            want = tuple(sizes(main, f"{name}_block") for name in ("ifm", "ofm"))
            alike.append((block.ifm, block.ofm) == want)
            assert part_kernel(job) == (main["traversal"] == "PartKernel")
            assert block.micro == sizes(main, "ofm_ublock") or not alike[-1]
    return alike


@pytest.mark.parametrize("npu", SIZES)
def test_blocks_are_those_that_the_compiler_chooses(npu: str) -> None:
    found = blocks_alike(npu, range(14))
    assert len(found) > 80
    assert np.mean(found) > 0.9


# Two have other passes here; a PReLU of 32 channels alone takes 3.5 times as long as this says:
# each burst from DRAM brings it 16 bytes of 128.
OFF = frozenset(("silu", "bilinear", "prelu, 32"))
# Alone, with its input and output in DRAM, each of these waits in ways that networks seldom do.
ROUGH = frozenset(("strided", "dilated", "prelu, 16", "gelu", "nearest", "softmax"))


@pytest.mark.parametrize("name", [name for name in CASES if name not in OFF])
def test_each_operator_costs_what_the_compiler_says(name: str) -> None:
    torch.manual_seed(0)
    module, shape = CASES[name]
    graph = integer(module.eval(), shape)
    report = compile_graph(graph, NAME)
    given = cost.estimate(graph, cost.target(NAME), method="roofline")
    assert given.latency_ms == pytest.approx(report.latency_ms, rel=0.4 if name in ROUGH else 0.15)


def test_networks_are_near_the_compiler() -> None:
    device, off = cost.target(NAME), []
    for index in range(28):
        drawn = network(22, index)[1]
        ours = float(passes_of(drawn, device).cycles.sum())
        off.append(abs(ours / compile_graph(drawn, NAME).cycles - 1))
    assert np.median(off) < 0.03
    assert np.mean(off) < 0.05


def small() -> Builder:
    return Builder(np.random.default_rng(0), 16, 16, 16)


def test_a_sum_is_part_of_the_layer_before() -> None:
    b = small()
    first = b.conv(b.input, 16)
    drawn = b.graph(b.add(b.conv(first, 16), first))
    kinds = [op.kind for op in drawn.ops]
    found = chained(drawn, {})
    assert kinds.count("add") == 1
    assert [op.kind for op in found.ops] == [kind for kind in kinds if kind != "add"]
    last = found.ops[-1]
    assert (last.attributes["chained"], last.attributes["operands"]) == (1, 1)
    assert last.inputs[-1] == drawn.ops[0].outputs[0]
    jobs = laid_out(drawn, cost.target(NAME)).jobs
    assert [(job.chained, len(job.operands)) for job in jobs] == [(0, 0), (1, 1)]


def test_what_others_read_too_is_not_chained() -> None:
    b = small()
    first = b.conv(b.input, 16)
    second = b.conv(first, 16)
    drawn = b.graph(b.add(b.add(second, first), second))
    found = chained(drawn, {})
    assert [op.kind for op in found.ops] == ["conv2d", "conv2d", "add"]
    assert found.ops[-1].attributes["chained"] == 1  # the second sum, to the first
    tabled = {op.name: op.kind for op in drawn.ops if op.kind == "conv2d"}
    assert [op.kind for op in chained(drawn, tabled).ops] == ["conv2d", "conv2d", "add"]


def test_known_layers_are_those_taken_apart_anew() -> None:
    drawn = [network(23, index)[1] for index in range(14)]
    device = cost.target(NAME)
    for one, found in zip(drawn, all_passes_of(drawn, device), strict=True):
        ordered = dataclasses.replace(one, ops=compiled_order(one))
        layout = laid_out(ordered, device)
        assert len(layout.jobs) == len(found.cycles)
