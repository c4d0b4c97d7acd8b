"""Integers with a 16-bit scale and a zero point per row and group of columns."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.quantization.grids.contract import Grid, Layout, Parameters, finite, positive
from zoo.quantization.operands import Nibbles
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, half_bits, pack, packed_bytes, unpack


@dataclass(frozen=True)
class Uniform(Grid):
    """w = scale * (code - zero), with code and zero of `index_bits` bits."""

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the scale and zero point that just cover each row, zero included."""
        top = (1 << self.index_bits) - 1
        low = values.amin(1).clamp(max=0)
        high = values.amax(1).clamp(min=0)
        width = high - low
        # A row of zeros gets the scale 1; subnormal halves would lose the scale's precision.
        scale = torch.where(width > 0, (width / top).clamp(6.2e-5, 65504), torch.ones_like(width))
        scale = scale.to(torch.float16).to(torch.float32)
        zero = torch.round(-low / scale).clamp(0, top)
        return {"scale": scale, "zero": zero}

    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        """Round to the nearest step."""
        top = (1 << self.index_bits) - 1
        steps = torch.round(values / group["scale"].unsqueeze(1)) + group["zero"].unsqueeze(1)
        return steps.clamp(0, top).to(torch.int64)

    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        """Return scale * (code - zero)."""
        return group["scale"].unsqueeze(1) * (codes - group["zero"].unsqueeze(1))

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradient of `scale`."""
        parts = [
            (gradient[:, start:end] * (codes[:, start:end] - zero.unsqueeze(1))).sum(1)
            for (start, end), zero in zip(self.groups, parameters["zero"], strict=True)
        ]
        return {"scale": torch.stack(parts)}

    def layout(self) -> Layout:
        """Return `scale` (groups, rows) as half bits and `zero`, packed per group."""
        groups = len(self.groups)
        return {
            "scale": ((groups, self.rows), torch.int16),
            "zero": ((groups, packed_bytes(self.rows, self.index_bits)), torch.uint8),
        }

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return scales and zero points."""
        return {
            "scale": half_bits(parameters["scale"]),
            "zero": pack(parameters["zero"].to(torch.int64), self.index_bits),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return scales and zero points."""
        zero = unpack(self.take(tensors, "zero"), self.index_bits, self.rows)
        return {
            "scale": finite(from_half_bits(self.take(tensors, "scale")), "scale"),
            "zero": zero.to(torch.float32),
        }

    def integers(self, tensors: Mapping[str, Tensor]) -> Nibbles:
        """Return codes, scales and zero points as they are stored."""
        return Nibbles(self.columns, self.span, tensors["codes"], tensors["scale"], tensors["zero"])

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse scales that are not above zero."""
        positive(tensors["scale"], "scale")


def make(options: LayerOptions, rows: int, columns: int) -> Uniform:
    """Return the grid with groups of `group_size` (64) columns."""
    span = min(options.group_size or options.columns_per_group or 64, columns)
    return Uniform(rows, columns, 1, options.index_bits, span)
