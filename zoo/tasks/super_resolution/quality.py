"""Picture quality: PSNR and SSIM, as the super-resolution literature computes them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError


def psnr(output: Tensor, target: Tensor, *, border: int) -> float:
    """Return 10 log10(1 / MSE) in dB of `(1, 1, H, W)` in [0, 1], `border` pixels shaved."""
    difference = (_shave(output, border) - _shave(target, border)).double()
    return float(-10 * difference.square().mean().clamp_min(1e-12).log10())


def ssim(output: Tensor, target: Tensor, *, border: int) -> float:
    """Return the mean SSIM of `(1, 1, H, W)` in [0, 1], `border` pixels shaved.

    Wang et al. 2004 with the original settings: an 11 x 11 Gaussian window of sigma 1.5, only
    windows wholly inside the image, K1 = 0.01, K2 = 0.03. Smaller images raise a MismatchError.
    """
    x, y = _shave(output, border).double(), _shave(target, border).double()
    if min(x.shape[-2:]) < 11:
        height, width = x.shape[-2:]
        raise MismatchError(f"SSIM needs 11x11 pixels inside the border, not {width}x{height}")
    distance = torch.arange(11, dtype=torch.float64, device=x.device) - 5
    window = torch.exp(-distance.square() / (2 * 1.5**2))
    window = (window / window.sum()).view(1, 1, 1, 11)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, window), window.transpose(2, 3))

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    score = (2 * mean_x * mean_y + c1) * (2 * cov + c2)
    score = score / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return float(score.mean())


def _shave(image: Tensor, border: int) -> Tensor:
    height, width = image.shape[-2:]
    return image[..., border : height - border, border : width - border]
