"""Codebooks of one dimension as a product of low rank (GPTVQ's paper, section 3.3)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.grids import codebook
from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.grids.contract import Layout, Parameters, finite
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, half_bits

UNIT = 128.0  # divisor of the integers: a power of two, so that it costs no bits


@dataclass(frozen=True)
class Factored(Codebooks):
    """The codebooks of all groups, sorted, as `factor` (C, G, r) / 128 times `basis` (r, k).

    The factor has 8-bit integers, the basis halves. Their product is rounded to codebooks of 8-bit
    integers with a scale, from which values are decoded: kernels and exports see ordinary
    codebooks. The parameters are `codebook` until `steps.factor` has found the two.
    """

    rank: int = 1
    finish = "factor"

    @property
    def row_unit(self) -> int:
        """Return all rows: they share the basis."""
        return self.rows

    def books(self, parameters: Parameters) -> Tensor:
        """Return the codebooks (..., k, 1)."""
        if "codebook" in parameters:
            return parameters["codebook"]
        return self.round(self.product(parameters["factor"], parameters["basis"]))

    def product(self, factor: Tensor, basis: Tensor) -> Tensor:
        """Return the codebooks (..., k, 1) before they are rounded.

        In float64, where integers times halves are exact: the same on every machine.
        """
        return ((factor.double() @ basis.double()) / UNIT).unsqueeze(-1).to(torch.float32)

    def as_stored(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the codebooks and their scales as they would be stored without factors."""
        basis = from_half_bits(tensors["basis"])
        integers, scale = self._integers(self.product(tensors["factor"], basis))
        return integers.to(torch.int8), half_bits(scale.flatten(1))

    def group(self, parameters: Parameters, index: int) -> Parameters:
        """Return the parameters of one column group; all have the same basis."""
        if "codebook" in parameters:
            return super().group(parameters, index)
        return {"factor": parameters["factor"][index], "basis": parameters["basis"]}

    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradients of `factor` and `basis`, or of `codebook` before those exist."""
        gradients = super().adjoint(parameters, codes, gradient)
        if "codebook" in parameters:
            return gradients
        books = gradients["codebook"].squeeze(-1) / UNIT
        return {
            "factor": books @ parameters["basis"].T,
            "basis": torch.einsum("cgr,cgk->rk", parameters["factor"], books),
        }

    def layout(self) -> Layout:
        """Return `factor` (C, G, r) and `basis` (r, k)."""
        return {
            "factor": ((len(self.groups), self.row_groups, self.rank), torch.int8),
            "basis": ((self.rank, 1 << self.index_bits), torch.int16),
        }

    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return integers of 8 bits and halves."""
        return {
            "factor": parameters["factor"].round().clamp(-127, 127).to(torch.int8),
            "basis": half_bits(parameters["basis"].clamp(-65504, 65504)),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return `factor` and `basis`."""
        factor = self.take(tensors, "factor")
        if (factor == -128).any():
            raise UnsafeFileError("factor holds -128; its integers are from -127 to 127")
        basis = finite(from_half_bits(self.take(tensors, "basis")), "basis")
        return {"factor": factor.to(torch.float32), "basis": basis}

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse a basis of zeros, NaN or infinity."""
        basis = from_half_bits(tensors["basis"])
        if not (torch.isfinite(basis).all() and basis.any()):
            raise UnsafeFileError("basis holds NaN or infinity, or nothing but zeros")


def make(options: LayerOptions, rows: int, columns: int) -> Codebooks:
    """Return the grid whose codebooks have `group_size` weights, or fit `target_bpv`."""
    return codebook.make(options, rows, columns, Factored, rank=options.codebook_rank)
