"""The tables of the approximations, as exact numbers; integer forms round them to `Q` bits."""

import functools
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Root = Literal["mitchell", "mantissa"]
Curve = Literal["gelu", "silu"]

Q = 15  # binary places of table entries in integer forms: 16 bits with a sign
REACH = {"gelu": 4, "silu": 8}  # outside of this, a curve is 0 or x; powers of two
LOWEST, SHIFT = -3.0, 2.0  # of the softmax: the exponent's range, and what its largest is
# Pade [2, 2]: e^z ~ (C + B z + z^2) / (C - B z + z^2)
PADE_B, PADE_C = 6, 12


@functools.cache
def root_table(bits: int, kind: Root) -> tuple[float, ...]:
    """Return what 1 / sqrt(v) is looked up in, 2 * 2^bits numbers in (1/2, 1].

    With v = 2^k (1 + f): half h of 2^bits entries is for k even (0) or odd (1), entry t for f in
    [t, t + 1) / 2^bits. "mantissa" has 1 / sqrt(2^h (1 + f)); "mitchell" takes f for log2(1 + f),
    2^-((h + f) / 2), with the table's entries spread over both halves: 2^bits different numbers.
    """
    if kind == "mitchell":
        steps = [(t + 0.5) / 2**bits for t in range(2**bits)]  # of (h + f) / 2
        return tuple(2.0 ** -steps[i // 2] for i in range(2 * 2**bits))
    middles = [1 + (t + 0.5) / 2**bits for t in range(2**bits)]
    return tuple(1 / math.sqrt(2**h * middle) for h in (0, 1) for middle in middles)


@functools.cache
def reciprocal_table(bits: int) -> tuple[float, ...]:
    """Return 1 / (1 + f) for f in [t, t + 1) / 2^bits: 2^bits numbers in (1/2, 1)."""
    return tuple(1 / (1 + (t + 0.5) / 2**bits) for t in range(2**bits))


@functools.cache
def pieces(curve: Curve, segments: int) -> tuple[tuple[float, float], ...]:
    """Return slope and height of each straight piece, from left to right.

    The pieces are joined; at both ends and at 0 they meet the curve (there 0 and x), and elsewhere
    they are the least squares. A piece is y = height + slope * (x - its left end).

    Args:
        curve: "gelu" or "silu".
        segments: equal pieces of [-REACH, REACH], an even number.

    """
    reach = REACH[curve]
    x = torch.linspace(-reach, reach, 4096 + 1, dtype=torch.float64)
    at = (x + reach) / (2 * reach) * segments
    left = at.floor().clamp(max=segments - 1).long()
    part = at - left
    hats = torch.zeros(len(x), segments + 1, dtype=torch.float64)
    hats.scatter_(1, left[:, None], 1 - part[:, None])
    hats.scatter_(1, left[:, None] + 1, part[:, None])
    free = [k for k in range(1, segments) if 2 * k != segments]
    wanted = exact(curve, x) - hats[:, segments] * reach
    heights = torch.zeros(segments + 1, dtype=torch.float64)
    heights[segments] = reach
    if free:
        heights[free] = torch.linalg.lstsq(hats[:, free], wanted[:, None]).solution[:, 0]
    slopes = heights.diff() * segments / (2 * reach)
    return tuple(zip(slopes.tolist(), heights[:-1].tolist(), strict=True))


def exact(curve: Curve, x: Tensor) -> Tensor:
    """Return the curve itself."""
    return F.gelu(x) if curve == "gelu" else F.silu(x)


def table_bytes(entries: int) -> int:
    """Return the bytes of so many entries of 16 bits."""
    return 2 * entries
