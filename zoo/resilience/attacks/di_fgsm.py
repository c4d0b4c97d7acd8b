"""DI2-FGSM: PGD through randomly shrunk pictures, for transfer (Xie et al., arXiv 1803.06978)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError
from zoo.resilience.attacks._steps import gradient, projected
from zoo.resilience.attacks.contract import Model, Stepped

SUMMARY = "PGD whose gradients are taken through randomly shrunk pictures"
PAPER = "1803.06978"


@dataclass(frozen=True, kw_only=True)
class Options(Stepped):
    """The options of DI2-FGSM.

    Attributes:
        decay: of the momentum; 0 is without, 1 is MI-DI2-FGSM.
        resize: the smallest size, as a share of the picture's own.
        share: how likely a step's pictures are shrunk at all.

    """

    decay: float = 0.0
    resize: float = 0.9
    share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("resize", self.resize), ("share", self.share)):
            if not 0 < value <= 1:
                raise MismatchError(f"{name} is {value:g}; expected more than 0 and at most 1")
        if self.decay < 0:
            raise MismatchError(f"decay is {self.decay:g}; expected 0 or more")


def perturb(
    model: Model, images: Tensor, labels: Tensor, options: Options, dice: torch.Generator
) -> Tensor:
    """Return the pictures of the last step."""

    def diverse(x: Tensor) -> Tensor:
        return model(_diverse(x, options, dice))

    x, momentum = images, torch.zeros_like(images)
    for _ in range(options.steps):
        found = gradient(diverse, x, labels)
        size = found.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-30)
        momentum = found / size + options.decay * momentum
        x = projected(x + options.stride * momentum.sign(), images, options.eps)
    return x


def _diverse(x: Tensor, options: Options, dice: torch.Generator) -> Tensor:
    """Return pictures shrunk to a random size and put at a random place on black, or as they are.

    The size is one for the whole batch, as are the place and the decision.
    """
    height, width = x.shape[2:]
    least = int(width * options.resize)
    if least >= width:
        return x

    def drawn(low: int, high: int) -> int:
        return int(torch.randint(low, max(high, low + 1), (1,), generator=dice))

    size = drawn(least, width)
    tall = max(1, height * size // width)
    top, left = drawn(0, height - tall), drawn(0, width - size)
    if torch.rand(1, generator=dice) >= options.share:
        return x
    small = F.interpolate(x, size=(tall, size), mode="bilinear", align_corners=False)
    return F.pad(small, (left, width - size - left, top, height - tall - top))
