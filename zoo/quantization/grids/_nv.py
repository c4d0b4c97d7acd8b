"""Formats of NVIDIA's kind: blocks of 16 with a scale in E4M3, and one float for the matrix.

The float is such that the largest block has the largest scale, 448; a block's scale takes its
largest weight to the largest element, and is rounded.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.grids._tables import TableGrid, Values, block_span
from zoo.quantization.grids.contract import Layout, Parameters
from zoo.quantization.options import LayerOptions

BLOCK = 16
_E4M3 = torch.float8_e4m3fn
_LEAST, _MOST = 2.0**-6, 448.0  # normal numbers of E4M3: subnormal scales would be coarse


@dataclass(frozen=True)
class TwoScales(TableGrid):
    """w = element[code] * scale * tensor.

    Parameters of a column group, which is a block: `scale` (rows,), numbers of E4M3, and `tensor`
    (), the same for all.

    Attributes:
        tensor: what all scales are multiples of; 1 until the matrix is seen.

    """

    tensor: float = 1.0

    @property
    def largest(self) -> float:
        """Return the largest element."""
        return max(value for value in self.tables[0] if value is not None)

    @property
    def row_unit(self) -> int:
        """Return all rows: they share `tensor`."""
        return self.rows

    def seen(self, weight: Tensor) -> "TwoScales":
        """Return the grid with the float of this matrix."""
        largest = weight.abs().amax() / (_MOST * self.largest)
        return replace(self, tensor=float(largest.clamp(min=1e-30)) if largest > 0 else 1.0)

    def scales(self, parameters: Parameters) -> Tensor:
        """Return the products of both scales."""
        return parameters["scale"] * parameters["tensor"].unsqueeze(-1)

    def scaled(self, group: Parameters, values: Tensor) -> Tensor:
        """Return values over scales, in the order of operations of the published kernels."""
        return values * ((1 / group["tensor"]) / group["scale"]).unsqueeze(1)

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the scale that takes the largest weight to the largest element."""
        tensor = torch.tensor(self.tensor, device=values.device)
        scale = values.abs().amax(1) / self.largest / tensor
        return {"scale": scale.clamp(_LEAST, _MOST).to(_E4M3).float(), "tensor": tensor}

    def layout(self) -> Layout:
        """Return `scale` (groups, rows), bits of E4M3, and `tensor` (1,), bits of a float."""
        return {
            "scale": ((len(self.groups), self.rows), torch.uint8),
            "tensor": ((1,), torch.int32),
        }

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return both scales."""
        scale = parameters["scale"].clamp(_LEAST, _MOST).to(_E4M3)
        tensor = parameters["tensor"][:1].contiguous()
        return {"scale": scale.view(torch.uint8), "tensor": tensor.view(torch.int32)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return both scales."""
        scale, tensor = self.take(tensors, "scale"), self.take(tensors, "tensor")
        _refuse(scale, tensor)
        whole = tensor.contiguous().view(torch.float32).expand(len(self.groups))
        return {"scale": scale.view(_E4M3).float(), "tensor": whole}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse scales that are not above zero, and codes that stand for no number."""
        _refuse(tensors["scale"], tensors["tensor"])
        super().check(tensors)


def _refuse(scale: Tensor, tensor: Tensor) -> None:
    if ((scale == 0) | (scale >= 127)).any():  # 127 is NaN, 128 and more are negative
        raise UnsafeFileError("scale holds zero, a negative number or NaN")
    whole = tensor.contiguous().view(torch.float32)
    if not (torch.isfinite(whole).all() and (whole > 0).all()):
        raise UnsafeFileError("tensor holds zero, a negative number, NaN or infinity")


def make(options: LayerOptions, rows: int, columns: int, values: Values) -> TwoScales:
    """Return the grid of these elements."""
    span = block_span(options, BLOCK)
    return TwoScales(rows, columns, 1, options.index_bits, span, tables=(values,))
