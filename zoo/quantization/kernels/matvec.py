"""Token generation from codes: y = W x for a few tokens, with W decoded where it is multiplied.

On a processor there are two forms with the same bits: `codebook_matvec.c`, built with the
machine's C compiler at first use, and `in_order`, the same order of sums in torch, for machines
without a compiler. On a GPU it is `triton_matvec`, or `in_order`.
"""

import ctypes
import functools
import logging
import os
import shutil
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.kernels.build import built
from zoo.quantization.packing import from_half_bits

log = logging.getLogger("zoo")

FEW = 8  # tokens; beyond that, multiplying with the decoded matrix is cheaper
LANES = 16
SWITCH = "ZOO_KERNELS"  # "0" uses torch only; the name of a level in `int8` is the best one used


class Shape(ctypes.Structure):
    """The sizes of a packed weight, as the kernels take them."""

    _fields_ = (
        ("rows", ctypes.c_int32),
        ("cells", ctypes.c_int32),
        ("dim", ctypes.c_int32),
        ("bits", ctypes.c_int32),
        ("group_cells", ctypes.c_int32),
        ("group_rows", ctypes.c_int32),
        ("tokens", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


class Matvec:
    """The products of one packed weight with few tokens.

    Args:
        grid: the weight's grid: 8-bit codebooks without block scales.

    """

    def __init__(self, grid: Codebooks) -> None:
        self.grid = grid
        cells = grid.span // grid.dim
        sizes = (grid.rows, grid.cells, grid.dim, grid.index_bits, cells, grid.group_rows)
        self._shapes = {tokens: Shape(*sizes, tokens, 1) for tokens in range(1, FEW + 1)}

    def __call__(self, x: Tensor, codes: Tensor, codebook: Tensor, scale: Tensor) -> Tensor | None:
        """Return x W^T (tokens, rows) for float32 x (tokens, columns).

        None if there is no kernel for the tensors' device, or it cannot be built.
        """
        if codes.device.type == "cuda" and (gpu := triton_kernel()) is not None:
            return gpu(self.grid, x, codes, codebook, scale)
        kernels = library()
        if kernels is None or codes.device.type != "cpu":
            return None
        if self.grid.padded != self.grid.columns:
            x = self.grid.pad(x)
        x = x.contiguous()
        shape = self._shapes[len(x)]
        shape.threads = min(torch.get_num_threads(), self.grid.rows)
        y = torch.empty(len(x), self.grid.rows)
        failed = kernels.zoo_codebook_matvec(
            shape,
            codes.data_ptr(),
            codebook.data_ptr(),
            scale.data_ptr(),
            x.data_ptr(),
            y.data_ptr(),
        )
        return None if failed else y


def in_order(grid: Codebooks, weight: Tensor, scale: Tensor, x: Tensor) -> Tensor:
    """Return x W^T (tokens, rows) with the sums of `codebook_matvec.c`, in its order.

    Args:
        grid: the weight's grid.
        weight: (rows, columns) in units of the codebooks' scales: whole numbers.
        scale: (column groups, row groups) as stored.
        x: float32 (tokens, columns).

    """
    owner = torch.arange(grid.rows, device=x.device) // grid.group_rows
    scales = from_half_bits(scale)[:, owner].unsqueeze(2)  # (column groups, rows, 1)
    weights, inputs = _lanes(weight, grid), _lanes(x, grid)
    _, groups, chunks, _, dim = weights.shape
    rows = []
    for values in inputs:
        products = weights * values
        part = x.new_zeros(grid.rows, groups, LANES)
        for plane in range(dim):
            for chunk in range(chunks):
                part += products[:, :, chunk, :, plane]
        sums = x.new_zeros(grid.rows, LANES)
        for group in range(groups):
            sums += scales[group] * part[:, group]
        while (half := sums.shape[1] // 2) > 0:
            sums = sums[:, :half] + sums[:, half:]
        rows.append(sums[:, 0])
    return torch.stack(rows)


def _lanes(values: Tensor, grid: Codebooks) -> Tensor:
    """Return (n, columns) as (n, column groups, chunks, LANES, dim).

    Zeros that pad a ragged column group, or its last chunk, change no sum.
    """
    groups = len(grid.groups)
    if missing := groups * grid.span - values.shape[1]:  # padding by nothing would also copy
        values = F.pad(values, (0, missing))
    cells = values.view(len(values), groups, -1, grid.dim)
    if missing := -cells.shape[2] % LANES:
        cells = F.pad(cells, (0, 0, 0, missing))
    return cells.unflatten(2, (-1, LANES))


@functools.cache
def triton_kernel() -> "Callable[[Codebooks, Tensor, Tensor, Tensor, Tensor], Tensor] | None":
    """Return the kernel for GPUs, or None if Triton is not installed or is switched off."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        from zoo.quantization.kernels import triton_matvec
    except ImportError:
        return None
    return triton_matvec.matvec


def rows_matvec(x: Tensor, codes: Tensor, scale: Tensor) -> Tensor | None:
    """Return x W^T (tokens, rows) in float32 for rows of 8-bit integers, or None without a kernel.

    Args:
        x: float32 (tokens, columns).
        codes: int8 (rows, columns).
        scale: (rows,), bits of a half.

    """
    kernels = library()
    if kernels is None or codes.device.type != "cpu" or x.device.type != "cpu":
        return None
    x, codes, scale = x.contiguous(), codes.contiguous(), scale.contiguous()
    y = torch.empty(len(x), len(codes))
    sizes = (*codes.shape, len(x), max(1, min(torch.get_num_threads(), len(codes))))
    pointers = (values.data_ptr() for values in (codes, scale, x, y))
    return None if kernels.zoo_rows_matvec(*sizes, *pointers) else y


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled functions, or None if they are switched off or cannot be built."""
    if os.environ.get(SWITCH) == "0":
        return None
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None
    try:
        functions = ctypes.CDLL(str(built(compiler)))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning(
            "packed weights are decoded in torch, %s could not be used: %s", compiler, error
        )
        return None
    functions.zoo_codebook_matvec.argtypes = [ctypes.POINTER(Shape), *[ctypes.c_void_p] * 5]
    functions.zoo_rows_matvec.argtypes = [*[ctypes.c_int32] * 4, *[ctypes.c_void_p] * 4]
    functions.zoo_decode.argtypes = [
        ctypes.POINTER(Shape),
        ctypes.c_int32,
        *[ctypes.c_void_p] * 5,
    ]
    functions.zoo_int8_level.argtypes = [ctypes.c_int32]
    functions.zoo_int8_inputs.argtypes = [*[ctypes.c_int32] * 3, *[ctypes.c_void_p] * 3]
    for product in (functions.zoo_int4_int8, functions.zoo_books_int8):
        product.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 3, *[ctypes.c_void_p] * 3]
    functions.zoo_step.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int32,
        ctypes.c_void_p,
    ]
    return functions
