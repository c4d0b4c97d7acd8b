"""Ternary numbers: digits of -1, 0 and 1 with a scale for each row, and their bytes."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Threshold = Literal["twn", "nearest"]
THRESHOLDS = ("twn", "nearest")
_TWN, _NEAREST = 0.7, 0.5
_BASE = {5: 3, 4: 4}  # by digits of a byte: 1.6 or 2 bits each


def rounded(weight: Tensor, threshold: Threshold = "twn") -> tuple[Tensor, Tensor]:
    """Return the digits of a weight `(rows, ...)`, and the scale of each row `(rows,)`.

    Args:
        weight: real numbers.
        threshold: "twn": below 0.7 of the row's mean magnitude a weight is 0, and the scale is the
            mean magnitude of the others (arXiv 1605.04711). "nearest": the scale is the row's mean
            magnitude, and each weight becomes the nearest multiple of it, the threshold being half.

    """
    sizes = weight.flatten(1).abs()
    mean = sizes.mean(1)
    kept = sizes > (_TWN if threshold == "twn" else _NEAREST) * mean[:, None]
    scale = (sizes * kept).sum(1) / kept.sum(1).clamp_min(1) if threshold == "twn" else mean
    digits = torch.where(kept.view_as(weight), weight.sign(), torch.zeros_like(weight))
    return digits, scale


def parts_of(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return digits and scales of a weight whose rows have one magnitude each, or None."""
    sizes = weight.flatten(1).abs()
    scale = sizes.amax(1)
    if not ((sizes == 0) | (sizes == scale[:, None])).all():
        return None
    return weight.sign() + 0.0, scale  # no negative zero


def product(digits: Tensor, scale: Tensor) -> Tensor:
    """Return the weight `(rows, ...)` of digits and the scale of each row."""
    return digits * scale.view(-1, *(1,) * (digits.ndim - 1)) + 0.0


def packed_bytes(count: int, per_byte: int = 5) -> int:
    """Return the bytes of so many digits, five in a byte (1.6 bits each) or four (2 bits)."""
    return -(-count // per_byte)


def pack(digits: Tensor, per_byte: int = 5) -> Tensor:
    """Return digits -1, 0 and 1 as bytes: d + 1 in base 3, or in base 4, the first one lowest."""
    flat = digits.flatten().to(torch.int64) + 1
    flat = F.pad(flat, (0, -len(flat) % per_byte), value=1)  # zeros
    places = _BASE[per_byte] ** torch.arange(per_byte, device=flat.device)
    return (flat.view(-1, per_byte) * places).sum(1).to(torch.uint8)


def unpack(stored: Tensor, count: int, per_byte: int = 5) -> Tensor:
    """Return the digits `(count,)` of bytes that `pack` made, as float32.

    Raises:
        ValueError: there are too few or too many bytes, or one that stands for no digits.

    """
    if stored.dtype != torch.uint8 or stored.shape != (packed_bytes(count, per_byte),):
        raise ValueError(
            f"{stored.dtype} {tuple(stored.shape)} hold ternary digits; expected "
            f"{packed_bytes(count, per_byte)} bytes for {count} digits"
        )
    places = _BASE[per_byte] ** torch.arange(per_byte, device=stored.device)
    codes = stored.to(torch.int64)[:, None] // places % _BASE[per_byte]
    if bool((codes > 2).any()) or bool(
        (stored.to(torch.int64) >= _BASE[per_byte] ** per_byte).any()
    ):
        raise ValueError(
            f"byte {int(stored.max())} stands for no {per_byte} ternary digits; get the file again"
        )
    if bool((codes.flatten()[count:] != 1).any()):
        raise ValueError("digits are set after the last one; get the file again")
    return (codes.flatten()[:count] - 1).to(torch.float32)


def halved(values: Tensor) -> Tensor:
    """Return what 16 bits hold of real numbers; those too large for that stay as they are."""
    halves = values.half().float()
    return torch.where(halves.isfinite(), halves, values)


def shortest(values: Tensor) -> Tensor:
    """Return numbers as halves if that changes none of them."""
    if values.dtype != torch.float32 or values.is_meta:
        return values
    halves = values.half()
    return halves if halves.float().equal(values) else values
