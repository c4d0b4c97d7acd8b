"""SESR: collapsed equals expanded, and warm starts keep what they promise."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.models.blocks import CollapsibleConv2d, identity_kernel, linear_block
from zoo.models.sesr import SESR, ExpandedSESR


def randomize(module: torch.nn.Module, scale: float = 0.05) -> None:
    """Give every parameter, biases and slopes included, a value that matters."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    a=st.integers(1, 5),
    b=st.integers(1, 5),
    k=st.sampled_from([1, 3, 5]),
    p=st.integers(1, 12),
    size=st.integers(1, 9),
    residual=st.booleans(),
)
def test_a_collapsed_block_equals_its_factors_borders_included(a, b, k, p, size, residual):
    residual = residual and a == b
    torch.manual_seed(0)
    block = CollapsibleConv2d(a, b, k, expansion=p, residual=residual).double()
    randomize(block, 0.5)
    x = torch.randn(2, a, size, size + 1, dtype=torch.float64)
    torch.testing.assert_close(block(x), block.forward_expanded(x), atol=1e-10, rtol=0)


def test_the_kernel_is_the_response_to_an_impulse():
    """The paper's algorithm 1, a second way to the same kernel (bias taken out first)."""
    torch.manual_seed(1)
    block = CollapsibleConv2d(3, 4, 3, expansion=8).double()
    randomize(block)
    impulse = torch.zeros(3, 3, 5, 5, dtype=torch.float64)
    impulse[range(3), range(3), 2, 2] = 1
    assert block.project.bias is not None
    response = F.conv2d(F.conv2d(impulse, block.expand.weight), block.project.weight)
    weight, _ = block.collapse()
    torch.testing.assert_close(weight, response.flip(2, 3).transpose(0, 1))


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("channels", "blocks", "expansion"), [(16, 5, 24), (8, 2, 24), (16, 5, 0)])
def test_deployed_equals_expanded(channels, blocks, expansion, scale):
    torch.manual_seed(2)
    model = ExpandedSESR(channels, blocks, scale, expansion=expansion)
    randomize(model)
    y = torch.rand(2, 1, 13, 17)
    expanded = model(y, expanded=True)
    torch.testing.assert_close(model(y), expanded, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.deployed()(y), expanded.clamp(0, 1), atol=1e-5, rtol=0)


def test_the_x4_output_block_has_no_residual_though_its_widths_are_equal():
    """Defect 2 of the published code: 16 -> 16 there gains an identity in collapsed mode."""
    model = ExpandedSESR(16, 1, 4, expansion=8)
    for parameter in model.last.parameters():
        torch.nn.init.zeros_(parameter)
    weight, bias = model.last.collapse()
    assert not weight.any()
    assert not bias.any()


def test_a_network_of_zeros_is_nearest_neighbour():
    model = SESR(16, 2, 4)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    y = torch.rand(1, 1, 5, 6)
    torch.testing.assert_close(model(y), F.interpolate(y, scale_factor=4, mode="nearest"))


def test_output_channels_are_in_standard_depth_to_space_order():
    """Channel c of the last convolution is row c // s, column c % s of each cell."""
    for scale in (2, 4):
        model = SESR(16, 1, scale)
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        assert model.last.bias is not None
        model.last.bias.data = torch.arange(scale * scale) / 100
        cell = model(torch.zeros(1, 1, 3, 3))[0, 0, :scale, :scale]
        expected = torch.arange(scale * scale).view(scale, scale) / 100
        torch.testing.assert_close(cell, expected)


@pytest.mark.parametrize("expansion", [64, 0])
def test_expanding_a_deployed_network_is_exact_and_x4_starts_from_x2(expansion):
    torch.manual_seed(3)
    small = ExpandedSESR(16, 3, 2, expansion=expansion)
    randomize(small)
    deployed = small.deployed()
    again = deployed.trainable(expansion=expansion)
    again.load_deployed(deployed)
    y = torch.rand(1, 1, 12, 12)
    torch.testing.assert_close(again(y), small(y), atol=1e-5, rtol=0)

    large = SESR(16, 3, 4).trainable(expansion=expansion)
    before = [parameter.clone() for parameter in large.last.parameters()]
    large.load_deployed(deployed)
    for old, new in zip(before, large.last.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=0, rtol=0)
    warm = large.deployed()
    torch.testing.assert_close(warm.first.weight, deployed.first.weight, atol=1e-6, rtol=0)
    for ours, theirs in zip(warm.body, deployed.body, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=0)
    for ours, theirs in zip(warm.act, deployed.act, strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight, atol=0, rtol=0)


@pytest.mark.parametrize("expansion", [64, 0])
def test_a_deeper_network_starts_as_the_shallower_one_and_all_of_it_learns(expansion):
    torch.manual_seed(4)
    small = SESR(16, 3, 2)
    randomize(small)
    deep = SESR(16, 5, 2).trainable(expansion=expansion)
    deep.load_deployed(small)
    y = torch.rand(1, 1, 12, 12)
    torch.testing.assert_close(deep.deployed()(y), small(y), atol=1e-5, rtol=0)
    F.l1_loss(deep(y), torch.rand(1, 1, 24, 24)).backward()
    for block in deep.body:  # a kernel of 0 must not be one with two factors of 0
        assert any(bool(factor.grad.any()) for factor in block.parameters())


@pytest.mark.parametrize("network", [SESR(16, 5, 2), SESR(8, 3, 2)], ids=["deeper", "narrower"])
def test_a_start_that_does_not_fit_is_refused(network):
    with pytest.raises(ValueError, match="16 channels and at most 3 blocks"):
        ExpandedSESR(16, 3, 2, expansion=8).load_deployed(network)


@pytest.mark.parametrize("expansion", [8, 0])
def test_a_residual_needs_equal_widths(expansion):
    with pytest.raises(ValueError, match="equal widths"):
        linear_block(3, 4, 3, expansion=expansion, residual=True)


def test_plain_kernels_start_like_collapsed_ones():
    torch.manual_seed(6)
    for a, b, k in ((1, 16, 5), (16, 16, 3), (16, 4, 5)):
        spreads = [
            linear_block(a, b, k, expansion=expansion, residual=False).collapse()[0].std()
            for expansion in (256, 0)
        ]
        assert 0.6 < spreads[0] / spreads[1] < 1.6
    weight, bias = linear_block(16, 16, 3, expansion=0, residual=True).collapse()
    assert (weight - identity_kernel(weight)).abs().max() < 0.1
    assert not bias.any()


def test_identity_kernel_copies_its_input():
    x = torch.rand(1, 3, 6, 7)
    kernel = identity_kernel(torch.empty(3, 3, 5, 5))
    torch.testing.assert_close(F.conv2d(x, kernel, padding=2), x)


def test_training_in_collapsed_space_follows_the_expanded_loss_curve():
    """Thirty steps of Adam, same batches: the losses of the two forms agree to float tolerance."""
    curves = []
    for expanded in (False, True):
        torch.manual_seed(4)
        model = ExpandedSESR(16, 3, 2, expansion=32).double()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        generator = torch.Generator().manual_seed(5)
        losses = []
        for _ in range(30):
            y = torch.rand(4, 1, 10, 10, generator=generator, dtype=torch.float64)
            target = F.interpolate(y, scale_factor=2, mode="bilinear")
            loss = F.l1_loss(model(y, expanded=expanded), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    assert curves[0][-1] < 0.5 * curves[0][0]
    torch.testing.assert_close(curves[0], curves[1], atol=1e-7, rtol=0)
