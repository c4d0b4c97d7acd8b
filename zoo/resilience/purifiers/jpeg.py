"""JPEG: what a picture loses when it is stored, an attack among it."""

import io

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zoo.errors import MismatchError
from zoo.resilience.purifiers.contract import Stage, number

SUMMARY = "a picture stored as JPEG and read again"
USAGE = "jpeg:QUALITY[:444], quality 1 to 100; 444 keeps the colours' resolution"
_SAMPLINGS = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0"}


class Jpeg(Stage):
    """Stores pictures as JPEG and reads them again, by Pillow.

    Args:
        quality: 1 to 100.
        sampling: of the colours, "4:2:0" as most writers have it.

    """

    smooth = False

    def __init__(self, quality: int, sampling: str = "4:2:0") -> None:
        super().__init__()
        self.quality, self.sampling = quality, sampling

    def forward(self, images: Tensor) -> Tensor:
        """Return pictures `(N, C, H, W)` of 8 bits in [0, 1]."""
        pixels = (images.detach().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu()
        kept = np.stack([self._stored(picture) for picture in pixels.numpy()])
        return torch.from_numpy(kept).permute(0, 3, 1, 2).to(images) / 255

    def _stored(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        file = io.BytesIO()
        grey = pixels.shape[2] == 1
        options = {} if grey else {"subsampling": self.sampling}
        Image.fromarray(pixels[..., 0] if grey else pixels).save(
            file, "JPEG", quality=self.quality, **options
        )
        return np.array(Image.open(file)).reshape(pixels.shape)


def make(quality: str, sampling: str = "420") -> Stage:
    """Return the stage of a quality."""
    value = number(quality, "JPEG quality", 1, 100)
    if value != int(value):
        raise MismatchError(f"JPEG quality is {quality!r}; expected a whole number, 1 to 100")
    if sampling not in _SAMPLINGS:
        raise MismatchError(
            f"JPEG sampling is {sampling!r}; expected one of {', '.join(_SAMPLINGS)}"
        )
    return Jpeg(int(value), _SAMPLINGS[sampling])
