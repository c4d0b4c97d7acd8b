"""Weights in whole numbers, as products with inputs of 8 bits take them.

A member has `columns` (of W, padded to whole cells), `span` (columns of a group), `units()` and
`steps()`: W[r, k] = unit * steps[g, r] * units[r, k] for k in group g.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.quantization.packing import from_half_bits, unpack


@dataclass(frozen=True)
class Nibbles:
    """A weight of 4-bit codes: W[r, k] = scale[g, r] * (code[r, k] - zero[g, r]).

    With a table: W[r, k] = unit * scale[g, r] * table[code[r, k]].

    Attributes:
        columns: columns of W.
        span: columns of a group g.
        codes: uint8 (rows, ceil(columns / 2)), the lower half of a byte first.
        scale: (groups, rows), bits of halves.
        zero: uint8 (groups, ceil(rows / 2)), packed as the codes; None with a table.
        table: int8 (16,), from -127 to 127.
        unit: of the table.

    """

    columns: int
    span: int
    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None
    table: Tensor | None = None
    unit: float = 1.0

    def units(self) -> Tensor:
        """Return W (rows, columns) in units of its scales: whole numbers, as float32."""
        codes = unpack(self.codes, 4, self.columns)
        if self.table is not None:
            return self.table.to(torch.float32)[codes.long()]
        assert self.zero is not None
        zero = unpack(self.zero, 4, len(codes)).to(torch.float32)
        owner = torch.arange(self.columns, device=codes.device) // self.span
        return codes.to(torch.float32) - zero.T[:, owner]

    def steps(self) -> Tensor:
        """Return the scales (groups, rows) as float32."""
        return from_half_bits(self.scale)


@dataclass(frozen=True)
class Entries:
    """A weight of codes of a codebook for each column group and row group.

    Attributes:
        columns: columns of W in whole cells.
        span: columns of a group.
        bits: bits of a code.
        group_rows: rows that share a codebook.
        codes: uint8 (rows, ceil(cells * bits / 8)), a stream of bits.
        codebook: int8 (column groups, row groups, 2^bits, dim), from -127 to 127.
        scale: (column groups, row groups), bits of halves.

    """

    columns: int
    span: int
    bits: int
    group_rows: int
    codes: Tensor
    codebook: Tensor
    scale: Tensor
    unit: ClassVar[float] = 1.0

    @property
    def dim(self) -> int:
        """Return the columns that share a code."""
        return self.codebook.shape[3]

    def units(self) -> Tensor:
        """Return W (rows, columns) in units of its scales: whole numbers, as float32."""
        codes = unpack(self.codes, self.bits, self.columns // self.dim).long()
        group = torch.arange(codes.shape[1], device=codes.device) // (self.span // self.dim)
        values = self.codebook[group, self._owner().unsqueeze(1), codes]
        return values.flatten(1).to(torch.float32)

    def steps(self) -> Tensor:
        """Return the scales (groups, rows) as float32."""
        return from_half_bits(self.scale)[:, self._owner()]

    def _owner(self) -> Tensor:
        rows = torch.arange(len(self.codes), device=self.codes.device)
        return rows // self.group_rows


Operand = Nibbles | Entries
