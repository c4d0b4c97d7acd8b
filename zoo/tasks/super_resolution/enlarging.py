"""Enlarging luma and pictures of any size in bounded memory, tile by tile and without seams."""

import functools
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data import images
from zoo.data.made import MadePicture, finished, finite
from zoo.data.resize import taps
from zoo.registry.recipe import Recipe

TILE = 256  # input pixels; a tile's features (16 x 256 x 256 floats) stay in a core's cache
_CONTEXT = 3  # input pixels beyond a tile that bicubic enlargement reads


def tiles(height: int, width: int, size: int = TILE) -> Iterator[tuple[int, int, int, int]]:
    """Yield (top, bottom, left, right) of squares that cover `height` x `width`."""
    for top in range(0, height, size):
        for left in range(0, width, size):
            yield top, min(top + size, height), left, min(left + size, width)


def _apply(model: nn.Module, y: Tensor) -> Tensor:
    """Run the network on its weights' device and in their type; return float32 on the CPU."""
    output: Tensor = model(y.to(next(model.parameters())))
    return output.float().cpu()


@torch.inference_mode()
def enlarge(model: nn.Module, y: Tensor, tile: int = TILE) -> Tensor:
    """Return `model(y)` for luma `(1, 1, H, W)` of any size, tile by tile.

    Each tile is cut with the network's own `halo`, so there are no seams: every output pixel sees
    exactly what it sees in the whole image, zero padding at true borders included.
    """
    scale, halo = model.scale, model.halo
    assert isinstance(scale, int)
    assert isinstance(halo, int)
    height, width = y.shape[-2:]
    if height <= tile and width <= tile:
        return _apply(model, y)
    output = y.new_empty(1, 1, height * scale, width * scale)
    for top, bottom, left, right in tiles(height, width, tile):
        up, start = min(halo, top), min(halo, left)
        part = _apply(
            model, y[..., top - up : bottom + halo, left - start : right + halo].contiguous()
        )
        inner = part[..., up * scale :, start * scale :]
        spot = output[..., top * scale : bottom * scale, left * scale : right * scale]
        spot.copy_(inner[..., : spot.shape[-2], : spot.shape[-1]])
    return output


@functools.cache
def _cubic_phases(scale: int) -> Tensor:
    """Return the kernels `(scale, 1, 7)`; number p computes output scale * i + p from i-3..i+3."""
    index, weight = taps(16, scale)
    with torch.inference_mode(False):  # whoever asks first: gradients may pass through it later
        kernels = torch.zeros(scale, 1, 7)
    for phase in range(scale):
        row = 8 * scale + phase
        for source, value in zip(index[row], weight[row], strict=True):
            kernels[phase, 0, source - 8 + _CONTEXT] += float(value)
    return kernels


def bicubic(planes: Tensor, scale: int) -> Tensor:
    """Enlarge `(N, C, H, W)` by the integer `scale`: Matlab's bicubic, edges repeated."""
    return _bicubic_inner(F.pad(planes, [_CONTEXT] * 4, mode="replicate"), scale)


def _bicubic_inner(padded: Tensor, scale: int) -> Tensor:
    """Enlarge `(N, C, H + 6, W + 6)`, whose border of 3 is context, to `(N, C, sH, sW)`."""
    kernels = _cubic_phases(scale).to(padded)
    count, channels = padded.shape[:2]
    x = padded.flatten(0, 1).unsqueeze(1)
    x = F.conv2d(x, kernels.unsqueeze(-1)).transpose(1, 2).flatten(1, 2).unsqueeze(1)
    x = F.conv2d(x, kernels.unsqueeze(-2)).permute(0, 2, 3, 1).flatten(2)
    return x.unflatten(0, (count, channels))


def default_output(recipe: Recipe, source: Path) -> Path:
    """Return where `zoo run` writes by default: photo.jpg -> photo-sesr-m5-x2.png."""
    return source.parent / f"{source.stem}-{recipe.name}.png"


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> MadePicture:
    """Enlarge a picture: luma by the network, chroma and alpha by bicubic.

    Memory beyond the two pictures does not grow with their size: everything happens in tiles.
    With `out`, the result is saved there too.

    Raises:
        MismatchError: not a picture, a place that cannot be written to, or a result of NaN.

    """
    picture = images.read(source)
    if out is not None:
        images.check_output(out)
    result = finished(steps(model, recipe, picture))
    if out is not None:
        result.save(out)
    return result


def steps(
    model: nn.Module, recipe: Recipe, picture: images.Picture
) -> Generator[tuple[int, int], None, MadePicture]:
    """Yield after each tile how many are done, and of how many; return what `run` does.

    Raises:
        MismatchError: a result of NaN.

    """
    scale = recipe.args["scale"]
    height, width, channels = picture.pixels.shape
    dtype = picture.pixels.dtype
    output = np.empty((height * scale, width * scale, channels), dtype)
    alpha = None if picture.alpha is None else np.empty(output.shape[:2], dtype)
    parts, seconds = list(tiles(height, width)), 0.0
    for done, (top, bottom, left, right) in enumerate(parts):
        start = time.perf_counter()
        colour, clear = _run_tile(model, picture, (top, bottom, left, right))
        spot = np.s_[top * scale : bottom * scale, left * scale : right * scale]
        output[spot] = colour
        if alpha is not None:
            alpha[spot] = clear
        seconds += time.perf_counter() - start
        yield done + 1, len(parts)
    return MadePicture(images.Picture(output, alpha, picture.profile), recipe.name, seconds)


@torch.inference_mode()
def _run_tile(
    model: nn.Module, picture: images.Picture, tile: tuple[int, int, int, int]
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the enlarged pixels `(sh, sw, C)` and alpha `(sh, sw)` of one tile.

    R, G and B all contain luma with the same weight 255/219 (BT.601 studio range), so adding the
    difference between the network's luma and bicubic luma to the bicubic R, G and B is exactly
    "network on Y, bicubic on Cb and Cr".
    """
    top, bottom, left, right = tile
    scale, halo, white = model.scale, model.halo, picture.white
    assert isinstance(scale, int)
    assert isinstance(halo, int)
    up, start = min(halo, top), min(halo, left)
    seen = picture.pixels[top - up : bottom + halo, left - start : right + halo]
    sharp = _apply(model, torch.from_numpy(images.luma(seen, white))[None, None])[0, 0]
    sharp = sharp[up * scale :, start * scale :][: (bottom - top) * scale, : (right - left) * scale]

    rows, columns = (
        np.clip(np.arange(a - _CONTEXT, b + _CONTEXT), 0, n - 1)
        for (a, b), n in zip((tile[:2], tile[2:]), picture.pixels.shape, strict=False)
    )
    planes = picture.pixels[np.ix_(rows, columns)].transpose(2, 0, 1)
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[np.ix_(rows, columns)][None]])
    context = torch.from_numpy(planes.astype(np.float32) / white)[None]
    smooth = _bicubic_inner(context, scale)[0].permute(1, 2, 0).numpy()
    channels = picture.pixels.shape[2]
    colour, clear = smooth[..., :channels], smooth[..., channels:]
    gain = (sharp.numpy() - images.luma(colour, 1)) * np.float32(255 / 219)
    return _quantize(colour + gain[..., None], picture), (
        None if picture.alpha is None else _quantize(clear[..., 0], picture)
    )


def _quantize(values: NDArray[np.float32], picture: images.Picture) -> NDArray[Any]:
    """Return values in [0, 1] as integers of the picture's type, rounded and clipped."""
    return (np.clip(finite(values), 0, 1) * picture.white + 0.5).astype(picture.pixels.dtype)
