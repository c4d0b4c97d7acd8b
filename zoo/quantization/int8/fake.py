"""Rounding that passes gradients on: what quantization-aware training computes with.

The forward pass returns real numbers that int8 can hold; the backward pass treats the rounding as
the identity (straight-through, Bengio et al., arXiv 1308.3432) and gives the limits of a range the
gradient of LSQ+ (Bhalgat et al., arXiv 2004.09576), written for limits instead of step and offset.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from zoo.graph.ir import Quantization

STEPS = 255  # in an int8 range
_SLACK = 1e-3  # steps: how far rounding itself may carry a value beyond half a step


def fake_quantize(
    x: Tensor, limits: Tensor, meaning: Quantization, nudge: Tensor | None = None
) -> Tensor:
    """Return x rounded and clipped to what int8 holds with this scale and zero point.

    With v = (x - low) / s and s = (high - low) / 255 the result is low + s round(v), within the
    range; holding the rounding error e = round(v) - v constant, its derivatives are

        inside   d/dx = 1    d/dhigh = e / 255    d/dlow = -e / 255
        below    d/dx = 0    d/dhigh = 0          d/dlow = 1
        above    d/dx = 0    d/dhigh = 1          d/dlow = 0

    Args:
        x: any shape, float32.
        limits: (low, high), from which `meaning` was made and which receive the gradient.
        meaning: one scale and zero point.
        nudge: what the device's way of rounding adds, in steps; see `double_rounding`.

    """
    y: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        x, limits, meaning.scale, meaning.zero_point, nudge
    )
    return y


def double_rounding(factors: Tensor) -> Tensor:
    """Return what rounding twice adds to the magnitude of a result before it is rounded once.

    A kernel multiplies its integers by a factor r in [2^(-e-1), 2^-e) in fixed point: to the
    nearest 2^-e, then to the nearest integer. Hence values less than 2^-(e+1) below the midpoint of
    two steps go up; see `zoo.runtime.rescale`.
    """
    exponent = torch.frexp(factors)[1]
    return torch.where(exponent < 0, torch.exp2(exponent - 1.0), 0.0).float()


class _FakeQuantize(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, limits: Tensor, scale: float, zero_point: int, nudge: Tensor | None
    ) -> Tensor:
        low, high = -128 - zero_point, 127 - zero_point
        result = torch.div(x, scale)
        if nudge is not None:
            result.add_(nudge)
        result = result.round_().clamp_(low, high).mul_(scale)
        ctx.save_for_backward(result - x)
        ctx.scale = scale
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = ctx.saved_tensors  # over half a step where x was cut: above 0 if from below
        half = (0.5 + _SLACK) * ctx.scale
        inside = torch.ops.aten.hardtanh_backward(gradient, error, -half, half)
        outside = (gradient - inside).reshape(-1)
        both, difference = outside.sum(), torch.dot(outside, error.sign().reshape(-1))
        within = torch.dot(inside.reshape(-1), error.reshape(-1)) / (ctx.scale * STEPS)
        limits = torch.stack(((both + difference) / 2 - within, (both - difference) / 2 + within))
        return inside, limits, None, None, None


def through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded`, which is x on another grid, with the gradient of x."""
    y: Tensor = _Through.apply(x, rounded)  # type: ignore[no-untyped-call]
    return y


class _Through(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def weight_steps(weight: Tensor, axis: int | None, bits: int) -> Tensor:
    """Return the scales of symmetric weights, from the largest magnitude of each channel.

    Args:
        weight: a layer's weight.
        axis: the dimension with a scale per index; None for one scale.
        bits: the integers go from -(2^(bits - 1) - 1) to that number.

    Returns:
        Float64 values that float32 holds, shaped to multiply the weights; as
        `zoo.quantization.int8.post_training` chooses them.

    """
    magnitude = weight.detach().double().abs()
    others = [dim for dim in range(weight.ndim) if dim != axis]
    largest = magnitude.amax(others, keepdim=True)
    most = largest.amax()
    dead = torch.where(most > 0, most, torch.ones_like(most))  # a channel of zeros
    largest = torch.where(largest > 0, largest, dead)
    return (largest / (2 ** (bits - 1) - 1)).float().double()


def round_weight(weight: Tensor, scales: Tensor, bits: int) -> Tensor:
    """Return weights as integers of this many bits times their scales, float32."""
    most = 2 ** (bits - 1) - 1
    steps = (weight.detach().double() / scales).round_().clamp_(-most, most)
    return through(weight, (steps * scales).float())


def round_bias(bias: Tensor, scales: Tensor) -> Tensor:
    """Return a bias as whole steps of the sums it is added to, float32.

    Args:
        bias: (channels,).
        scales: (channels,) or (1,): scale of the inputs times scale of the weights, float64.

    """
    steps = (bias.detach().double() / scales).round_()
    return through(bias, (steps * scales).float())
