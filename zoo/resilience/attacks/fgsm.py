"""FGSM: one step along the gradient's sign (Goodfellow et al., arXiv 1412.6572)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.resilience.attacks._steps import gradient
from zoo.resilience.attacks.contract import Bounded, Model

SUMMARY = "one step along the sign of the gradient"
PAPER = "1412.6572"


@dataclass(frozen=True, kw_only=True)
class Options(Bounded):
    """The options of FGSM: it has no others."""


def perturb(
    model: Model, images: Tensor, labels: Tensor, options: Options, dice: torch.Generator
) -> Tensor:
    """Return x + eps sign(grad), within [0, 1]."""
    step = options.eps * gradient(model, images, labels).sign()
    return (images + step).clamp(0, 1)
