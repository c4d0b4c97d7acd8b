"""Integers with scales as ONNX Runtime multiplies with them: its operator `MatMulNBits`.

y = x W^T with w = scale * (code - zero) per row and block of columns; blocks are powers of two from
16 up. Codes are decoded inside the product, so that neither file nor memory ever holds floats.

Source: `ContribOperators.md` of ONNX Runtime.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.deploy.language.weights import IntegerMatrix, rows_of, steps
from zoo.quantization.embeddings import Rows
from zoo.quantization.grids.uniform import Uniform
from zoo.quantization.packed import PackedLinear
from zoo.quantization.packing import pack

_LEAST, _LARGEST = 16, 256  # columns of a block


def fits(layer: PackedLinear) -> bool:
    """Say whether a packed layer has integers in groups that blocks divide."""
    grid = layer.grid
    return isinstance(grid, Uniform) and (
        grid.span >= grid.columns or math.gcd(grid.span, _LEAST) == _LEAST
    )


class NBits(nn.Module):
    """A matrix of integers, for export alone: in torch itself a product is zeros."""

    zero: Tensor | None
    order: Tensor | None

    def __init__(self, matrix: IntegerMatrix, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        rows, columns = matrix.shape
        self.bits = 4 if matrix.bits <= 4 else 8
        self.block = _block(matrix)
        self.rows, self.columns, self.bias = rows, columns, bias
        codes = matrix.codes
        if matrix.zero is None:  # signed: the usual zero point is in the middle
            codes = (codes.to(torch.int16) + 128).to(torch.uint8)
        padded = F.pad(codes, (0, -columns % self.block))
        count = padded.shape[1] // self.block
        packed = pack(padded, self.bits).view(rows, count, -1)
        self.register_buffer("codes", packed)
        self.register_buffer("scale", self._each(matrix, matrix.scale).to(torch.float32))
        zero = None if matrix.zero is None else self._each(matrix, matrix.zero)
        self.register_buffer("zero", None if zero is None else pack(zero, self.bits))
        order = None if matrix.place is None else matrix.place.argsort()
        self.register_buffer("order", order)

    def _each(self, matrix: IntegerMatrix, values: Tensor) -> Tensor:
        """Return for each block what (rows, groups) values are."""
        return matrix.spread(values)[:, :: self.block].contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        if self.order is not None:
            x = x.index_select(-1, self.order)
        y: Tensor = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulNBits",
            (x, self.get_buffer("codes"), self.get_buffer("scale"), self.zero),
            attrs={"K": self.columns, "N": self.rows, "bits": self.bits, "block_size": self.block},
            dtype=x.dtype,
            shape=(*x.shape[:-1], self.rows),
            version=1,
        )
        return y if self.bias is None else y + self.bias


def _block(matrix: IntegerMatrix) -> int:
    """Return the columns of a block: the largest power of two that groups are multiples of."""
    columns = matrix.shape[1]
    if matrix.span < columns:
        return math.gcd(matrix.span, _LARGEST)
    return min(max(math.gcd(columns, _LARGEST), _LEAST), _LARGEST)


def layer_of(layer: PackedLinear) -> NBits:
    """Return a packed layer that `fits`."""
    return NBits(steps(layer, "", "ONNX"), layer.bias)


class NBitsRows(nn.Module):
    """8-bit rows that are looked up and multiplied with: one table for both."""

    def __init__(self, rows: Rows, bias: nn.Parameter | None = None) -> None:
        super().__init__()
        self.times = NBits(rows_of(rows), bias)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids (batch, length)."""
        codes, scale = self.times.get_buffer("codes"), self.times.get_buffer("scale")
        values = codes.flatten(1)[ids].to(torch.float32) - 128
        return values[..., : self.times.columns] * scale[ids][..., :1]
