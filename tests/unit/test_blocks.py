"""Layers that families share: what makes training them quick keeps their numbers."""

import pytest
import torch
from torch import Tensor

from zoo.models.blocks import Classifier, Convolution


class Pooled(Classifier):
    """A map's mean and a linear layer, and nothing before it."""

    def __init__(self) -> None:
        super().__init__(6, 3)
        self.complete()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.logits(x)


@pytest.mark.parametrize("stride", [1, 2])
def test_strided_depthwise_layers_are_computed_in_float_under_bf16(stride: int) -> None:
    """On CPUs the gradients of these take ten times as long in bf16, and they are few products."""
    torch.manual_seed(0)
    layer = Convolution(8, 8, 3, stride, depthwise=True, act="relu6", norm=True).train()
    x = torch.randn(2, 8, 9, 5, requires_grad=True)
    exact = layer(x)
    (expected,) = torch.autograd.grad(exact.sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    (gradient,) = torch.autograd.grad(found.float().sum(), x)
    assert found.dtype == (torch.float32 if stride == 2 else torch.bfloat16)
    if stride == 2:
        assert torch.equal(found, exact)
        assert torch.equal(gradient, expected)


def test_doubles_stay_doubles() -> None:
    layer = Convolution(4, 4, 3, 2, depthwise=True).double().train()
    assert layer(torch.randn(1, 4, 6, 6, dtype=torch.float64)).dtype == torch.float64


def test_gradients_of_the_mean_lie_as_the_map_does() -> None:
    """A gradient without that layout makes each layer before it several times slower."""
    torch.manual_seed(0)
    network, last = Pooled(), torch.channels_last
    x = torch.randn(2, 6, 5, 4).contiguous(memory_format=last).requires_grad_()
    trained = network.train()(x)
    (gradient,) = torch.autograd.grad(trained.sum(), x)
    assert gradient.is_contiguous(memory_format=last)
    torch.testing.assert_close(trained, network.eval()(x))
