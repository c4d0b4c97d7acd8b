"""What a packed layer does with `activations="int8"`: inputs of 8 bits.

A scale goes with each token and group of columns, those that share a scale of W: a few inputs of a
language model are hundreds of times as large as the rest, and would leave one scale per token
nothing for these.
"""

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
    def forward(ctx: Any, x: Tensor, span: int, order: Tensor | None) -> Tensor:
        flat = _flat(x, order)
        q, scale = int8.inputs(flat, span)
        values = q * scale.repeat_interleave(span, 1)[:, : q.shape[1]]
        if order is not None:
            values = values.index_select(1, order.argsort())
        return values.to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        return dy, None, None


def rounded(x: Tensor, span: int, order: Tensor | None) -> Tensor:
    """Return x (..., columns) rounded to 8 bits, in its own type.

    Args:
        x: the input.
        span: columns of a group.
        order: the columns of x in the order of those of W, if that is another.

    """
    y: Tensor = _Rounded.apply(x, span, order)  # type: ignore[no-untyped-call]
    return y


def product(weight: Operand, x: Tensor, order: Tensor | None) -> Tensor:
    """Return y float32 (tokens, rows) for x (..., columns) of at most FEW tokens.

    Args:
        weight: W.
        x: the input.
        order: see `rounded`.

    """
    flat = _flat(x, order)
    if weight.columns != flat.shape[1]:
        flat = F.pad(flat, (0, weight.columns - flat.shape[1]))
    q, scale = int8.inputs(flat, weight.span)
    y = None if torch.compiler.is_compiling() else int8.product(weight, q, scale)
    return int8.in_order(weight, q, scale) if y is None else y


def few(x: Tensor) -> bool:
    """Whether x (..., columns) is multiplied with codes rather than with decoded weights."""
    return 0 < x.numel() <= FEW * x.shape[-1]


def _flat(x: Tensor, order: Tensor | None) -> Tensor:
    flat = x.detach().reshape(-1, x.shape[-1]).to(torch.float32)
    return flat if order is None else flat.index_select(1, order)
