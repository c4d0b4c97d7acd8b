"""RAN-explicit: the published counts, and the deployed network is the trained one, exactly."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zoo
from zoo.cost.estimators.contract import Subject
from zoo.cost.estimators.vela import integer_graph
from zoo.deploy.vela import compile_graph
from zoo.errors import MismatchError
from zoo.graph.kinds import MAC_KINDS
from zoo.graph.lower import lower
from zoo.models.blocks import CollapsibleConv2d, Convolution
from zoo.models.ran.efficientnet_lite import EfficientNetLite
from zoo.models.ran.explicit import RanE
from zoo.registry import find
from zoo.registry.checkpoint import build

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/ran_e.toml").read_text())


def stir(network: nn.Module) -> None:
    """Give every number of every batch norm a value that matters."""
    generator = torch.Generator().manual_seed(3)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            for value in (layer.bias.data, layer.running_mean):
                value.normal_(0, 0.3, generator=generator)


def trained(network: RanE | EfficientNetLite, **options: Any) -> nn.Module:
    form = network.trainable(**options).double().eval()
    stir(form)
    return form


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_the_counts_are_the_published_ones(name: str) -> None:
    recipe, golden = find(name), GOLDEN[name]
    network = build(recipe)
    form = network.trainable()  # type: ignore[operator]
    parameters = sum(value.numel() for value in form.parameters())
    statistics = sum(
        n.running_mean.numel() * 2 for n in form.modules() if hasattr(n, "running_mean")
    )
    macs = lower(network, recipe.input_shape).macs
    assert f"{(parameters + statistics) / 1e6:.1f}" == golden["published"][0]
    assert macs / 1e6 == pytest.approx(golden["published"][1], abs=1.5)
    assert f"{parameters / 1e6:.3f}" == golden["parameters"]
    assert f"{macs / 1e6:.1f}" == golden["macs"]
    if "exact" in golden:
        assert [parameters, macs] == golden["exact"]


BLOCK = st.tuples(
    st.sampled_from(["collapsed", "bottleneck"]),
    st.sampled_from([4, 6]),  # outputs: often those of the block before, so that inputs are added
    st.sampled_from([1, 3, 5]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 1, 2]),
    st.sampled_from([0, 0, 3]),
).map(lambda row: row if row[4] == 1 else (*row[:5], 0))


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.lists(BLOCK, min_size=1, max_size=4),
    stem_stride=st.sampled_from([1, 2]),
    expansion=st.sampled_from([0, 1, 7]),
    size=st.tuples(st.integers(5, 17), st.integers(5, 17)),
)
def test_collapsed_equals_expanded(
    blocks: list[Any], stem_stride: int, expansion: int, size: tuple[int, int]
) -> None:
    """Biases, batch norms and factors move into the kernels, at every border and stride."""
    torch.manual_seed(0)
    network = RanE(
        blocks, 3, stem=4, stem_stride=stem_stride, top=5, top_kernel=3, in_chans=2
    ).eval()
    form = trained(network, expansion=expansion)
    deployed = form.deployed()  # type: ignore[operator]
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = form(x)
        torch.testing.assert_close(deployed(x), expected, atol=1e-10, rtol=1e-10)
    kinds = {type(layer) for layer in deployed.modules()}
    assert not kinds & {nn.BatchNorm2d, CollapsibleConv2d}
    network.double().load_state_dict(deployed.state_dict())  # the very layers of a deployed one
    started = network.trainable(expansion=expansion).double()
    started.load_deployed(deployed)
    with torch.no_grad():
        torch.testing.assert_close(started.eval()(x), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_factors_compute_what_their_kernel_does(stride: int) -> None:
    torch.manual_seed(0)
    block = CollapsibleConv2d(3, 5, 3, expansion=7, stride=stride, bias=False).double()
    plain = Convolution(3, 5, 3, stride, act="").double()
    weight, bias = block.collapse()
    assert not bias.any()
    plain.layer.weight.data.copy_(weight)
    x = torch.randn(1, 3, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(block(x), plain(x))
    torch.testing.assert_close(block.forward_expanded(x), plain(x))
    one = block.collapsed()
    assert one.stride == (stride, stride)
    torch.testing.assert_close(one.weight, weight)


def test_only_what_follows_a_sum_keeps_its_norm_as_an_operator() -> None:
    graph = lower(build(find("ran-e-c")), (1, 3, 32, 32))
    scales = [
        op
        for op in graph.ops
        if op.kind == "depthwise_conv2d" and op.attributes["kernel"] == (1, 1)
    ]
    assert [op.module for op in scales] == [f"blocks.{n}.before.scale" for n in (5, 7, 10, 13)]
    kinds = {op.kind for op in graph.ops}
    assert kinds <= {
        "conv2d", "depthwise_conv2d", "hard_swish", "add", "avg_pool2d", "reshape",
        "fully_connected",
    }  # fmt: skip


def test_features_are_the_maps_before_the_last_layer() -> None:
    for name, channels in (("ran-e-gt", 1344), ("efficientnet-lite-b0", 1280)):
        recipe = find(name)
        network = build(recipe)
        assert network.forward_features(torch.rand(1, 3, 64, 96)).shape == (1, channels, 2, 3)  # type: ignore[operator]
    grey = RanE([("collapsed", 4, 3, 1, 1)], 2, stem=4, top=4, in_chans=1)
    assert grey(torch.rand(1, 1, 8, 8)).shape == (1, 2)


def test_dropout_is_for_training_alone() -> None:
    network = EfficientNetLite(4).eval()
    form = network.trainable(dropout=0.5)
    x = torch.rand(2, 3, 32, 32)
    form.eval()
    assert form(x).equal(form(x))
    form.train()
    form.load_deployed(network)  # without norms, so that dropout alone makes a difference
    assert not form(x).equal(form(x))
    assert not form.deployed().training


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("dense", 4, 3, 2, 1), "expected one of collapsed, bottleneck"),
        (("collapsed", 4, 4, 2, 1), "an odd kernel"),
        (("collapsed", 4, 3, 2, 2, 4), "with a middle its stride is 1"),
        (("collapsed", 4), "missing 3 required"),
    ],
)
def test_a_row_that_is_none_is_told(row: tuple[Any, ...], told: str) -> None:
    recipe = dataclasses.replace(find("ran-e-32"), args={"blocks": [row], "num_classes": 2})
    with pytest.raises(MismatchError, match=told):
        build(recipe)


@pytest.mark.parametrize("name", ["ran-e-c", pytest.param("ran-e-gt", marks=pytest.mark.slow)])
def test_int8_runs_on_the_npu_alone_and_in_the_published_order(name: str) -> None:
    """The paper's order, where both have h-swish; benchmarks/ran_explicit.py says more."""
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    recipe = find(name)
    baseline = EfficientNetLite(act="hswish").eval()
    for npu in ("ethos-u55-128", "ethos-u65-512"):
        found = zoo.estimate(recipe, npu, method="vela")
        assert found.host == ()
        assert found.latency_ms < zoo.estimate(
            baseline, npu, method="vela", input_shape=recipe.input_shape
        ).latency_ms  # fmt: skip


def test_what_vela_says_of_each_operator_adds_up() -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    recipe = find("ran-e-32")
    graph = integer_graph(Subject(module=build(recipe), input_shape=recipe.input_shape))
    found = compile_graph(graph, "ethos-u55-128")
    cycles = {told.number: told.cycles for told in found.ops}
    assert set(cycles) <= set(range(len(graph.ops)))
    layers = [n for n, op in enumerate(graph.ops) if op.kind in MAC_KINDS]
    assert all(cycles[number] > 0 for number in layers)
    assert 0.5 * found.cycles < sum(cycles.values()) < 2 * found.cycles
