"""A sparse change beside the codes of a packed layer: y = W x + S x."""

import torch
from torch import Tensor

_ENTRIES = 1 << 22  # numbers in memory at once


class Delta:
    """S of one layer: `values` (nnz,) in float32 at flat positions of (rows, columns)."""

    def __init__(self, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.indices, self.values, self.shape = indices, values.to(torch.float32), shape

    def __call__(self, x: Tensor) -> Tensor:
        """Return x S^T (..., rows) for x (..., columns), summed in float32."""
        rows, columns = self.shape
        indices, values = self.indices.to(x.device), self.values.to(x.device)
        owner, place = indices // columns, indices % columns
        flat = x.reshape(-1, columns).to(torch.float32)
        parts = [
            part.new_zeros(len(part), rows).index_add(1, owner, part[:, place] * values)
            for part in flat.split(max(1, _ENTRIES // max(len(values), 1)))
        ]
        return torch.cat(parts).view(*x.shape[:-1], rows)

    def add_to(self, weight: Tensor) -> Tensor:
        """Return W + S for W (rows, columns)."""
        values = self.values.to(weight)
        flat = weight.flatten().index_add(0, self.indices.to(weight.device), values)
        return flat.view(self.shape)
