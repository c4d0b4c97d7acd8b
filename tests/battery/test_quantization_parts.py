"""Every grid and every solver, also those of installed packages: what its contract says."""

import dataclasses

import pytest
import torch

from zoo import extensions
from zoo.quantization.core import QuantizedMatrix, quantize_matrix, stored_bits
from zoo.quantization.grids import POINT as GRIDS
from zoo.quantization.grids import make_grid
from zoo.quantization.grids.contract import Grid
from zoo.quantization.hessian import Hessian
from zoo.quantization.options import METHODS, LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.solvers import POINT as SOLVERS
from zoo.quantization.solvers import Problem

ROWS, COLUMNS = 16, 40
LAYERS = [
    name
    for name in extensions.names(METHODS)
    if hasattr(extensions.member(METHODS, name, "method"), "GRID")
]
QUICK = {"iterations": 3, "update_steps": 2}


def options_with(grid: str) -> LayerOptions:
    """Options of codebooks, also stored as a product, or of a method that takes any grid."""
    if grid == "factored":
        return LayerOptions(method="gptvq", dim=1, bits=2, codebook_rank=2, group_size=64, **QUICK)
    if grid == "codebook":
        return LayerOptions(method="gptvq", bits=2, group_size=256, **QUICK)
    return LayerOptions(method="gptq", grid=grid)


def sample(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and correlated inputs' Hessian."""
    dice = torch.Generator().manual_seed(seed)
    weight = torch.randn(ROWS, COLUMNS, generator=dice)
    inputs = torch.randn(256, COLUMNS, generator=dice) @ torch.randn(
        COLUMNS, COLUMNS, generator=dice
    )
    return weight, 2 / len(inputs) * inputs.T @ inputs


@pytest.mark.parametrize("name", extensions.names(GRIDS))
def test_a_grid_holds_what_it_gives(name: str) -> None:
    options = options_with(name)
    weight, hessian = sample()
    grid = make_grid(options, ROWS, COLUMNS)
    assert isinstance(grid, Grid)
    assert (grid.rows, grid.columns) == (ROWS, COLUMNS)
    assert grid.groups[0][0] == 0
    assert grid.groups[-1][1] == grid.padded
    matrix = quantize_matrix(weight, hessian, options)
    stored = grid.store(matrix.parameters)
    layout = grid.layout()
    assert {n: (tuple(t.shape), t.dtype) for n, t in stored.items()} == layout
    assert all(not kind.is_floating_point for _, kind in layout.values())
    assert sum(t.numel() * t.element_size() for t in stored.values()) == grid.parameter_bytes()
    again = grid.store(grid.restore(stored))
    assert all(torch.equal(again[n], stored[n]) for n in stored)
    grid.check(stored)
    grid.check(matrix.tensors())
    layer = PackedLinear.of(matrix)
    layer.check()
    assert torch.equal(layer.dequantize(), matrix.dequantize())
    assert torch.equal(QuantizedMatrix.from_tensors(matrix.tensors(), (ROWS, COLUMNS), options)
                       .dequantize(), matrix.dequantize())  # fmt: skip
    assert matrix.report.relative_error < (0.3 if grid.index_bits < 4 * grid.dim else 0.05)
    assert matrix.bits == stored_bits((ROWS, COLUMNS), options)
    # decode is linear in the parameters that adjoint has a gradient for
    gradient = torch.randn(ROWS, grid.padded, generator=torch.Generator().manual_seed(1))
    slopes = grid.adjoint(matrix.parameters, matrix.codes.long(), gradient)
    assert set(slopes) <= set(matrix.parameters)
    assert all(slopes[n].shape == matrix.parameters[n].shape for n in slopes)


@pytest.mark.parametrize("name", extensions.names(SOLVERS))
def test_a_solver_gives_codes_of_the_grid_and_counts_errors_by_the_hessian(name: str) -> None:
    solver = extensions.member(SOLVERS, name, "solver")
    method = next(n for n in LAYERS if LayerOptions(method=n, bits=4).solver == name)
    options = dataclasses.replace(
        LayerOptions(method=method, bits=2, **QUICK), group_size=256 if name == "gptvq" else 40
    )
    weight, hessian = sample(2)
    grid = make_grid(options, ROWS, COLUMNS)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    problem = Problem(grid.pad(weight), hessian, upper)
    solution = solver.solve(problem, grid, options)
    assert solution.codes.shape == (ROWS, grid.cells)
    assert int(solution.codes.min()) >= 0
    assert int(solution.codes.max()) < 1 << grid.index_bits
    again = solver.solve(problem, grid, options)
    assert torch.equal(again.codes, solution.codes)
    nearest = extensions.member(SOLVERS, "rtn", "solver").solve(problem, grid, options)
    found, plain = (problem.error(s.decode(grid)).sum() for s in (solution, nearest))
    assert (found == plain) if name == "rtn" else (found < 0.9 * plain)


def test_without_tokens_any_method_rounds_to_nearest() -> None:
    weight, _ = sample()
    for name in LAYERS:
        options = LayerOptions(method=name, bits=4, **QUICK)
        empty = quantize_matrix(weight, Hessian(COLUMNS).finish(), options)
        assert torch.equal(empty.codes, quantize_matrix(weight, None, options).codes)


@pytest.mark.parametrize(("point", "what"), [(GRIDS, "grid"), (SOLVERS, "solver")])
def test_only_members_lie_in_the_folder(point: str, what: str) -> None:
    part = {"grid": "make", "solver": "solve"}[what]
    assert all(callable(getattr(extensions.member(point, n, what), part)) for n in
               extensions.names(point))  # fmt: skip
