"""APGD: steps with momentum, shortened where they gain nothing (Croce, Hein, arXiv 2003.01690)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.resilience.attacks._steps import losses, projected
from zoo.resilience.attacks.contract import Bounded, Model

SUMMARY = "steps with momentum that become shorter where they gain nothing; no step size to choose"
PAPER = "2003.01690"
_MOMENTUM = 0.75  # weight of the new step
_IMPROVING = 0.75  # of an interval's steps must gain, or the step is halved


@dataclass(frozen=True, kw_only=True)
class Options(Bounded):
    """The options of APGD.

    Attributes:
        steps: how often the gradient is taken.
        loss: what is to grow: "ce", cross entropy, or "dlr", the difference of logits' ratio.

    """

    steps: int = 20
    loss: Literal["ce", "dlr"] = "ce"


def perturb(
    model: Model, images: Tensor, labels: Tensor, options: Options, dice: torch.Generator
) -> Tensor:
    """Return, of all steps, the picture with the largest loss."""
    eps = options.eps
    drawn = 2 * torch.rand(images.shape, generator=dice).to(images) - 1
    drawn = drawn / drawn.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
    x = (images + eps * drawn).clamp(0, 1)
    loss, slope = _valued(model, x, labels, options.loss)
    best, best_loss, best_slope, before = x, loss, slope, x
    stride = torch.full((len(images), 1, 1, 1), 2 * eps).to(images)
    checks, last = _checkpoints(options.steps), 0
    gains = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    halved = torch.ones_like(gains, dtype=torch.bool)  # none at the first checkpoint for want of it
    loss_then = best_loss
    for step in range(options.steps):
        ahead = projected(x + stride * slope.sign(), images, eps)
        weight = _MOMENTUM if step else 1.0
        moved = projected(x + weight * (ahead - x) + (1 - weight) * (x - before), images, eps)
        before, x, old_loss = x, moved, loss
        loss, slope = _valued(model, x, labels, options.loss)
        gains += loss > old_loss
        better = loss > best_loss
        best, best_slope = _where(better, x, best), _where(better, slope, best_slope)
        best_loss = torch.where(better, loss, best_loss)
        if step + 1 in checks:
            stuck = ~halved & (best_loss <= loss_then)
            halved = (gains <= _IMPROVING * (step + 1 - last)) | stuck
            loss_then, last, gains = best_loss, step + 1, torch.zeros_like(gains)
            stride = _where(halved, stride / 2, stride)
            x, slope = _where(halved, best, x), _where(halved, best_slope, slope)
            loss = torch.where(halved, best_loss, loss)
    return best


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], yes, no)


def _checkpoints(steps: int) -> set[int]:
    """Return after how many steps the length is looked at: shares 0.22, 0.41, 0.57, ... of them."""
    interval, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = set(), 0
    while at + interval <= steps:
        at += interval
        found.add(at)
        interval = max(interval - shorter, least)
    return found


def _valued(model: Model, x: Tensor, labels: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return the loss `(N,)` of pictures, and its gradient."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        each = losses(logits, labels) if kind == "ce" else _ratio(logits, labels)
        (slope,) = torch.autograd.grad(each.sum(), x)
    return each.detach(), slope


def _ratio(logits: Tensor, labels: Tensor) -> Tensor:
    """Return how far the strongest wrong logit leads, over the span of the first to the third.

    With two labels there is no third: the lead itself.
    """
    order = logits.sort(1, descending=True)
    true = logits.gather(1, labels[:, None])[:, 0]
    right = order.indices[:, 0] == labels
    wrong = torch.where(right, order.values[:, 1], order.values[:, 0])
    if logits.shape[1] < 3:
        return wrong - true
    return (wrong - true) / (order.values[:, 0] - order.values[:, 2] + 1e-12)
