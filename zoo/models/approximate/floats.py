"""The approximations in floats, with the gradients of what they stand for.

They round nothing but what the method rounds (the places of tables): integer forms of any width
approach them. Gradients are those of the exact functions (straight-through), for fine-tuning.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.models.approximate import tables
from zoo.models.approximate.tables import Curve, Root


def _looked_up(table: tuple[float, ...], index: Tensor, like: Tensor) -> Tensor:
    return torch.tensor(table, dtype=like.dtype, device=like.device)[index]


def rsqrt(v: Tensor, bits: int, root: Root = "mitchell") -> Tensor:
    """Return about 1 / sqrt(v) for v > 0, by leading one, table and shift."""
    mantissa, exponent = torch.frexp(v)  # v = mantissa 2^exponent, mantissa in [1/2, 1)
    k, f = exponent.long() - 1, 2 * mantissa - 1
    index = (f * 2**bits).floor().long().clamp(0, 2**bits - 1) + (k % 2) * 2**bits
    entry = _looked_up(tables.root_table(bits, root), index, v)
    return torch.ldexp(entry, -torch.div(k, 2, rounding_mode="floor"))


def reciprocal(v: Tensor, bits: int) -> Tensor:
    """Return about 1 / v for v > 0, by leading one, table and shift."""
    mantissa, exponent = torch.frexp(v)
    index = ((2 * mantissa - 1) * 2**bits).floor().long().clamp(0, 2**bits - 1)
    entry = _looked_up(tables.reciprocal_table(bits), index, v)
    return torch.ldexp(entry, 1 - exponent.long())


def exponential(z: Tensor, bits: int) -> Tensor:
    """Return about e^z for z up to 2; 0 below -3."""
    inside = z.clamp_min(tables.LOWEST)
    square, middle = inside * inside + tables.PADE_C, tables.PADE_B * inside
    value = (square + middle) * reciprocal(square - middle, bits)
    return torch.where(z < tables.LOWEST, torch.zeros_like(value), value)


def softmax(x: Tensor, bits: int, dim: int = -1) -> Tensor:
    """Return about softmax(x), whose rows sum to about 1."""
    with torch.no_grad():
        e = exponential(x.float() - x.float().amax(dim, keepdim=True) + tables.SHIFT, bits)
        about = (e * reciprocal(e.sum(dim, keepdim=True), bits)).to(x.dtype)
    return _with_gradient(about, lambda: F.softmax(x, dim), x)


def standardized(x: Tensor, bits: int, eps: float, root: Root, *, centred: bool) -> Tensor:
    """Return x by about its root mean square over the last dimension, its mean taken off if so."""
    with torch.no_grad():
        wide = x.float()
        wide = wide - wide.mean(-1, keepdim=True) if centred else wide
        variance = wide.square().mean(-1, keepdim=True) + eps
        about = (wide * rsqrt(variance, bits, root)).to(x.dtype)

    def real() -> Tensor:
        own = x - x.mean(-1, keepdim=True) if centred else x
        return own * torch.rsqrt(own.square().mean(-1, keepdim=True) + eps)

    return _with_gradient(about, real, x)


def bent(x: Tensor, curve: Curve, segments: int) -> Tensor:
    """Return a curve in straight pieces."""
    reach = tables.REACH[curve]
    with torch.no_grad():
        inside = x.float().clamp(-reach, reach)
        scale = segments / (2 * reach)
        at = ((inside + reach) * scale).floor().long().clamp(max=segments - 1)
        slopes, heights = zip(*tables.pieces(curve, segments), strict=True)
        left = at / scale - reach
        value = _looked_up(heights, at, inside) + _looked_up(slopes, at, inside) * (inside - left)
        about = torch.where(x > reach, x.float(), value).to(x.dtype)
    return _with_gradient(about, lambda: tables.exact(curve, x), x)


def _with_gradient(about: Tensor, real: Callable[[], Tensor], x: Tensor) -> Tensor:
    """Return `about`, whose gradient is that of the real function."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return about
    exact = real()
    return about + (exact - exact.detach())
