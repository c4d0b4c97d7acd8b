"""Every recipe of an image-like network, exported: runtimes, counters and Vela agree with us."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.runtimes import LACKING
from tests.tried import tried
from zoo import registry
from zoo.cost.memory import plan
from zoo.cost.target import Steps
from zoo.cost.work import WORK
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph.ir import Graph
from zoo.graph.rewrite import on_npu
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.quantization.int8.qat import training_form
from zoo.registry.checkpoint import build
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, dequantized, quantized

Judges = dict[str, Any]  # see conftest.py
NAMES = [name for name in registry.names("*") if len(registry.find(name).input_shape) == 4]
_PIXELS = 128 * 128  # beyond them a smaller picture says the same, sooner
_MADE: dict[str, tuple[nn.Module, torch.Tensor, Graph]] = {}


def made(name: str) -> tuple[nn.Module, torch.Tensor, Graph]:
    """Return a recipe's network with random weights, inputs for it and its int8 graph."""
    if name not in _MADE:
        torch.manual_seed(0)
        recipe = tried(registry.find(name))
        _, channels, height, width = recipe.input_shape
        if height * width > _PIXELS:
            height, width = 32, 48
        module, x = build(recipe).eval(), torch.rand(3, channels, height, width)
        shape = (1, *x.shape[1:])
        graph = quantize(module, [x], shape)
        if any(op.kind in LACKING.values() for op in graph.ops):  # in the form that all have
            graph = quantize(module, [x], shape, Options(npu=True))
        _MADE[name] = module, x, graph
    return _MADE[name]


@pytest.mark.parametrize("name", NAMES)
def test_runtimes_compute_our_integers(name: str, judges: Judges) -> None:
    _, x, graph = made(name)
    given = quantized(graph, channels_last(x))
    wanted = IntegerNetwork(graph)(given)
    assert isinstance(wanted, torch.Tensor)
    assert len(wanted.unique()) > min(20, wanted.numel() // 2)  # it says something
    content = serialize_tflite(graph)
    for judge in judges.values():
        np.testing.assert_array_equal(judge(content)(given), wanted.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_plan_is_tflite_micros(name: str, arena_head: Callable[[bytes], int]) -> None:
    *_, graph = made(name)
    head = arena_head(serialize_tflite(graph))
    assert plan(graph, "int8", in_place=False).arena_bytes == head


@pytest.mark.parametrize("name", NAMES)
def test_macs_are_torchs_and_velas(name: str) -> None:
    module, x, graph = made(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x[:1])
    assert graph.macs == counter.get_total_flops() // 2
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    from zoo.deploy.vela import compile_graph

    averages = [op for op in graph.ops if op.kind in ("avg_pool2d", "mean")]
    pooled = sum(WORK.of(op).amount(graph, op, Steps()) for op in averages)
    padded, enlarged = (
        sum(graph.tensors[op.outputs[0]].elements for op in graph.ops if op.kind == kind)
        for kind in ("pad", "resize_nearest")
    )
    for npu in ("ethos-u55-128", "ethos-u65-512"):
        report = compile_graph(on_npu(graph), npu)
        # Averages too, what is enlarged, and channels that are padded, each element up to twice.
        assert 0 <= report.macs - graph.macs - pooled <= 2 * padded + enlarged
        assert not report.cpu_ops
    # The U85 has a mode of its own for images of one channel, with fewer products for the first
    # layer.
    report = compile_graph(on_npu(graph), "ethos-u85-256")
    assert not report.cpu_ops
    first = graph.ops[0].macs if graph.tensors[graph.inputs[0]].shape[-1] == 1 else 0
    assert 0.95 * graph.macs - first / 2 < report.macs <= 1.05 * graph.macs


@pytest.mark.parametrize("scheme", ["int8", "int8-w4"])
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_trained_for_integers(name: str, scheme: str, judges: Judges) -> None:
    """One step of `zoo train NAME --set quant=SCHEME`, and what it deploys, on a runtime."""
    module, x, _ = made(name)
    form = training_form(module, [x], scheme)
    before = form(x)
    before.square().mean().backward()
    gradients = [p.grad for p in form.parameters() if p.requires_grad]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in gradients)
    torch.optim.SGD(form.parameters(), lr=1e-4).step()
    deployed = form.deployed()
    graph = deployed.graph((1, *x.shape[1:]))
    lacks = any(op.kind == LACKING["tflite-micro"] for op in graph.ops)
    judge = judges["litert-reference" if lacks else "tflite-micro"](serialize_tflite(graph))
    given = judge(quantized(graph, channels_last(x[:1])))
    np.testing.assert_array_equal(
        dequantized(graph, torch.from_numpy(given)).numpy(), channels_last(deployed(x[:1])).numpy()
    )
