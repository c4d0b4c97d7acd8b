"""What every grid offers to solvers and to storage, and what its module offers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import UnsafeFileError
from zoo.quantization.operands import Operand
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits, unpack

Parameters = dict[str, Tensor]
Layout = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True)
class Grid(ABC):
    """The values that a (rows, columns) matrix may take.

    The matrix is cut into column groups of `span` columns (the last may be ragged). Each has its
    own parameters, fitted when a solver reaches it. Within a group, `dim` neighbouring columns of a
    row share one code below 2^index_bits. Widths not divisible by `dim` are padded with columns of
    zeros.

    Attributes:
        finish: the module of `zoo.quantization.steps` whose `finish` turns what a solver found into
            parameters that can be stored; "" if they can be stored as they are.

    """

    finish: ClassVar[str] = ""

    rows: int
    columns: int
    dim: int
    index_bits: int
    span: int

    @property
    def padded(self) -> int:
        """Return the columns after padding to whole cells of `dim`."""
        return -(-self.columns // self.dim) * self.dim

    @property
    def cells(self) -> int:
        """Return the number of codes per row."""
        return self.padded // self.dim

    @property
    def code_type(self) -> torch.dtype:
        """Return the type that holds a code."""
        return torch.uint8 if self.index_bits <= 8 else torch.int32

    def unpack(self, stored: Tensor) -> Tensor:
        """Return the codes (rows, cells) from the bytes of the tensor `codes`.

        Raises:
            UnsafeFileError: see `zoo.quantization.packing.unpack`.

        """
        return unpack(stored, self.index_bits, self.cells)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """Return the first and end column of every column group, in the padded width."""
        starts = range(0, self.padded, self.span)
        return [(start, min(start + self.span, self.padded)) for start in starts]

    @property
    def row_unit(self) -> int:
        """Return how many rows must stay together when other rows are quantized elsewhere.

        If that is less than `rows`, the parameters of parts are joined along the second axis.
        """
        return 1

    def pinned(self, options: LayerOptions) -> LayerOptions:
        """Return options that divide a part of whole `row_unit`s as this grid divides all."""
        return options

    @abstractmethod
    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the parameters of one column group.

        `values` is (rows, width), and `importance` (width,) is what a squared error costs there.
        """

    @abstractmethod
    def encode(self, group: Parameters, values: Tensor, metric: Tensor, offset: int = 0) -> Tensor:
        """Return the codes (rows, width / dim) of the allowed values nearest to `values`.

        `values` is (rows, width), any run of cells that starts `offset` columns into the group;
        `metric` is what squared errors cost: (width,), or a (dim, dim) matrix for a single cell.
        """

    @abstractmethod
    def decode_group(self, group: Parameters, codes: Tensor, offset: int = 0) -> Tensor:
        """Return the values (rows, width) of `codes` (rows, width / dim) of one column group."""

    @abstractmethod
    def adjoint(self, parameters: Parameters, codes: Tensor, gradient: Tensor) -> Parameters:
        """Return the gradient of the tunable parameters: those in which values are linear.

        `gradient` (rows, padded) is the gradient of the values that `decode` returns for `codes`.
        """

    @abstractmethod
    def layout(self) -> Layout:
        """Return the shape and type of all groups' parameters as stored, by name.

        Integers only, so that casting a model does not harm them.
        """

    @abstractmethod
    def store(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return the tensors of all groups, as `layout` says."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """Return the parameters from the tensors that `store` returned.

        Raises:
            UnsafeFileError: a shape, type or value is one that `store` never writes.

        """

    def check(self, tensors: Mapping[str, Tensor]) -> None:  # noqa: B027  (not all have any)
        """Refuse stored values that no quantization produces, without decoding the matrix.

        Raises:
            UnsafeFileError: a value is invalid, e.g. zero in a tensor that the file lacked.

        """

    def check_codes(self, parameters: Parameters, codes: Tensor) -> None:  # noqa: B027
        """Refuse codes (rows, cells) below 2^index_bits that stand for no value.

        Raises:
            UnsafeFileError: there is one.

        """

    def seen(self, weight: Tensor) -> "Grid":
        """Return the grid for a weight (rows, padded) that is about to be quantized.

        For grids some of whose parameters come from the whole matrix.
        """
        return self

    def decode_stored(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """Return W (rows, columns) from what is stored, or None: no faster way than `decode`.

        The numbers are those of `decode`; nothing is checked.
        """
        return None

    def integers(self, tensors: Mapping[str, Tensor]) -> Operand:
        """Return the stored matrix in whole numbers, for products with inputs of 8 bits.

        `tensors` has `codes` too; `options` say which grids have it.
        """
        raise NotImplementedError(f"{type(self).__name__} has no whole numbers")

    def parameter_bytes(self) -> int:
        """Return the bytes of the tensors that `store` returns."""
        return sum(math.prod(shape) * kind.itemsize for shape, kind in self.layout().values())

    def take(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """Return a stored tensor, checked against `layout`.

        Raises:
            UnsafeFileError: it is missing, or has another shape or type.

        """
        return take(tensors, name, *self.layout()[name])

    def decode(self, parameters: Parameters, codes: Tensor) -> Tensor:
        """Return the matrix (rows, padded) of all codes (rows, cells)."""
        parts = [
            self.decode_group(
                self.group(parameters, index), codes[:, start // self.dim : end // self.dim]
            )
            for index, (start, end) in enumerate(self.groups)
        ]
        return torch.cat(parts, 1)

    def nearest(self, parameters: Parameters, values: Tensor) -> Tensor:
        """Return the codes (rows, cells) of the allowed values nearest to those of a matrix."""
        ones = torch.ones_like(values[0])
        parts = [
            self.encode(self.group(parameters, index), values[:, start:end], ones[start:end])
            for index, (start, end) in enumerate(self.groups)
        ]
        return torch.cat(parts, 1)

    def group(self, parameters: Parameters, index: int) -> Parameters:
        """Return the parameters of one column group from those of all."""
        return {name: tensor[index] for name, tensor in parameters.items()}

    def collect(self, groups: Sequence[Parameters]) -> Parameters:
        """Return the parameters of all column groups, stacked along a first axis."""
        return {name: torch.stack([group[name] for group in groups]) for name in groups[0]}

    def pad(self, matrix: Tensor) -> Tensor:
        """Return (..., columns) with zeros up to whole cells."""
        return F.pad(matrix, (0, self.padded - self.columns))


class GridModule(Protocol):
    """A module of `zoo.quantization.grids`, or one that an entry point of that group names.

    It may name BITS, the bits of a code per weight, and DIM, the columns of a cell, where the grid
    fixes them.
    """

    def make(self, options: LayerOptions, rows: int, columns: int) -> Grid:
        """Return the grid for a (rows, columns) matrix.

        Raises:
            MismatchError: these options allow no such grid.

        """
        ...


def take(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    """Return a stored tensor after checks of presence, shape and type."""
    if name not in tensors:
        raise UnsafeFileError(f"the tensor {name!r} is missing from a quantized weight")
    tensor = tensors[name]
    if tuple(tensor.shape) != shape or tensor.dtype != dtype:
        raise UnsafeFileError(
            f"{name} is {tensor.dtype} {tuple(tensor.shape)}; expected {dtype} {shape}"
        )
    return tensor


def finite(values: Tensor, name: str) -> Tensor:
    """Return `values` if all are finite.

    Raises:
        UnsafeFileError: one is NaN or infinite.

    """
    if not torch.isfinite(values).all():
        raise UnsafeFileError(f"{name} holds NaN or infinity")
    return values


def positive(stored: Tensor, name: str) -> None:
    """Refuse scales, stored as half bits, that are not above zero.

    Raises:
        UnsafeFileError: one is zero, negative, NaN or infinite.

    """
    values = from_half_bits(stored)
    if not (torch.isfinite(values).all() and (values > 0).all()):
        raise UnsafeFileError(f"{name} holds zero, a negative number, NaN or infinity")
