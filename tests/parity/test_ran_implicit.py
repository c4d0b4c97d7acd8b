"""RAN-i: the counts and networks that were published, and scaling that finds them again."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ConvNextConfig, ConvNextForImageClassification

import zoo
from zoo.errors import MismatchError
from zoo.models.convnext import ConvNeXt
from zoo.nas.expressivity import Topology
from zoo.nas.scaling import candidates, read, scale
from zoo.registry import find
from zoo.registry.checkpoint import build

GOLDEN = tomllib.loads((Path(__file__).parents[1] / "golden/ran.toml").read_text())
T = Topology(depths=(3, 3, 9, 3), dims=(96, 192, 384, 768))


def topology(name):
    recipe = find(name)
    return Topology(
        depths=tuple(recipe.args["depths"]),
        dims=tuple(recipe.args["dims"]),
        patch=recipe.args.get("patch", 4),
        num_classes=recipe.args["num_classes"],
        size=recipe.input_shape[2:],
    )


def counted(network, size):
    """Multiplications of one picture, as torch counts them; on the device meta."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, network.in_chans, *size, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("name", GOLDEN)
def test_counts_are_those_that_were_published(name):
    golden, shape = GOLDEN[name], topology(name)
    with torch.device("meta"):
        trained = build(find(name)).trainable()
    parameters = sum(parameter.numel() for parameter in trained.parameters())
    assert round(parameters / 1e6, 2) == golden["millions"]
    assert abs(shape.macs / 1e9 - golden["gmacs"]) < 0.0101  # some authors round up
    assert shape.macs == counted(trained, shape.size)
    assert shape.nn_mass == golden["nn_mass"]


def test_the_ratio_to_convnext_base_is_that_of_the_paper():
    assert round(topology("convnext-b").macs / topology("ran-i-base").macs, 2) == 1.82


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_widths_in_eights_change_the_macs_little(size):
    published, rounded = topology(f"ran-i-{size}"), topology(f"ran-i-{size}-r8")
    assert rounded.depths == published.depths
    assert not any(width % 8 for width in rounded.dims)
    assert all(abs(a - b) <= 4 for a, b in zip(published.dims, rounded.dims, strict=True))
    assert 1 <= rounded.macs / published.macs < 1.03


@pytest.mark.parametrize(
    ("name", "depth"), [("ran-i-tiny", 1.65), ("ran-i-small", 1.65), ("ran-i-base", 2.3)]
)
def test_scaling_convnext_finds_the_published_networks(name, depth):
    wanted = topology(name)
    found = scale(T, wanted.macs, depth=(1, depth))
    assert found.topology == wanted
    assert found.depth == depth


def test_the_small_recipe_is_the_small_base_scaled():
    base = zoo.load("convnext-micro", pretrained=False)
    shape = read(base, (32, 32))
    found = scale(base, shape.macs, depth=(1, 1.65), multiple=4, size=(32, 32))
    assert found.topology == topology("ran-i-micro")
    assert found.base == shape
    assert found.topology.nn_mass > shape.nn_mass
    assert found.topology.nonlinear_units > shape.nonlinear_units


shapes = st.integers(1, 4).flatmap(
    lambda stages: st.builds(
        Topology,
        depths=st.tuples(*[st.integers(1, 3)] * stages),
        dims=st.tuples(*[st.integers(2, 20)] * stages),
        patch=st.sampled_from([1, 2, 4]),
        in_chans=st.integers(1, 4),
        num_classes=st.integers(0, 5),
        size=st.tuples(st.integers(32, 50), st.integers(32, 50)),
    )
)


@settings(max_examples=10, deadline=None)
@given(shapes)
def test_a_shape_is_read_back_from_its_network_and_counts_as_torch_does(shape):
    network = shape.network()
    assert read(network, shape.size) == shape
    assert shape.macs == counted(network.to("meta"), shape.size)


