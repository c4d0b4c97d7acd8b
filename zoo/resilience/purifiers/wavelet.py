"""Wavelet shrinkage: BayesShrink on Haar wavelets (Chang, Yu and Vetterli, 2000).

Colours are shrunk as Y, Cb and Cr of BT.601, with the noise that evenly noisy R, G and B have
there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError
from zoo.resilience.purifiers.contract import Stage, number

SUMMARY = "small Haar wavelets removed, by BayesShrink"
USAGE = "wavelet:SIGMA, the noise's standard deviation, pictures being 0 to 1"
LEAST = 8  # pixels of a side
# Rows are Y, Cb and Cr of BT.601 in studio range, for RGB in [0, 1].
_TO_YCBCR = ((65.481, 128.553, 24.966), (-37.797, -74.203, 112.0), (112.0, -93.786, -18.214))


class Wavelet(Stage):
    """Shrinks the Haar coefficients of pictures.

    The levels are three fewer than there can be, at least one. With detail coefficients d of one
    kind and level, each is moved towards zero by s^2 / sqrt(max(mean(d^2) - s^2, 0)).

    Args:
        sigma: s, the noise's standard deviation, pictures being 0 to 1.

    """

    smooth = False

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Return pictures `(N, C, H, W)`, in [0, 1] as the ones given."""
        size = min(images.shape[2:])
        if size < LEAST:
            raise MismatchError(
                f"wavelet on pictures of {images.shape[3]}x{images.shape[2]} pixels; expected "
                f"{LEAST} or more on each side"
            )
        levels = max(int(math.log2(size)) - 3, 1)
        x = images.double()
        if images.shape[1] != 3:
            return _shrunk(x, self.sigma, levels).to(images)
        matrix = torch.tensor(_TO_YCBCR, dtype=torch.float64) / 255
        planes = torch.einsum("oc,nchw->nohw", matrix, x)
        made = [
            _shrunk(planes[:, place : place + 1], self.sigma * float(row.norm()), levels)
            for place, row in enumerate(matrix)
        ]
        colours = torch.einsum("oc,nchw->nohw", matrix.inverse(), torch.cat(made, 1))
        return colours.to(images)


def _shrunk(x: Tensor, sigma: float, levels: int) -> Tensor:
    """Return planes `(N, C, H, W)` whose details are shrunk, each plane by itself."""
    if levels == 0:
        return x
    height, width = x.shape[2:]
    x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    mean = _shrunk((a + b + c + d) / 2, sigma, levels - 1)
    across, down, both = (
        _soft(detail / 2, sigma) for detail in (a - b + c - d, a + b - c - d, a - b - c + d)
    )
    made = x.new_empty(*mean.shape[:2], 2 * mean.shape[2], 2 * mean.shape[3])
    made[..., ::2, ::2] = mean + across + down + both
    made[..., ::2, 1::2] = mean - across + down - both
    made[..., 1::2, ::2] = mean + across - down - both
    made[..., 1::2, 1::2] = mean - across - down + both
    return (made / 2)[..., :height, :width]


def _soft(detail: Tensor, sigma: float) -> Tensor:
    """Return coefficients moved towards zero by BayesShrink's threshold of their plane."""
    signal = (detail.square().mean((2, 3), keepdim=True) - sigma**2).clamp_min(2.2e-16)
    threshold = sigma**2 / signal.sqrt()
    return detail.sign() * (detail.abs() - threshold).clamp_min(0)


def make(sigma: str) -> Stage:
    """Return the stage of a standard deviation."""
    return Wavelet(number(sigma, "sigma of the wavelets", 0, 1))
