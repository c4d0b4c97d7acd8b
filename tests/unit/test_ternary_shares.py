"""Shares of real filters, layer by layer, through the budget that bits and ranks have too."""

import dataclasses

import pytest
import torch

from zoo.compression.shares import allocated, filter_losses
from zoo.errors import MismatchError
from zoo.models.blocks.ternary import stored_bytes
from zoo.registry import find
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

HYBRID = find("mobilenet-v1-025-hybrid")


@pytest.fixture(scope="module")
def dense() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(find("mobilenet-v1-025"))


@pytest.fixture(scope="module")
def inputs() -> list[torch.Tensor]:
    return list(torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(3))


def size(recipe: Recipe) -> int:
    return stored_bytes(build(recipe))


def test_layers_compete_for_the_bytes_of_a_uniform_share(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    made = allocated(HYBRID, dense, inputs, 0.5)
    shares = made.args["alpha"]
    assert len(shares) == 13
    assert len(set(shares)) > 1
    assert 0.97 * size(HYBRID) < size(made) <= size(HYBRID)


def test_nothing_is_left_to_choose_for_the_fewest_bytes(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    assert allocated(HYBRID, dense, inputs, 0.0).args["alpha"] == [0.0] * 13


def test_a_layer_that_is_ternary_already_loses_nothing(inputs: list[torch.Tensor]):
    torch.manual_seed(0)
    network = build(find("mobilenet-v1-025"))
    layer = dict(network.named_modules())["layers.2.parts.0.conv"]
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sign() * 0.1)
    losses = filter_losses(network, inputs)
    assert losses["layers.2"].max() < 1e-9
    assert losses["layers.4"].min() > 0


def test_what_cannot_be_allocated_is_one_clear_line(
    dense: torch.nn.Module, inputs: list[torch.Tensor]
):
    with pytest.raises(MismatchError, match=r"alpha is 1\.5; expected 0 to 1"):
        allocated(HYBRID, dense, inputs, 1.5)
    with pytest.raises(MismatchError, match="this is a DsCnn"):
        allocated(HYBRID, build(find("ds-cnn-s")), inputs)
    with pytest.raises(MismatchError, match="whose filters are all real"):
        allocated(HYBRID, build(HYBRID), inputs)
    with pytest.raises(MismatchError, match="there are none"):
        allocated(dataclasses.replace(HYBRID), dense, [])