@settings(max_examples=30, deadline=None)
@given(shapes, st.floats(0.05, 3), st.sampled_from([1, 2, 8]))
def test_candidates_are_the_widest_within_the_budget(shape, share, multiple):
    budget, width = share * shape.macs, (0.5, 1.5)
    for one in candidates(shape, budget, (1, 2), width, multiple):
        if one is None:
            continue
        assert one.topology.macs <= budget
        assert not any(dim % multiple for dim in one.topology.dims)
        wider = next(candidates(shape, 1e15, (one.depth, one.depth), width, multiple))
        assert wider.topology.macs >= one.topology.macs
        if one.width < width[1]:  # a ten-thousandth more would be too much
            least = (one.width + 1e-4, width[1])
            assert next(candidates(shape, budget, (one.depth,) * 2, least, multiple)) is None


def test_reads_transformers_network_of_the_hub():
    theirs = ConvNextForImageClassification(ConvNextConfig(num_labels=7))
    assert read(theirs) == Topology(depths=T.depths, dims=T.dims, num_classes=7)


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (1, 2, 1, 3)])
def test_reads_stages_of_one_block_whatever_they_are_wrapped_in(depths):
    widths = (8, 16, 24, 32)
    config = ConvNextConfig(depths=list(depths), hidden_sizes=list(widths), num_labels=7)
    wanted = Topology(depths=depths, dims=widths, num_classes=7)
    assert read(ConvNextForImageClassification(config)) == wanted


class Mixer(nn.Module):
    """Blocks like ConvNeXt's after a stem that is none of its kind."""

    def __init__(self, extra):
        super().__init__()
        self.body = ConvNeXt([1, 1], [8, 12], 4)
        self.extra = extra

    def forward(self, x):
        return self.extra(self.body(x))


def test_refuses_networks_that_are_not_convnext_like():
    for network in (nn.Linear(3, 3), nn.Conv2d(3, 8, 4, 4), zoo.load("mlperf-tiny-ic")):
        with pytest.raises(MismatchError, match="is not ConvNeXt-like; expected blocks of a 7x7"):
            read(network)
    with pytest.raises(MismatchError, match=r"it has 118,064 MACs, where stages of \[1, 1\]"):
        read(Mixer(nn.Sequential(nn.Linear(4, 200), nn.Linear(200, 4))), (32, 32))
    with pytest.raises(MismatchError, match="cannot be followed with pictures"):
        read(Mixer(nn.Linear(5, 4)), (32, 32))
    with pytest.raises(MismatchError, match="cannot be followed with pictures"):
        read(ConvNeXt([1] * 4, [8] * 4), (16, 16))
    with pytest.raises(MismatchError, match="the base is 'convnext-t'; expected a network"):
        read("convnext-t")
    with pytest.raises(MismatchError, match="16x16 pixels are too small for 4 stages"):
        replace(T, size=(16, 16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"macs": 1e6}, r"1,000,000 MACs are below the smallest .* \[24, 48, 96, 192\] with 301,0"),
        ({"macs": 0}, "budget of 0 MACs"),
        ({"macs": float("nan")}, "budget of nan MACs"),
        ({"macs": 1e9, "depth": (2, 1)}, r"depth is \(2, 1\); expected two"),
        ({"macs": 1e9, "width": (0, 1)}, r"width is \(0, 1\); expected two"),
        ({"macs": 1e9, "multiple": 0}, "multiples of 0"),
        ({"macs": "1G"}, "budget of '1G' MACs; expected a positive number, e.g. 1e9"),
        ({"macs": None}, "budget of None MACs"),
        ({"macs": 1e9, "depth": 2}, "depth is 2; expected two"),
        ({"macs": 1e9, "width": ("a", 1)}, "width is .'a', 1.; expected two"),
        ({"macs": 1e9, "multiple": 1.5}, "multiples of 1.5; expected a whole number"),
    ],
)
def test_refuses_budgets_and_ranges(arguments, message):
    with pytest.raises(MismatchError, match=message):
        scale(T, **arguments)
