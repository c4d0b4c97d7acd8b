"""Bicubic: enlarging as Matlab does it, the plain method that super resolution must beat."""

from torch import Tensor

from zoo.resilience.purifiers.contract import Stage
from zoo.resilience.purifiers.nearest import whole
from zoo.tasks.super_resolution.enlarging import bicubic

SUMMARY = "pictures enlarged by Matlab's bicubic"
USAGE = "bicubic:SCALE, 2 to 4"


class Bicubic(Stage):
    """Enlarges by Keys' cubic kernel, a = -0.5, edges repeated."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures `(N, C, scale H, scale W)` in [0, 1]."""
        return bicubic(images, self.scale).clamp(0, 1)


def make(scale: str = "2") -> Stage:
    """Return the stage of a scale."""
    return Bicubic(whole(scale, "bicubic"))
