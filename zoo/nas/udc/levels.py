"""Weights of few levels, as the device has them, with a gradient for weights and steps.

Level k of 2 m + 1 is k s, with a step s for each output channel. A device keeps 8 bits whatever m
is: it has the integer rint(127 k / m) and the scale m s / 127. Its weight code writes few different
integers in few bits.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

LEVELS = 127  # of the device, on either side of 0
_SHARES = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the largest weight: where the top level may be


def levels_of(bits: int) -> int:
    """Return how many levels so many bits have on either side of 0."""
    return int(2 ** (bits - 1) - 1)


def largest(weight: Tensor, axis: int | None) -> Tensor:
    """Return the largest magnitude for each index of `axis`, shaped to multiply the weights.

    What holds only zeros gets the largest of all, as an exporter gives it.
    """
    magnitude = weight.detach().abs()
    found = magnitude.amax([dim for dim in range(weight.ndim) if dim != axis], keepdim=True)
    most = found.amax()
    return torch.where(found > 0, found, torch.where(most > 0, most, torch.ones_like(most)))


def on_levels(weight: Tensor, step: Tensor, levels: int) -> Tensor:
    """Return weights as the device's integers times their scale.

    With v = weight / step the derivatives are those of LSQ (Esser et al., arXiv 1902.08153):
    inside the levels d/dweight = 1 and d/dstep = round(v) - v, beyond them 0 and the last level.

    Args:
        weight: any shape.
        step: shaped to divide the weights; positive.
        levels: on either side of 0.

    """
    y: Tensor = _OnLevels.apply(weight, step, levels)  # type: ignore[no-untyped-call]
    return y


class _OnLevels(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, step: Tensor, levels: int) -> Tensor:
        exact = weight / step
        level = exact.round().clamp_(-levels, levels)
        ctx.save_for_backward(exact, level, step)
        ctx.levels = levels
        return device_integers(level, levels) * device_scale(step, levels).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        exact, level, step = ctx.saved_tensors
        inside = exact.abs() <= ctx.levels + 0.5
        slope = torch.where(inside, level - exact, level) * gradient
        shared = [dim for dim in range(slope.ndim) if step.shape[dim] == 1]
        return gradient * inside, slope.sum(shared, keepdim=True), None


def device_integers(level: Tensor, levels: int) -> Tensor:
    """Return the device's integers for whole levels."""
    return torch.round(level * (LEVELS / levels))


def device_scale(step: Tensor, levels: int) -> Tensor:
    """Return the scale of the device's integers, a float64 that float32 holds."""
    return (step.detach().double() * levels / LEVELS).float().double()


def best_shares(weight: Tensor, top: Tensor, levels: int, axis: int | None) -> Tensor:
    """Return where the top level lies best, as a share of the largest weight, shaped like `top`.

    Best is what rounds with the least squared error.
    """
    others = [dim for dim in range(weight.ndim) if dim != axis]
    errors = [
        (_rounded(weight, top * share / levels, levels) - weight).square().sum(others, keepdim=True)
        for share in _tried(levels)
    ]
    places = torch.stack(errors).argmin(0)
    return torch.tensor(list(_tried(levels)), device=weight.device)[places].to(weight.dtype)


def _tried(levels: int) -> Iterable[float]:
    return _SHARES if levels < LEVELS else _SHARES[:1]


def _rounded(weight: Tensor, step: Tensor, levels: int) -> Tensor:
    return (weight / step).round().clamp(-levels, levels) * step
