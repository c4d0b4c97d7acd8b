"""One matrix: from float weights and their Hessian to codes and grid, and back.

Grids (`zoo.quantization.grids`) say which values exist, solvers (`zoo.quantization.solvers`) how
codes are chosen; what they share (damping, column order, packing, the report) is here.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.grids import make_grid
from zoo.quantization.grids.contract import Grid, Parameters, take
from zoo.quantization.hessian import Hessian, check_hessian, factor_damped
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import pack, packed_bytes, unpack
from zoo.quantization.solvers import Problem, solve
from zoo.quantization.solvers.contract import weighted

__all__ = ["Hessian", "LayerOptions", "MatrixReport", "PreparedHessian", "QuantizedMatrix",
           "prepare", "quantize_matrix", "stored_bits"]  # fmt: skip


@dataclass(frozen=True)
class MatrixReport:
    """How the quantization of one matrix went.

    `relative_error` is tr(E H E^T) / tr(W H W^T), with the undamped H (0 for a W of zeros); `damp`
    is the fraction of mean(diag H) that was added; `fallbacks` say what was done instead of the
    usual.
    """

    relative_error: float
    damp: float
    seconds: float
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedHessian:
    """A Hessian prepared once for all matrices that share it (query, key and value)."""

    hessian: Tensor | None
    upper: Tensor | None
    order: Tensor | None
    damp: float
    fallbacks: tuple[str, ...]


@dataclass(frozen=True)
class QuantizedMatrix:
    """A (rows, columns) matrix as codes on a grid.

    `codes` is (rows, cells), uint8 or for indices of more bits int32, a cell being `grid.dim`
    columns; `parameters` are the grid's, in float32; `order` is the column order in which codes are
    stored, or None for 0, 1, 2, ...
    """

    codes: Tensor
    parameters: Parameters
    grid: Grid
    options: LayerOptions
    order: Tensor | None = None
    report: MatrixReport | None = None

    def __post_init__(self) -> None:
        """Refuse codes that the grid does not have."""
        if self.codes.shape != (self.grid.rows, self.grid.cells):
            raise MismatchError(
                f"codes are {tuple(self.codes.shape)}; expected {(self.grid.rows, self.grid.cells)}"
            )
        if self.codes.numel() and int(self.codes.max()) >> self.grid.index_bits:
            raise UnsafeFileError(
                f"code {int(self.codes.max())} is out of range: a grid of {self.grid.index_bits} "
                f"bits has codes below {1 << self.grid.index_bits}"
            )
        self.grid.check_codes(self.parameters, self.codes)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return self.grid.rows, self.grid.columns

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the matrix (rows, columns)."""
        values = self.grid.decode(self.parameters, self.codes.long())[:, : self.grid.columns]
        if self.order is not None:
            values = torch.empty_like(values).index_copy_(1, self.order, values)
        return values.to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return what is stored: `codes` packed to uint8, and integers of the grid."""
        stored = {"codes": pack(self.codes, self.grid.index_bits)}
        stored |= self.grid.store(self.parameters)
        if self.order is not None:
            stored["order"] = self.order.to(torch.int32)
        return stored

    @property
    def bits(self) -> int:
        """Return the stored bits: exactly eight times the bytes of `tensors()`."""
        return stored_bits(self.shape, self.options)

    def with_parameters(self, parameters: Parameters) -> "QuantizedMatrix":
        """Return the same codes with other parameters, rounded as they will be for storage."""
        exact = self.grid.restore(self.grid.store(parameters))
        return replace(self, parameters=exact)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], shape: tuple[int, int], options: LayerOptions
    ) -> "QuantizedMatrix":
        """Return the matrix that `tensors()` was called on.

        Raises:
            UnsafeFileError: a name, shape, type or value is one that `tensors()` never returns.

        """
        grid = make_grid(options, *shape)
        width = packed_bytes(grid.cells, grid.index_bits)
        packed = take(tensors, "codes", (grid.rows, width), torch.uint8)
        codes = unpack(packed, grid.index_bits, grid.cells)
        order = None
        if options.act_order:
            order = take(tensors, "order", (grid.columns,), torch.int32).long()
            if not torch.equal(order.sort().values, torch.arange(grid.columns).to(order)):
                raise UnsafeFileError("order is not a permutation of the columns")
        parameters = grid.restore(tensors)
        expected = {"codes", *grid.store(parameters), *(("order",) if options.act_order else ())}
        if set(tensors) != expected:
            extra = ", ".join(sorted(set(tensors) - expected))
            raise UnsafeFileError(f"unknown tensors in a quantized weight: {extra}")
        return cls(codes, parameters, grid, options, order)


def stored_bits(shape: tuple[int, int], options: LayerOptions) -> int:
    """Return the bits that a (rows, columns) matrix takes with `options`, everything included."""
    grid = make_grid(options, *shape)
    codes = grid.rows * packed_bytes(grid.cells, grid.index_bits)
    order = 4 * grid.columns if options.act_order else 0
    return 8 * (codes + grid.parameter_bytes() + order)


def prepare(hessian: Tensor | None, columns: int, options: LayerOptions) -> PreparedHessian:
    """Check, order, damp and factor a Hessian (columns, columns); None stands for the identity.

    Inputs that calibration never saw (a zero on the diagonal) keep their weights: only the damping
    affects them. If no damping up to 1000 times the given one makes H positive definite, or H is
    zero, nothing is fed back, and the report says so.

    Raises:
        MismatchError: the Hessian has the wrong shape, or holds NaN or infinity.

    """
    order = None
    if hessian is not None:
        hessian = check_hessian(hessian, columns)
        if options.act_order:
            order = hessian.diagonal().argsort(descending=True, stable=True)
            hessian = hessian[order][:, order]
        if not hessian.diagonal().any():
            return PreparedHessian(
                None, None, order, 0.0, ("no calibration tokens: H is the identity",)
            )
    elif options.act_order:
        order = torch.arange(columns)
    if hessian is None or options.solver == "rtn":
        return PreparedHessian(hessian, None, order, 0.0, ())
    upper, damp = factor_damped(hessian, options.damp)
    notes: tuple[str, ...] = ()
    if upper is None:
        notes = (f"H is not positive definite even with damp {damp:g}: rounded to nearest",)
    elif damp != options.damp:
        notes = (f"damp raised to {damp:g}",)
    return PreparedHessian(hessian, upper, order, damp, notes)


def quantize_matrix(
    weight: Tensor, hessian: Tensor | PreparedHessian | None, options: LayerOptions
) -> QuantizedMatrix:
    """Quantize `weight` (rows, columns) for inputs with `hessian` (columns, columns), 2/n X^T X.

    Rows influence each other only through the codebooks that they share.

    Raises:
        MismatchError: the shapes do not fit, or a value is NaN or infinite.

    """
    began = time.perf_counter()
    if weight.ndim != 2 or not weight.numel():
        raise MismatchError(f"the weight is {tuple(weight.shape)}; expected (rows, columns)")
    if not torch.isfinite(weight).all():
        raise MismatchError("the weight holds NaN or infinity: the base model is damaged")
    rows, columns = weight.shape
    ready = hessian if isinstance(hessian, PreparedHessian) else prepare(hessian, columns, options)
    grid = make_grid(options, rows, columns)
    values = weight.detach().to(torch.float32)
    if ready.order is not None:
        values = values[:, ready.order.to(values.device)]
    missing = grid.padded - columns
    values = grid.pad(values)
    grid = grid.seen(values)
    problem = Problem(values, _pad(ready.hessian, missing, 0.0), _pad(ready.upper, missing, 1.0))
    solution = solve(problem, grid, options)
    total = weighted(problem.weight, problem.hessian).sum().item()
    error = problem.error(solution.decode(grid)).sum().item()
    report = MatrixReport(
        max(error, 0.0) / total if total > 0 else 0.0,
        ready.damp,
        time.perf_counter() - began,
        ready.fallbacks,
    )
    codes = solution.codes.to(grid.code_type)
    return QuantizedMatrix(codes, solution.parameters, grid, options, ready.order, report)


def _pad(square: Tensor | None, missing: int, diagonal: float) -> Tensor | None:
    """Return `square` with `missing` more rows and columns: zeros, `diagonal` on the diagonal."""
    if square is None or not missing:
        return square
    padded = torch.nn.functional.pad(square, (0, missing, 0, missing))
    padded.diagonal()[-missing:] = diagonal
    return padded
