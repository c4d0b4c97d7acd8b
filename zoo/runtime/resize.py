"""Enlarging and shrinking images as TFLite's reference kernels do: nearest pixel and bilinear."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

_BITS = 10  # fraction bits of a position


def nearest(size: int, count: int, *, align_corners: bool, half_pixel: bool) -> list[int]:
    """Return the input index of each of `count` output pixels (`GetNearestNeighbor`)."""
    scale = np.float32(size) / np.float32(count)
    if align_corners and count > 1:
        scale = np.float32(size - 1) / np.float32(count - 1)
    places = (np.arange(count, dtype=np.float32) + np.float32(0.5 * half_pixel)) * scale
    rounded = np.floor(places + np.float32(0.5)) if align_corners else np.floor(places)
    return [int(place) for place in np.clip(rounded, 0, size - 1)]


def _positions(
    size: int, count: int, align_corners: bool, half_pixel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper index and the distance to the lower one in units of 2^-10."""
    scale = ((size << _BITS) + count // 2) // count
    if align_corners and count > 1:
        scale = (((size - 1) << _BITS) + (count - 1) // 2) // (count - 1)
    place = torch.arange(count) * scale
    if half_pixel:
        place = place + scale // 2 - (1 << (_BITS - 1))
    below = torch.div(place, 1 << _BITS, rounding_mode="trunc").clamp(min=0)
    upper = torch.div(place + (1 << _BITS) - 1, 1 << _BITS, rounding_mode="trunc")
    return below, upper.clamp(max=size - 1), place - (below << _BITS)


def bilinear(x: Tensor, options: dict[str, Any]) -> Tensor:
    """Resize int64 `(N, H, W, C)` by fixed-point weights (`ResizeBilinearInteger`).

    Halves are rounded away from the integer 0, so x must hold the stored integers.
    """
    corners, half = options["align_corners"], options["half_pixel_centers"]
    height, width = options["size"]
    top, bottom, down = _positions(x.shape[1], height, corners, half)
    left, right, across = _positions(x.shape[2], width, corners, half)
    down, across = down[:, None, None], across[:, None]
    one = 1 << _BITS
    upper, lower = x[:, top], x[:, bottom]
    total = (upper[:, :, left] * (one - across) + upper[:, :, right] * across) * (one - down)
    total += (lower[:, :, left] * (one - across) + lower[:, :, right] * across) * down
    rounding = torch.where(total > 0, 1 << (2 * _BITS - 1), -(1 << (2 * _BITS - 1)))
    return torch.div(total + rounding, 1 << (2 * _BITS), rounding_mode="trunc")


def _real_positions(
    size: int, count: int, align_corners: bool, half_pixel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lower and upper index and the distance to the lower one, in float32."""
    scale = np.float32(size) / np.float32(count)
    if align_corners and count > 1:
        scale = np.float32(size - 1) / np.float32(count - 1)
    shift = np.float32(0.5 * half_pixel)
    place = (np.arange(count, dtype=np.float32) + shift) * scale - shift
    below = np.clip(np.floor(place), 0, None)
    upper = np.clip(np.ceil(place), None, size - 1)
    lower, higher = (torch.from_numpy(part.astype(np.int64)) for part in (below, upper))
    return lower, higher, torch.from_numpy(place - below)


def real_bilinear(x: Tensor, options: dict[str, Any]) -> Tensor:
    """Resize float32 `(N, H, W, C)` by float32 weights (`ResizeBilinear`), uint8 pixels, too."""
    corners, half = options["align_corners"], options["half_pixel_centers"]
    height, width = options["size"]
    top, bottom, down = _real_positions(x.shape[1], height, corners, half)
    left, right, across = _real_positions(x.shape[2], width, corners, half)
    down, across = down[:, None, None], across[:, None]
    upper, lower = x[:, top], x[:, bottom]
    total = upper[:, :, left] * (1 - down) * (1 - across)
    total += lower[:, :, left] * down * (1 - across)
    total += upper[:, :, right] * (1 - down) * across
    return total + lower[:, :, right] * down * across
