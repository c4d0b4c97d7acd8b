"""`EnlargingStage`: a network of super resolution as a stage, through which gradients pass."""

import torch
from torch import Tensor, nn

from zoo.models.forms import stored_form
from zoo.resilience.purifiers.contract import Stage
from zoo.tasks.super_resolution.enlarging import bicubic

# Y of BT.601 in studio range over 255, for RGB in [0, 1]; white is 235/255.
_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_BLACK, _SPAN = 16 / 255, 219 / 255


class EnlargingStage(Stage):
    """Enlarges luma by a network, and colours by bicubic, as `zoo run` does with a picture.

    An integer network has no gradients: they are taken of its float weights.

    Args:
        network: luma `(N, 1, H, W)` in [0, 1] to `(N, 1, scale H, scale W)`.
        scale: how much it enlarges.

    """

    def __init__(self, network: nn.Module, scale: int) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures `(N, C, scale H, scale W)` in [0, 1]."""
        network = self.network
        if torch.is_grad_enabled() and images.requires_grad:
            network = stored_form(network)[0]
        plain = bicubic(images, self.scale)
        sharp: Tensor = network(_luma(images).contiguous())
        return (plain + (sharp - _luma(plain)) / _SPAN).clamp(0, 1)


def _luma(images: Tensor) -> Tensor:
    """Return Y `(N, 1, H, W)` of grey or RGB pictures."""
    if images.shape[1] == 1:
        return images * _SPAN + _BLACK
    weights = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True) + _BLACK
