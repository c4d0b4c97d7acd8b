"""Products of packed weights with inputs of 8 bits, scales per token and group of columns.

`int4_int8.c` and `codebook_int8.c` multiply whole numbers, by the best instructions that the
processor has; `in_order` is the same in torch. All have the same bits, on every processor.
"""

import ctypes
import functools
import os

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import UnknownNameError
from zoo.quantization.kernels import matvec
from zoo.quantization.operands import Entries, Nibbles, Operand

STEPS = 127  # an input is a whole number from -127 to 127 times its group's scale
LEVELS = ("portable", "avx2", "vnni", "neon", "dotprod")  # as int4_int8.h counts them
_SMALLEST = 2.0**-126  # a float32 below it has fewer digits
_EXACT = 1024  # columns of a group whose sums of 8-bit products are exact in float32


class Int4(ctypes.Structure):
    """A weight of 4-bit codes, as its kernel takes it."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("columns", ctypes.c_int32),
        ("span", ctypes.c_int32),
        ("codes", ctypes.c_void_p),
        ("zero", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("unit", ctypes.c_float),
    )


class Books(ctypes.Structure):
    """A weight of codebooks, as its kernel takes it."""

    _fields_ = (
        *[
            (name, ctypes.c_int32)
            for name in ("rows", "columns", "span", "dim", "bits", "group_rows")
        ],
        ("codes", ctypes.c_void_p),
        ("codebook", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
    )


def has_kernel(weight: Operand) -> bool:
    """Whether the kernel multiplies it: groups of columns begin at whole bytes of 4-bit codes."""
    return isinstance(weight, Entries) or weight.span % 2 == 0 or weight.span >= weight.columns


def inputs(x: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Return q int8 (tokens, columns) and s float32 (tokens, groups) with x ~ s q, of float32 x.

    s is the largest magnitude of a token's group of `span` columns over 127, and q rounds to
    nearest, ties to even. Of a group with NaN or infinity, s is NaN; of one of zeros, 1.
    """
    compiling = torch.compiler.is_compiling()
    kernels = None if compiling or x.device.type != "cpu" else matvec.library()
    if kernels is None:
        return inputs_in_torch(x, span)
    x = x.contiguous()
    q, scale = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x), -(-x.shape[1] // span))
    kernels.zoo_int8_inputs(*x.shape, span, x.data_ptr(), q.data_ptr(), scale.data_ptr())
    return q, scale


def inputs_in_torch(x: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Return what `inputs` returns, in torch."""
    tokens, columns = x.shape
    x = F.pad(x, (0, -columns % span)).view(tokens, -(-columns // span), span)
    largest = x.abs().amax(2)
    finite = torch.isfinite(largest)
    # Divided as a tensor: by a number, torch may multiply with its reciprocal.
    step = largest / torch.full_like(largest, STEPS)
    step = step.where(step >= _SMALLEST, torch.ones_like(step))
    q = torch.round(x / step.unsqueeze(2)).clamp(-STEPS, STEPS)
    q = q.where(finite.unsqueeze(2), torch.zeros_like(q)).flatten(1)[:, :columns]
    return q.to(torch.int8), step.where(finite, torch.full_like(step, torch.nan))


def product(weight: Operand, q: Tensor, scale: Tensor) -> Tensor | None:
    """Return y (tokens, rows) = W (s q), or None without a kernel.

    Args:
        weight: W.
        q: int8 (tokens, columns).
        scale: s, float32 (tokens, groups).

    """
    kernels = matvec.library()
    if kernels is None or q.device.type != "cpu" or weight.codes.device.type != "cpu":
        return None
    if not has_kernel(weight):
        return None
    rows = len(weight.codes)
    q, scale = q.contiguous(), scale.contiguous()
    y = torch.empty(len(q), rows)
    sizes = (len(q), max(1, min(torch.get_num_threads(), rows)), level())
    places = (q.data_ptr(), scale.data_ptr(), y.data_ptr())
    if isinstance(weight, Nibbles):
        tensors = (weight.codes, weight.zero, weight.table, weight.scale)
        pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
        four = Int4(rows, weight.columns, weight.span, *pointers, weight.unit)
        failed = kernels.zoo_int4_int8(ctypes.byref(four), *sizes, *places)
    else:
        pointers = [t.data_ptr() for t in (weight.codes, weight.codebook, weight.scale)]
        shape = (weight.columns, weight.span, weight.dim, weight.bits, weight.group_rows)
        failed = kernels.zoo_books_int8(
            ctypes.byref(Books(rows, *shape, *pointers)), *sizes, *places
        )
    return None if failed else y


def in_order(weight: Operand, q: Tensor, scale: Tensor) -> Tensor:
    """Return what `product` returns, with the kernels' sums, in torch."""
    # Every sum of a group is a whole number that the type holds, so that none is rounded.
    exact = torch.float32 if weight.span <= _EXACT else torch.float64
    units, whole = weight.units().to(exact), q.to(exact)
    steps, scale = weight.steps(), scale * weight.unit
    y = torch.zeros(len(q), len(units), device=q.device)
    for group in range(len(steps)):
        columns = slice(group * weight.span, (group + 1) * weight.span)
        sums = (whole[:, columns] @ units[:, columns].T).to(torch.float32)
        y += steps[group] * scale[:, group, None] * sums
    return y


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
