"""Whole matrices from codes, by the compiled kernel: what products with many tokens start with.

The numbers are those of the grids' own `decode`, to the bit: tables are made by torch, in the type
that is wanted, and the kernel only copies their entries; steps of a scale are rounded once.
"""

import torch
from torch import Tensor

from zoo.quantization.grids.contract import Grid
from zoo.quantization.kernels import matvec


def from_tables(grid: Grid, codes: Tensor, tables: Tensor, group_rows: int) -> Tensor | None:
    """Return W (rows, columns) in the type of the tables, or None without a kernel.

    Args:
        grid: the weight's grid.
        codes: as stored.
        tables: (column groups, row groups, 2^bits, dim), what each code stands for.
        group_rows: rows that share a table.

    """
    bytes_ = grid.dim * tables.element_size()
    return _run(grid, codes, group_rows, bytes_, tables.dtype, tables=tables.contiguous())


def from_steps(
    grid: Grid, codes: Tensor, scale: Tensor, zero: Tensor, dtype: torch.dtype
) -> Tensor | None:
    """Return W (rows, columns) = scale * (code - zero), or None without a kernel.

    Args:
        grid: the weight's grid, of dim 1.
        codes: as stored.
        scale: (column groups, rows), bits of halves.
        zero: uint8 (column groups, rows).
        dtype: the type of W.

    """
    kind = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float32
    given = {"scale": scale.contiguous(), "zero": zero.contiguous()}
    weight = _run(grid, codes, 1, kind.itemsize, kind, **given)
    return None if weight is None else weight.to(dtype)


def _run(
    grid: Grid, codes: Tensor, group_rows: int, bytes_: int, dtype: torch.dtype, **given: Tensor
) -> Tensor | None:
    if codes.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    if (kernels := matvec.library()) is None:
        return None
    threads = max(1, min(torch.get_num_threads(), grid.rows))
    cells = grid.span // grid.dim
    sizes = (grid.rows, grid.cells, grid.dim, grid.index_bits, cells, group_rows, 0, threads)
    weight = torch.empty(grid.rows, grid.padded, dtype=dtype)
    places = [given[n].data_ptr() if n in given else None for n in ("tables", "scale", "zero")]
    stored = codes.contiguous()
    failed = kernels.zoo_decode(
        matvec.Shape(*sizes), bytes_, stored.data_ptr(), *places, weight.data_ptr()
    )
    return None if failed else weight[:, : grid.columns]
