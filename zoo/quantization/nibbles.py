"""Weights of 4-bit codes, as products with inputs of 8 bits take them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.quantization.packing import unpack


@dataclass(frozen=True)
class Nibbles:
    """A weight of 4-bit codes: W[r, k] = scale[g, r] * (code[r, k] - zero[g, r]).

    With a table: W[r, k] = scale[g, r] * table[code[r, k]].

    Attributes:
        columns: columns of W.
        span: columns of a group g.
        codes: uint8 (rows, ceil(columns / 2)), the lower half of a byte first.
        scale: (groups, rows), bits of halves.
        zero: uint8 (groups, ceil(rows / 2)), packed as the codes; None with a table.
        table: int8 (16,), from -127 to 127.

    """

    columns: int
    span: int
    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None
    table: Tensor | None = None

    def units(self) -> Tensor:
        """Return W (rows, columns) in units of its scales: whole numbers, as float32."""
        codes = unpack(self.codes, 4, self.columns)
        if self.table is not None:
            return self.table.to(torch.float32)[codes.long()]
        assert self.zero is not None
        zero = unpack(self.zero, 4, len(codes)).to(torch.float32)
        owner = torch.arange(self.columns, device=codes.device) // self.span
        return codes.to(torch.float32) - zero.T[:, owner]
