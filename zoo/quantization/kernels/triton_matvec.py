"""The product of a few tokens with a packed weight on a GPU, in Triton.

One program takes a block of rows and walks over all cells: codes are extracted from their bytes,
looked up and multiplied in registers, so that only packed bytes are read. It sums in its own order:
results agree with `matvec.in_order` to rounding.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from zoo.quantization.grids.codebook import Codebooks

ROWS, CELLS = 16, 64  # of a block


@triton.jit  # type: ignore[untyped-decorator]
def _matvec(  # type: ignore[no-untyped-def]
    codes, codebook, scale, x, y,
    rows, cells, row_bytes, group_cells, group_rows, row_groups,
    bits: tl.constexpr, dim: tl.constexpr, block_rows: tl.constexpr, block_cells: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * block_rows + tl.arange(0, block_rows)[:, None]
    token = tl.program_id(1)
    in_rows = row < rows
    total = tl.zeros((block_rows, block_cells), dtype=tl.float32)
    for first in range(0, cells, block_cells):
        cell = first + tl.arange(0, block_cells)[None, :]
        inside = in_rows & (cell < cells)
        bit = cell * bits
        byte = bit // 8
        at = row * row_bytes + byte
        low = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
        more = inside & (bit % 8 + bits > 8)  # the code continues in the next byte
        high = tl.load(codes + at + 1, mask=more, other=0).to(tl.int32)
        code = ((low | (high << 8)) >> (bit % 8)) & ((1 << bits) - 1)
        book = (cell // group_cells) * row_groups + row // group_rows
        factor = tl.load(scale + book, mask=inside, other=0.0).to(tl.float32)
        part = tl.zeros((block_rows, block_cells), dtype=tl.float32)
        for plane in tl.static_range(dim):
            entry = (book * (1 << bits) + code) * dim + plane
            weight = tl.load(codebook + entry, mask=inside, other=0).to(tl.float32)
            place = token * cells * dim + cell * dim + plane
            part += weight * tl.load(x + place, mask=cell < cells, other=0.0)
        total += part * factor
    result = tl.sum(total, axis=1)
    out = tl.program_id(0) * block_rows + tl.arange(0, block_rows)
    tl.store(y + token * rows + out, result, mask=out < rows)


def matvec(grid: Codebooks, x: Tensor, codes: Tensor, codebook: Tensor, scale: Tensor) -> Tensor:
    """Return x W^T (tokens, rows) for float32 x (tokens, columns), all on one device."""
    x = grid.pad(x).contiguous()
    y = torch.empty(len(x), grid.rows, device=x.device)
    _matvec[(triton.cdiv(grid.rows, ROWS), len(x))](
        codes, codebook, scale.view(torch.float16), x, y,
        grid.rows, grid.cells, codes.shape[1], grid.span // grid.dim, grid.group_rows,
        grid.row_groups,
        bits=grid.index_bits, dim=grid.dim, block_rows=ROWS, block_cells=CELLS,
    )  # fmt: skip
    return y
