"""Microscaling formats of the OCP (specification 1.0): blocks of 32 share a power of two.

The shared exponent is that of the largest element, less the largest exponent of the element type
(section 6.3); elements are rounded to nearest, ties to even, and saturate.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.grids._tables import TableGrid, Values, block_span, symmetric
from zoo.quantization.grids.contract import Layout, Parameters
from zoo.quantization.options import LayerOptions

BLOCK, BIAS = 32, 127
_LEAST, _MOST = 1 - BIAS, 127  # powers; a stored 0 is that of a tensor the file lacks, 255 is NaN


@dataclass(frozen=True)
class Microscaled(TableGrid):
    """w = element[code] * 2^power, the power stored in 8 bits (E8M0).

    Parameters of a column group, which is a block: `power` (rows,).

    Attributes:
        top: largest exponent of the element type: 2 for E2M1, whose largest value is 1.5 * 2^2.

    """

    top: int = 0

    def scales(self, parameters: Parameters) -> Tensor:
        """Return the powers of two."""
        return _powers(parameters["power"].device)[(parameters["power"] + BIAS).long()]

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the power by the specification; it does not look at errors."""
        largest = values.abs().amax(1)
        exponent = torch.frexp(largest).exponent - 1  # floor(log2), exactly
        power = (exponent - self.top).clamp(_LEAST, _MOST)
        return {"power": torch.where(largest > 0, power, 0).to(torch.float32)}

    def layout(self) -> Layout:
        """Return `power` (groups, rows) with a bias of 127."""
        return {"power": ((len(self.groups), self.rows), torch.uint8)}

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the powers."""
        return {"power": (parameters["power"] + BIAS).to(torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return the powers."""
        power = self.take(tensors, "power")
        _refuse(power)
        return {"power": power.to(torch.float32) - BIAS}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse powers that are NaN or missing, and codes that stand for no number."""
        _refuse(tensors["power"])
        super().check(tensors)


@functools.cache
def _powers(device: torch.device) -> Tensor:
    """Return the powers of two by stored exponent, exact on every machine."""
    return torch.tensor([2.0 ** (stored - BIAS) for stored in range(255)], device=device)


def _refuse(power: Tensor) -> None:
    if ((power == 0) | (power == 255)).any():
        raise UnsafeFileError("power holds NaN (255), or 0, which no quantization stores")


def minifloat(exponent_bits: int, mantissa_bits: int, reserved: int = 0) -> Values:
    """Return the values of a small float by code: sign, exponent, mantissa; subnormals included.

    Args:
        exponent_bits: bits of the exponent, with the usual bias.
        mantissa_bits: bits of the mantissa.
        reserved: how many of the largest magnitudes are infinity or NaN.

    """
    bias, steps = (1 << (exponent_bits - 1)) - 1, 1 << mantissa_bits
    magnitudes = []
    for code in range(1 << (exponent_bits + mantissa_bits)):
        exponent, mantissa = divmod(code, steps)
        whole = mantissa / steps + (exponent > 0)
        magnitudes.append(whole * 2.0 ** (max(exponent, 1) - bias))
    kept = len(magnitudes) - reserved
    half = (*magnitudes[:kept], *(None for _ in range(reserved)))
    return symmetric(half, zero=-0.0)


def make(
    options: LayerOptions, rows: int, columns: int, values: Values, *, top: int
) -> Microscaled:
    """Return the grid of these elements, whose largest exponent is `top`."""
    span = block_span(options, BLOCK)
    return Microscaled(rows, columns, 1, options.index_bits, span, tables=(values,), top=top)
