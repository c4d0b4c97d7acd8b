"""PGD: steps along the gradient's sign, each projected back (Madry et al., arXiv 1706.06083)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.resilience.attacks._steps import anywhere, gradient, projected
from zoo.resilience.attacks.contract import Model, Stepped

SUMMARY = "steps along the sign of the gradient from a random start"
PAPER = "1706.06083"


@dataclass(frozen=True, kw_only=True)
class Options(Stepped):
    """The options of PGD.

    Attributes:
        random: whether it starts anywhere within eps, instead of at the picture.

    """

    random: bool = True


def perturb(
    model: Model, images: Tensor, labels: Tensor, options: Options, dice: torch.Generator
) -> Tensor:
    """Return the pictures of the last step."""
    x = anywhere(images, options.eps, dice) if options.random else images
    for _ in range(options.steps):
        moved = x + options.stride * gradient(model, x, labels).sign()
        x = projected(moved, images, options.eps)
    return x
