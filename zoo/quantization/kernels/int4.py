"""Products of 4-bit weights with inputs of 8 bits, a scale per token: y = s (W q), x ~ s q.

`int4_int8.c` multiplies whole numbers, by the best instructions that the processor has; `in_order`
is the same in torch. Both have the same bits, on every processor.
"""

import ctypes
import functools
import os

import torch
from torch import Tensor

from zoo.errors import UnknownNameError
from zoo.quantization.kernels import matvec
from zoo.quantization.nibbles import Nibbles
from zoo.quantization.packing import from_half_bits

STEPS = 127  # an input is a whole number from -127 to 127 times its token's scale
LEVELS = ("portable", "avx2", "vnni", "neon", "dotprod")  # as int4_int8.h counts them
_SMALLEST = 2.0**-126  # a float32 below it has fewer digits
_EXACT = 8192  # columns of a group whose sums of 4-bit or 8-bit products are exact in float32


class Int4(ctypes.Structure):
    """A weight, as the kernel takes it."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("span", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


def operand(weight: Nibbles) -> Int4:
    """Return a weight for the kernel; it holds addresses of the weight's tensors."""
    tensors = (weight.codes, weight.zero, weight.table, weight.scale)
    places = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    return Int4(len(weight.codes), weight.columns, weight.span, *places)


def inputs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return q int8 (tokens, columns) and s float32 (tokens,) with x ~ s q, of float32 x.

    s is the token's largest magnitude over 127, and q rounds to nearest, ties to even. Of a token
    with NaN or infinity, s is NaN; of one of zeros, 1.
    """
    largest = x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
    finite = torch.isfinite(largest)
    # Divided as a tensor: by a number, torch may multiply with its reciprocal.
    step = largest / torch.full_like(largest, STEPS)
    step = step.where(step >= _SMALLEST, torch.ones_like(step))
    q = torch.round(x / step.unsqueeze(1)).clamp(-STEPS, STEPS)
    q = q.where(finite.unsqueeze(1), torch.zeros_like(q))
    return q.to(torch.int8), step.where(finite, torch.full_like(step, torch.nan))


def product(weight: Nibbles, q: Tensor, scale: Tensor) -> Tensor | None:
    """Return y (tokens, rows) = s (W q), or None without a kernel.

    Args:
        weight: W.
        q: int8 (tokens, columns).
        scale: s, float32 (tokens,).

    """
    kernels = matvec.library()
    if kernels is None or q.device.type != "cpu" or weight.codes.device.type != "cpu":
        return None
    if weight.span % 2 and weight.span < weight.columns:
        return None  # a group would start within a byte
    rows = len(weight.codes)
    q, scale = q.contiguous(), scale.contiguous()
    y = torch.empty(len(q), rows)
    threads = max(1, min(torch.get_num_threads(), rows))
    where = ctypes.byref(operand(weight))
    places = (q.data_ptr(), scale.data_ptr(), y.data_ptr())
    return None if kernels.zoo_int4_int8(where, len(q), threads, level(), *places) else y


def in_order(weight: Nibbles, q: Tensor, scale: Tensor) -> Tensor:
    """Return what `product` returns, with the sums of `int4_int8.c`, in torch."""
    # Every sum of a group is a whole number that the type holds, so that none is rounded.
    exact = torch.float32 if weight.span <= _EXACT else torch.float64
    units, whole = weight.units().to(exact), q.to(exact)
    steps = from_half_bits(weight.scale)
    y = torch.zeros(len(q), len(units), device=q.device)
    for group in range(len(steps)):
        columns = slice(group * weight.span, (group + 1) * weight.span)
        y += steps[group] * (whole[:, columns] @ units[:, columns].T).to(torch.float32)
    return scale.unsqueeze(1) * y


@functools.cache
def level() -> int:
    """Return the instructions that are used, a place in LEVELS.

    Raises:
        UnknownNameError: `ZOO_KERNELS` names no level.

    """
    kernels, name = matvec.library(), os.environ.get(matvec.SWITCH, "")
    assert kernels is not None
    if name in ("", "0", "1"):
        return int(kernels.zoo_int8_level(-1))
    if name not in LEVELS:
        raise UnknownNameError.near("level", name, LEVELS, f"of {matvec.SWITCH}")
    return int(kernels.zoo_int8_level(LEVELS.index(name)))
