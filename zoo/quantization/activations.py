"""What a packed layer does with `activations="int8"`: inputs of 8 bits, with a scale per token."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.quantization.kernels import int8
from zoo.quantization.kernels.matvec import FEW
from zoo.quantization.operands import Operand


class _Rounded(torch.autograd.Function):
    """x as its 8 bits stand for it; the gradient passes as if nothing was rounded."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        q, scale = _inputs(x)
        return (q * scale.unsqueeze(1)).to(x.dtype).view_as(x)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return dy


def rounded(x: Tensor) -> Tensor:
    """Return x (..., columns) rounded to 8 bits per token, in its own type; for training."""
    y: Tensor = _Rounded.apply(x)  # type: ignore[no-untyped-call]
    return y


def product(weight: Operand, x: Tensor, order: Tensor | None) -> Tensor:
    """Return y float32 (tokens, rows) for x (..., columns) of at most FEW tokens.

    Args:
        weight: W.
        x: the input.
        order: the columns of x in the order of those of W, if that is another.

    """
    q, scale = _inputs(x)
    if order is not None:
        q = q.index_select(1, order)
    if weight.columns != q.shape[1]:
        q = F.pad(q, (0, weight.columns - q.shape[1]))
    y = None if torch.compiler.is_compiling() else int8.product(weight, q, scale)
    return int8.in_order(weight, q, scale) if y is None else y


def dense(weight: Tensor, x: Tensor) -> Tensor:
    """Return y (tokens, rows) for x (..., columns) of many tokens, by W in floats of x's type.

    The 8-bit inputs are multiplied as they are (each type holds them exactly) and scaled after;
    sums of halves would overflow, which are scaled before.
    """
    q, scale = _inputs(x)
    if x.dtype == torch.float16:
        return F.linear((q * scale.unsqueeze(1)).to(x.dtype), weight)
    return (F.linear(q.to(x.dtype), weight) * scale.unsqueeze(1)).to(x.dtype)


def few(x: Tensor) -> bool:
    """Whether x (..., columns) is multiplied with codes rather than with decoded weights."""
    return 0 < x.numel() <= FEW * x.shape[-1]


def _inputs(x: Tensor) -> tuple[Tensor, Tensor]:
    return int8.inputs(x.detach().reshape(-1, x.shape[-1]).to(torch.float32))
