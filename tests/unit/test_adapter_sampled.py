"""Sampled backward passes: the masked entries of a dense gradient, and nothing else changes."""

import pytest
import torch
from torch import nn

from zoo.adapters import masks, sampled
from zoo.adapters.compact import CompactValues
from zoo.adapters.recipe import MaskOptions


def network(bias=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 60, bias=bias), nn.Tanh(), nn.Linear(60, 30, bias=bias))


def gradients(model, x, options):
    """The gradient of the compact values by one backward pass, and the model's dense ones."""
    compact = CompactValues(model, masks.choose(model, options))
    handles = compact.attach(model)
    kinds = {type(handle).__name__ for handle in handles}
    model(x).square().mean().backward()
    ours = compact.values.grad
    for handle in handles:
        handle.remove()
    model.requires_grad_(True)
    model(x).square().mean().backward()
    dense = torch.cat(
        [
            model.get_parameter(name).grad.flatten()[compact.flat[part]]
            for name, part in compact.slices().items()
        ]
    )
    return ours, dense, kinds


@pytest.mark.parametrize("shape", [(7, 40), (3, 5, 40)])
@pytest.mark.parametrize("kind", ["wm", "rand", "block"])
def test_sampled_gradients_equal_dense_ones(shape, kind):
    torch.manual_seed(1)
    x = torch.randn(shape)
    ours, dense, kinds = gradients(network(), x, MaskOptions(kind=kind, density=0.03, block=4))
    assert kinds == {"Sampled"}
    torch.testing.assert_close(ours, dense, atol=1e-7, rtol=1e-4)


def test_dense_masks_and_shared_weights_keep_the_hook():
    _, _, kinds = gradients(network(), torch.randn(4, 40), MaskOptions(density=0.5))
    assert kinds == {"RemovableHandle"}
    model = nn.ModuleList([nn.Linear(40, 40), nn.Linear(40, 40)])
    model[1].weight = model[0].weight
    indices = masks.choose(model, MaskOptions(density=0.01))["0.weight"]
    assert sampled.takes(model, "0.weight", indices) is None


def test_inputs_and_micro_batches_get_their_gradients():
    model, reference = network(), network()
    compact = CompactValues(model, masks.choose(model, MaskOptions(density=0.02)))
    handles = compact.attach(model)
    x = torch.randn(6, 40, requires_grad=True)
    other = x.detach().clone().requires_grad_()
    for part in (slice(0, 2), slice(2, 6)):
        model(x[part]).square().sum().backward()
    reference(other).square().sum().backward()
    torch.testing.assert_close(x.grad, other.grad)
    dense = [
        reference.get_parameter(n).grad.flatten()[compact.flat[p]]
        for n, p in compact.slices().items()
    ]
    torch.testing.assert_close(compact.values.grad, torch.cat(dense), atol=1e-5, rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())  # none was made
    assert "forward" in vars(model[0])
    for handle in handles:
        handle.remove()
    assert all("forward" not in vars(layer) for layer in model)
    with torch.no_grad():
        assert torch.equal(model(x), reference(x))


def test_mixed_precision_gives_the_same_gradient_to_its_precision():
    model, reference = network(), network()
    compact = CompactValues(model, masks.choose(model, MaskOptions(density=0.02)))
    compact.attach(model)
    x = torch.randn(64, 40)
    for net in (model, reference):
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x)
        y.float().square().mean().backward()
    dense = [
        reference.get_parameter(n).grad.flatten()[compact.flat[p]]
        for n, p in compact.slices().items()
    ]
    scale = torch.cat(dense).abs().max().item()
    torch.testing.assert_close(compact.values.grad, torch.cat(dense), atol=0.02 * scale, rtol=0.05)


def test_a_bf16_base_is_sampled_in_fp32():
    model = network(bias=False).bfloat16()
    ours, dense, kinds = gradients(model, torch.randn(9, 40).bfloat16(), MaskOptions(density=0.02))
    assert kinds == {"Sampled"}
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, dense.float(), atol=1e-4, rtol=2e-2)
