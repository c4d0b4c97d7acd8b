"""Restyling whole pictures of any size, tile by tile and without seams."""

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data import images
from zoo.data.made import MadePicture, finished, finite
from zoo.registry.recipe import Recipe
from zoo.tasks.picture.material import to_bytes, unit, with_texture

TILE = 512  # pixels


def restyle(model: nn.Module, picture: Tensor, tile: int = TILE) -> Tensor:
    """Return `(1, 3, H, W)` in [0, 1] of a picture of the same form, of any size.

    Tiles overlap by the network's `halo` and carry the texture of their place, so that the
    result is that of one pass over the whole picture; memory does not grow with it. An odd row or
    column is repeated once for the network and cut off again.

    Args:
        model: deployed, in eval mode, with whatever adapters are active in it.
        picture: colours in [0, 1].
        tile: side of a tile, even.

    """
    return finished(_tile_by_tile(model, picture, tile))


@torch.inference_mode()
def _tile_by_tile(
    model: nn.Module, picture: Tensor, tile: int = TILE
) -> Generator[tuple[int, int], None, Tensor]:
    """Yield after each tile how many are done, and of how many; return what `restyle` does."""
    height, width = picture.shape[-2:]
    even = F.pad(picture, (0, width % 2, 0, height % 2), mode="replicate")
    rows, columns = even.shape[-2:]
    halo = model.halo
    assert isinstance(halo, int)
    weight = next(model.parameters())
    output = even.new_empty(1, 3, rows, columns)
    corners = [(top, left) for top in range(0, rows, tile) for left in range(0, columns, tile)]
    for done, (top, left) in enumerate(corners, 1):
        up, back = min(halo, top), min(halo, left)
        part = even[..., top - up : top + tile + halo, left - back : left + tile + halo]
        made = model(with_texture(part, top - up, left - back).to(weight)).float().cpu()
        spot = output[..., top : top + tile, left : left + tile]
        spot.copy_(made[..., up:, back:][..., : spot.shape[-2], : spot.shape[-1]])
        yield done, len(corners)
    return output[..., :height, :width]


def default_output(recipe: Recipe, source: Path) -> Path:
    """Return where `zoo run` writes when not told: photo.jpg -> photo-looks.png."""
    return source.parent / f"{source.stem}-{recipe.name}.png"


def to_tensor(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Return `(H, W, 3)` of uint8 as `(1, 3, H, W)` in [0, 1]."""
    return torch.from_numpy(unit(pixels).transpose(2, 0, 1))[None].contiguous()


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> MadePicture:
    """Restyle a picture of any mode and size; with `out` the result is saved there too.

    Grey pictures become colour ones and 16 bits 8: a look may have any colour. Alpha is kept.

    Raises:
        MismatchError: not a picture, a place that cannot be written to, or a result of NaN.

    """
    given = images.read(source)
    if out is not None:
        images.check_output(out)
    result = finished(steps(model, recipe, given))
    if out is not None:
        result.save(out)
    return result


def steps(
    model: nn.Module, recipe: Recipe, given: images.Picture
) -> Generator[tuple[int, int], None, MadePicture]:
    """Yield after each tile how many are done, and of how many; return what `run` does.

    Between two tiles other adapters may go into the network, as long as they come out again.

    Raises:
        MismatchError: a result of NaN.

    """
    upright = images.to_pillow(given)
    alpha = np.asarray(upright.getchannel("A")) if "A" in upright.getbands() else None
    pixels = np.asarray(upright.convert("RGB"))
    start = time.perf_counter()
    made = (yield from _tile_by_tile(model, to_tensor(pixels)))[0].permute(1, 2, 0).numpy()
    seconds = time.perf_counter() - start
    # The profile of a grey picture does not describe colours.
    profile = given.profile if given.pixels.shape[2] == 3 else None
    return MadePicture(images.Picture(to_bytes(finite(made)), alpha, profile), recipe.name, seconds)
