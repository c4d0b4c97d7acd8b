"""Layers that compute by the approximations: in floats, or in integers between two casts.

They have the parameters of the layers whose places they take, under the same names.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.models.approximate import floats, integers, tables
from zoo.models.approximate.tables import Curve, Root

Form = Literal["float", "fixed"]
PLACES = 12  # binary places of inputs in the integer form
_LARGEST = 2.0**18  # of an input in the integer form; masks are far below


def whole(x: Tensor, places: int = PLACES) -> Tensor:
    """Return round(x 2^places) as int64."""
    return (x.double().clamp(-_LARGEST, _LARGEST) * 2**places).round().long()


def real(x: Tensor, places: int, like: Tensor) -> Tensor:
    """Return what whole numbers stand for, in the type of `like`."""
    return (x.double() / 2**places).to(like.dtype)


class ShiftSoftmax(nn.Module):
    """Softmax without division.

    Args:
        bits: of the index of the table of reciprocals.
        dim: what sums to 1.
        form: "float" or "fixed".

    """

    def __init__(self, bits: int, dim: int = -1, form: Form = "float") -> None:
        super().__init__()
        self.bits, self.dim, self.form = bits, dim, form

    def forward(self, x: Tensor) -> Tensor:
        """Return about softmax(x)."""
        if self.form == "float":
            return floats.softmax(x, self.bits, self.dim)
        found = integers.softmax(whole(x.transpose(self.dim, -1)), self.bits, PLACES)
        return real(found, tables.Q, x).transpose(self.dim, -1)

    def exact(self) -> nn.Module:
        """Return what it stands for."""
        return nn.Softmax(self.dim)

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"bits={self.bits}, dim={self.dim}, form={self.form}"


class Standardized(nn.Module):
    """LayerNorm or RMSNorm over the last dimension, without division and root.

    Args:
        norm: the layer whose weight, bias and epsilon are taken.
        eps: its epsilon.
        bits: of the index of the table.
        centred: whether the mean is taken off (LayerNorm).
        form: "float" or "fixed".
        root: see `tables.root_table`.

    """

    def __init__(
        self, norm: Any, eps: float, bits: int, *, centred: bool, form: Form, root: Root
    ) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, getattr(norm, "bias", None)
        self.eps, self.bits, self.centred, self.form, self.root = eps, bits, centred, form, root

    def forward(self, x: Tensor) -> Tensor:
        """Return about (x - mean) / deviation * weight + bias."""
        if self.form == "float":
            y = floats.standardized(x, self.bits, self.eps, self.root, centred=self.centred)
        else:
            found = integers.standardized(
                whole(x), self.bits, self.eps, self.root, centred=self.centred, places=PLACES
            )
            y = real(found, PLACES, x)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias

    def exact(self) -> nn.Module:
        """Return what it stands for, with the same weight and bias."""
        shape = self.weight.shape
        norm: Any = (
            nn.LayerNorm(shape, self.eps, bias=self.bias is not None)
            if self.centred
            else nn.RMSNorm(shape, self.eps)
        )
        norm.weight = self.weight
        if self.bias is not None:
            norm.bias = self.bias
        return norm

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"bits={self.bits}, centred={self.centred}, form={self.form}, root={self.root}"


class Bent(nn.Module):
    """A curve in straight pieces.

    Args:
        curve: "gelu" or "silu".
        segments: how many pieces; a power of two for the integer form.
        form: "float" or "fixed".

    """

    def __init__(self, curve: Curve, segments: int, form: Form = "float") -> None:
        super().__init__()
        self.curve, self.segments, self.form = curve, segments, form

    def forward(self, x: Tensor) -> Tensor:
        """Return about the curve."""
        if self.form == "float":
            return floats.bent(x, self.curve, self.segments)
        return real(integers.bent(whole(x), self.curve, self.segments, PLACES), PLACES, x)

    def exact(self) -> nn.Module:
        """Return what it stands for."""
        return nn.GELU() if self.curve == "gelu" else nn.SiLU()

    def extra_repr(self) -> str:
        """Return the settings."""
        return f"{self.curve}, segments={self.segments}, form={self.form}"


def operations(op: str, setting: int, width: int, root: Root = "mitchell") -> dict[str, int]:
    """Return how many operations the integer form of an operator takes, by kind.

    What is counted is the very code that computes: see `zoo.models.approximate.counted`. "table
    bytes" are those of what is looked up, 16 bits an entry.

    Args:
        op: "softmax", "layernorm", "rmsnorm", "gelu" or "silu".
        setting: bits, or segments.
        width: of the row that one softmax or norm is over; elements of a curve.
        root: see `tables.root_table`.

    """
    from collections import Counter

    from zoo.models.approximate.counted import CountedInts

    counts: Counter[str] = Counter()
    row = CountedInts(whole(torch.linspace(-4, 4, width)[None]), counts)
    if op == "softmax":
        integers.softmax(row, setting)
        entries = 2**setting
    elif op in ("layernorm", "rmsnorm"):
        integers.standardized(row, setting, 1e-6, root, centred=op == "layernorm")
        entries = 2 ** (setting + (root == "mantissa"))
    else:
        integers.bent(row, "gelu" if op == "gelu" else "silu", setting)
        entries = 2 * setting
    return {**counts, "divide": 0, "root": 0, "table bytes": tables.table_bytes(entries)}
