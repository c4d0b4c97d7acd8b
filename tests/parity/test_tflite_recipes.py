"""Recipes of image-like networks, exported: runtimes, counters and Vela agree with us.

One of each kind, see `tests/recipes.py`; in `make test-slow` the others too.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.recipes import slow_but_for_one_of_each_kind, smaller
from tests.runtimes import LACKING
from zoo.cost.memory import plan
from zoo.cost.target import Steps
from zoo.cost.work import WORK
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.rewrite import on_npu
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.quantization.int8.qat import training_form
from zoo.registry import all_recipes
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe, Train
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, dequantized, quantized

Judges = dict[str, Any]  # see conftest.py
RECIPES = [
    recipe
    for recipe in all_recipes().values()
    if isinstance(recipe.make, Train) and len(recipe.input_shape) in (2, 4)
]
LONG = pytest.mark.parametrize("recipe", slow_but_for_one_of_each_kind(RECIPES))
_PIXELS = 128 * 128  # beyond them a smaller picture says the same, sooner
_MADE: dict[str, tuple[nn.Module, torch.Tensor, Graph]] = {}


def made(recipe: Recipe) -> tuple[nn.Module, torch.Tensor, Graph]:
    """Return a recipe's network with random weights, inputs for it and its int8 graph."""
    name = recipe.name
    if name not in _MADE:
        torch.manual_seed(0)
        recipe = smaller(recipe)
        sizes = recipe.input_shape[1:]
        if math.prod(sizes[1:]) > _PIXELS:
            sizes = (sizes[0], 32, 48)
        module, x = build(recipe).eval(), torch.rand(3, *sizes)
        shape = (1, *x.shape[1:])
        graph = quantize(module, [x], shape)
        if any(op.kind in LACKING.values() for op in graph.ops):  # in the form that all have
            graph = quantize(module, [x], shape, Options(npu=True))
        _MADE[name] = module, x, graph
    return _MADE[name]


@LONG
def test_runtimes_compute_our_integers(recipe: Recipe, judges: Judges) -> None:
    _, x, graph = made(recipe)
    given = quantized(graph, channels_last(x))
    wanted = IntegerNetwork(graph)(given)
    assert isinstance(wanted, torch.Tensor)
    assert len(wanted.unique()) > min(20, wanted.numel() // 2)  # it says something
    content = serialize_tflite(graph)
    for runtime, judge in judges.items():
        apart = np.abs(judge(content)(given).astype(int) - wanted.numpy())
        steps = _steps_of_litert(graph) if runtime == "litert-reference" else 0
        assert apart.max() <= steps
        assert steps != 1 or (apart > 0).mean() < (0.05 if _only_products(graph) else 0.005)


def _only_products(graph: Graph) -> bool:
    return all(op.kind == "fully_connected" for op in graph.ops if op.macs)


def _steps_of_litert(graph: Graph) -> int:
    """Return by how many steps LiteRT's reference kernels may differ from TFLite Micro's and ours.

    Of its kernels only fully connected layers round once, so that one of their outputs in some
    hundreds differs; by two inside blocks of ConvNeXt, which carry a step on, and by four at the
    end of recurrent layers, which carry it through 49 frames.
    """
    kinds = {op.kind for op in graph.ops}
    if {"fully_connected", "tanh"} <= kinds:
        return 4
    if {"fully_connected", "rsqrt"} <= kinds:
        return 2
    return int("fully_connected" in kinds)


@LONG
def test_the_memory_plan_is_tflite_micros(
    recipe: Recipe, arena_head: Callable[[bytes], int]
) -> None:
    *_, graph = made(recipe)
    head = arena_head(serialize_tflite(graph))
    assert plan(graph, "int8", in_place=False).arena_bytes == head


@LONG
def test_macs_are_torchs_and_velas(recipe: Recipe) -> None:
    module, x, graph = made(recipe)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x[:1])
    assert graph.macs == counter.get_total_flops() // 2
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    from zoo.deploy.vela import compile_graph

    averages = [op for op in graph.ops if op.kind in ("avg_pool2d", "mean")]
    pooled = sum(WORK.of(op).amount(graph, op, Steps()) for op in averages)
    padded, enlarged, curves, shares = (
        sum(graph.tensors[op.outputs[0]].elements for op in graph.ops if op.kind == kind)
        for kind in ("pad", "resize_nearest", "hard_swish", "softmax")
    )
    spread = sum(_between(graph, op) for op in graph.ops if op.kind == "transpose_conv2d")
    gates = _gated(graph)
    for npu in ("ethos-u55-128", "ethos-u65-512"):
        report = compile_graph(on_npu(graph), npu)
        # Averages too, curves that it fuses with no layer, what is enlarged, and channels that are
        # padded, each element up to twice; the two reductions of a softmax; and what a transposed
        # convolution does with the zeros between its inputs.
        more = 2 * padded + enlarged + curves + 2 * shares + spread + gates
        assert 0 <= report.macs - graph.macs - pooled <= more
        assert not report.cpu_ops
    # The U85 has a mode of its own for images of one channel, with fewer products for the first
    # layer.
    report = compile_graph(on_npu(graph), "ethos-u85-256")
    assert not report.cpu_ops
    first = graph.ops[0].macs if graph.tensors[graph.inputs[0]].shape[-1] == 1 else 0
    assert 0.95 * graph.macs - first / 2 < report.macs <= 1.05 * graph.macs + spread + gates


def _gated(graph: Graph) -> int:
    """Return the elements of the gates of recurrent layers, which Vela counts too.

    Where gates are put together from two forms, what it copies for that as well.
    """
    copied = [op for op in graph.ops if op.kind == "concat"]
    ops = [op for op in graph.ops if op.kind in ("tanh", "sigmoid", "mul")] + 2 * copied
    recurrent = any(op.kind == "tanh" for op in ops)
    return recurrent * sum(graph.tensors[op.outputs[0]].elements for op in ops)


def _between(graph: Graph, op: Op) -> int:
    """Return the products of a transposed convolution with zeros between its inputs."""
    places, channels = graph.tensors[op.outputs[0]].elements, graph.tensors[op.inputs[0]].shape[-1]
    return places * math.prod(op.attributes["kernel"]) * channels - op.macs


# Of int8 alone the battery of recipes says that it computes as the device does.
@pytest.mark.parametrize("scheme", [pytest.param("int8", marks=pytest.mark.slow), "int8-w4"])
@LONG
def test_it_can_be_trained_for_integers(recipe: Recipe, scheme: str, judges: Judges) -> None:
    """One step of `zoo train NAME --set quant=SCHEME`, and what it deploys, on a runtime."""
    module, x, _ = made(recipe)
    if any(isinstance(layer, nn.ConvTranspose2d) for layer in module.modules()):
        with pytest.raises(MismatchError, match="transposed ones"):
            training_form(module, [x], scheme)
        return
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
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning is not None
    steps = _steps_of_litert(graph) if lacks else 0
    np.testing.assert_allclose(
        dequantized(graph, torch.from_numpy(given)).numpy(),
        channels_last(deployed(x[:1])).numpy(),
        rtol=0,
        atol=steps * 1.01 * meaning.scale,
    )
