"""What attacks by gradients share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.resilience.attacks.contract import Model


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy `(N,)` of each picture."""
    return F.cross_entropy(logits, labels, reduction="none")


def gradient(model: Model, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed cross entropy with respect to the pictures."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        total = losses(model(x), labels).sum()
        (found,) = torch.autograd.grad(total, x)
    return found


def projected(moved: Tensor, images: Tensor, eps: float) -> Tensor:
    """Return the nearest pictures within eps of `images` and within [0, 1]."""
    return (images + (moved - images).clamp(-eps, eps)).clamp(0, 1)


def anywhere(images: Tensor, eps: float, dice: torch.Generator) -> Tensor:
    """Return pictures drawn evenly from those within eps of `images` and within [0, 1]."""
    shift = torch.empty_like(images).uniform_(-eps, eps, generator=dice)
    return (images + shift).clamp(0, 1)
