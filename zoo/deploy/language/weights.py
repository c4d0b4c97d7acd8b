"""What a language model's folder holds, in the numbers that other formats are written from."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.embeddings import PackedEmbedding, PackedHead, Rows, TiedHead
from zoo.quantization.grids.uniform import Uniform
from zoo.quantization.packed import PackedLinear, unpacked
from zoo.quantization.packing import from_half_bits, unpack


@dataclass(frozen=True)
class IntegerMatrix:
    """A matrix on a grid of integers: w = scale * (code - zero), per row and group of columns.

    Attributes:
        codes: uint8 (rows, columns), or int8 where there is no zero point.
        scale: float16 (rows, groups).
        zero: uint8 (rows, groups); None for zero points of 0.
        bits: of a code.
        span: columns of a group; the last may be narrower.
        place: int64 (columns,), where each column's code lies in the order of the groups, if that
            is another than the matrix's; None if it is the same.

    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    span: int
    place: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.codes.shape
        return rows, columns

    def signed(self) -> Tensor:
        """Return code - zero as int16 (rows, columns), in the order of the groups."""
        codes = self.codes.to(torch.int16)
        return codes if self.zero is None else codes - self.spread(self.zero).to(torch.int16)

    def spread(self, values: Tensor) -> Tensor:
        """Return what each column has of (rows, groups) values: (rows, columns)."""
        return values.repeat_interleave(self.span, 1)[:, : self.codes.shape[1]]

    def floats(self) -> Tensor:
        """Return the matrix in float32: the bits of `PackedLinear.dequantize`."""
        values = self.spread(self.scale).to(torch.float32) * self.signed().to(torch.float32)
        return values if self.place is None else values.index_select(1, self.place)

    def rows(self, order: Tensor) -> "IntegerMatrix":
        """Return the matrix with its rows in another order."""
        zero = None if self.zero is None else self.zero[order]
        return replace(self, codes=self.codes[order], scale=self.scale[order], zero=zero)


Weight = IntegerMatrix | Tensor


def steps(layer: PackedLinear, name: str, format: str) -> IntegerMatrix:
    """Return the integers of a packed layer.

    Raises:
        MismatchError: it has values that are no integers with scales.

    """
    grid = layer.grid
    if not isinstance(grid, Uniform):
        raise MismatchError(
            f"{name} has {kind_of(layer)}, which {format} cannot hold: it has integers with scales "
            f"only; compress the model for it with --method gptq --bits 4 --group-size 64, or "
            "export it with --format onnx"
        )
    order = layer.get_buffer("order").long() if layer.options.act_order else None
    return IntegerMatrix(
        codes=unpacked(layer.get_buffer("codes"), grid.index_bits, grid.cells),
        scale=from_half_bits(layer.get_buffer("scale")).to(torch.float16).T.contiguous(),
        zero=unpack(layer.get_buffer("zero"), grid.index_bits, grid.rows).T.contiguous(),
        bits=grid.index_bits,
        span=grid.span,
        place=None if order is None else order.argsort(),
    )


def kind_of(layer: PackedLinear) -> str:
    """Return how a grid is called, for a message."""
    return {"codebook": "codebooks", "factored": "codebooks"}.get(
        layer.options.grid, f"values of the grid {layer.options.grid!r}"
    )


def rows_of(part: Rows) -> IntegerMatrix:
    """Return the 8-bit rows of an embedding or head."""
    scale = part.scale.view(torch.float16).unsqueeze(1)
    return IntegerMatrix(part.codes, scale, None, 8, part.codes.shape[1])


def weights(model: Any, format: str) -> Iterator[tuple[str, Weight]]:
    """Yield each tensor of a language model under its name in transformers; tied ones once.

    Raises:
        MismatchError: `format`, as a message calls it, cannot hold one.

    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, PackedLinear):
            yield f"{prefix}.weight", steps(module, prefix, format)
        elif isinstance(module, PackedEmbedding | PackedHead):
            yield f"{prefix}.weight", rows_of(module)
        elif isinstance(module, TiedHead):
            continue
        yield from _floats(prefix, module, seen)


def _floats(prefix: str, module: nn.Module, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    for key, value in module.named_parameters(recurse=False):
        if id(value) not in seen:
            seen.add(id(value))
            yield f"{prefix}.{key}".lstrip("."), value.detach()
