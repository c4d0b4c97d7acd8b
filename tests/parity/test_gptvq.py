"""The quantization core against brute force, GPTQ, dense least squares, and the paper's table."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from zoo.quantization.core import LayerOptions, quantize_matrix, stored_bits
from zoo.quantization.grids import make_grid
from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.grids.contract import Parameters
from zoo.quantization.grids.uniform import Uniform
from zoo.quantization.hessian import factor
from zoo.quantization.solvers.contract import Problem, Solution
from zoo.quantization.solvers.gptq import cell_inverses, sweep
from zoo.quantization.steps.descent import descend
from zoo.quantization.steps.update import conjugate_gradients, update


def problem(rows: int, columns: int, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(4 * columns, columns, generator=generator)
    inputs = inputs @ (torch.eye(columns) + torch.randn(columns, columns, generator=generator) / 4)
    hessian = inputs.T @ inputs / len(inputs)
    upper = factor(hessian, 0.01)
    return Problem(torch.randn(rows, columns, generator=generator), hessian, upper)


def test_the_factor_is_that_of_the_damped_inverse() -> None:
    some = problem(1, 24)
    assert some.hessian is not None
    upper = factor(some.hessian.double(), 0.01)
    assert upper is not None
    assert torch.equal(upper, upper.triu())
    mean = some.hessian.double().diagonal().mean()
    damped = some.hessian.double() / mean + 0.01 * torch.eye(24)
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped))
    for column in range(24):  # what is left for a column once the earlier ones are fixed
        left = torch.linalg.inv(damped[column:, column:])[0, 0]
        torch.testing.assert_close(upper[column, column].square(), left)
    # a cell's metric is the Schur complement of what may still answer to its error
    inverses = cell_inverses(upper, 4)
    for number, cell in enumerate(range(0, 24, 4)):
        left = torch.linalg.inv(damped[cell:, cell:])[:4, :4]
        torch.testing.assert_close(inverses[number] @ inverses[number].T, torch.linalg.inv(left))


@dataclass(frozen=True)
class Levels(Codebooks):
    """Codebooks of one row each that hold the levels of a uniform grid."""

    def fit(self, values: Tensor, importance: Tensor) -> Parameters:
        """Return the levels that the uniform grid would have."""
        uniform = Uniform(self.rows, self.columns, 1, self.index_bits, self.span)
        group = uniform.fit(values, importance)
        levels = torch.arange(1 << self.index_bits).expand(self.rows, -1)
        return {"codebook": uniform.decode_group(group, levels).unsqueeze(2)}


def test_uniform_codebooks_of_one_dimension_are_gptq() -> None:
    some = problem(20, 96)
    uniform = make_grid(LayerOptions(method="gptq", bits=3, group_size=32), 20, 96)
    levels = Levels(20, 96, 1, 3, 32, group_rows=1)
    one, other = sweep(some, uniform), sweep(some, levels)
    assert torch.equal(one.codes, other.codes)
    assert torch.equal(one.decode(uniform), other.decode(levels))


def gptq_by_the_book(weight: Tensor, hessian: Tensor, span: int, bits: int) -> Tensor:
    """Return GPTQ's Q, each column eliminated from an explicit inverse (no factor, no blocks)."""
    weight, quantized = weight.double().clone(), torch.zeros_like(weight, dtype=torch.float64)
    inverse = torch.linalg.inv(hessian.double())
    grid = Uniform(*weight.shape, 1, bits, span)
    group: Parameters = {}
    for column in range(weight.shape[1]):
        if column % span == 0:
            group = grid.fit(weight[:, column : column + span].float(), torch.ones(span))
        values = weight[:, column : column + 1]
        codes = grid.encode(group, values.float(), torch.ones(1))
        quantized[:, column : column + 1] = grid.decode_group(group, codes)
        error = (weight[:, column] - quantized[:, column]) / inverse[0, 0]
        weight[:, column + 1 :] -= error.outer(inverse[0, 1:])
        inverse = inverse[1:, 1:] - inverse[1:, :1] @ inverse[:1, 1:] / inverse[0, 0]
    return quantized


def test_gptq_is_what_its_paper_says() -> None:
    some = problem(10, 48)
    assert some.hessian is not None
    damped = some.hessian + 0.01 * some.hessian.diagonal().mean() * torch.eye(48)
    expected = gptq_by_the_book(some.weight, damped, 16, 3)
    options = LayerOptions(method="gptq", bits=3, group_size=16)
    matrix = quantize_matrix(some.weight, some.hessian, options)
    torch.testing.assert_close(matrix.dequantize(), expected.float())


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("width", [4, 8, 12, 20, 28])
def test_blocks_change_only_the_order_of_sums(dim: int, width: int) -> None:
    some = problem(32, 84)
    options = LayerOptions(bits=2, dim=dim, group_size=28 * 16, columns_per_group=28)
    grid = make_grid(options, 32, 84)
    assert grid.groups == [(0, 28), (28, 56), (56, 84)]
    plain, blocked = sweep(some, grid, block=dim), sweep(some, grid, block=width)
    assert torch.equal(plain.codes, blocked.codes)
    torch.testing.assert_close(plain.decode(grid), blocked.decode(grid))


def test_a_diagonal_hessian_is_weighted_rounding() -> None:
    some = problem(16, 32)
    diagonal = torch.linspace(0.1, 5, 32).diag()
    upper = factor(diagonal, 0.0)
    assert upper is not None
    grid = make_grid(LayerOptions(group_size=256), 16, 32)
    alone = Problem(some.weight, diagonal, upper)
    swept = sweep(alone, grid)
    for index, (start, end) in enumerate(grid.groups):
        group = grid.group(swept.parameters, index)
        codes = grid.encode(group, some.weight[:, start:end], diagonal.diagonal()[start:end])
        assert torch.equal(codes, swept.codes[:, start // 2 : end // 2])


@pytest.mark.parametrize("scale_block", [0, 8])
def test_the_codebook_update_is_least_squares(scale_block: int) -> None:
    some = problem(12, 32)
    assert some.hessian is not None
    options = LayerOptions(
        dim=2, bits=1, group_size=64, columns_per_group=16, scale_block=scale_block
    )
    grid = make_grid(options, 12, 32)
    assert isinstance(grid, Codebooks)
    solution = sweep(some, grid)
    start = solution.parameters["codebook"]
    found = conjugate_gradients(some, grid, solution, 300)

    # the same by a dense matrix: one column for each number of the codebooks, rows W H^1/2
    root = torch.linalg.cholesky(some.hessian.double())
    columns = []
    for place in range(start.numel()):
        unit = torch.zeros(start.numel())
        unit[place] = 1
        parameters = {**solution.parameters, "codebook": unit.view_as(start)}
        columns.append((grid.decode(parameters, solution.codes).double() @ root).flatten())
    design = torch.stack(columns, 1)
    wanted = (some.weight.double() @ root).flatten()
    best = torch.linalg.lstsq(design, wanted, driver="gelsd").solution
    expected = (design @ best - wanted).square().sum()
    reached = (design @ found.double().flatten() - wanted).square().sum()
    assert reached <= expected * (1 + 1e-4)
    # and its gradient is nought
    gradient = design.T @ (design @ found.double().flatten() - wanted)
    assert gradient.abs().max() < 1e-3 * (design.T @ wanted).abs().max()


@pytest.mark.parametrize(
    "options",
    [
        LayerOptions(method="rtn", bits=3, group_size=8),
        LayerOptions(dim=1, bits=2, group_size=80),
        LayerOptions(dim=2, bits=1.5, group_size=80, scale_block=4),
        LayerOptions(dim=4, bits=1, group_size=80),
    ],
)
def test_the_adjoint_is_that_of_decoding(options: LayerOptions) -> None:
    matrix = quantize_matrix(problem(10, 22).weight, None, options)
    grid, codes = matrix.grid, matrix.codes.long()
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(10, grid.padded, generator=generator)
    for name, found in grid.adjoint(matrix.parameters, codes, gradient).items():
        change = torch.randn(found.shape, generator=generator)
        parameters = {**matrix.parameters, name: matrix.parameters[name] + change}
        moved = grid.decode(parameters, codes) - grid.decode(matrix.parameters, codes)
        torch.testing.assert_close((moved * gradient).sum(), (change * found).sum())


def test_updates_never_raise_the_error_of_any_row_group() -> None:
    some = problem(64, 64)
    for steps in (1, 2, 8):
        grid = make_grid(LayerOptions(group_size=256), 64, 64)
        assert isinstance(grid, Codebooks)
        before = sweep(some, grid)
        after = update(some, grid, before, steps)
        errors = [
            some.error(s.decode(grid)).view(grid.row_groups, -1).sum(1) for s in (before, after)
        ]
        assert (errors[1] <= errors[0] * (1 + 1e-6)).all()
        assert errors[1].sum() < errors[0].sum()


@pytest.mark.parametrize("dim", [1, 2])
def test_descent_takes_the_best_code_of_every_cell(dim: int) -> None:
    """No single code of the result can be changed for the better (brute force)."""
    some = problem(6, 12)
    assert some.hessian is not None
    grid = make_grid(LayerOptions(dim=dim, bits=2 / dim, group_size=36), 6, 12)
    solution = sweep(some, grid)
    for _ in range(30):
        before, solution = solution, descend(some, grid, solution, 0.0)
        old, new = (some.error(s.decode(grid)) for s in (before, solution))
        assert (new <= old * (1 + 1e-5) + 1e-6).all()
        if torch.equal(before.codes, solution.codes):
            break
    else:
        pytest.fail("descent does not settle")
    least = some.error(solution.decode(grid))
    for cell in range(grid.cells):
        for code in range(4):
            codes = solution.codes.clone()
            codes[:, cell] = code
            other = some.error(Solution(codes, solution.parameters).decode(grid))
            assert (other >= least * (1 - 1e-4) - 1e-6).all()


# Section 3 of the paper, and its typing errors put right: bits, dim, weights per codebook; bits
# per value without and with the codebook's 16-bit scale.
TABLE = [
    (2, 1, 256, 2.125, 2.1875),
    (2, 2, 2048, 2.125, 2.1328125),
    (2, 4, 65536, 2.125, 2.125244140625),
    (2, 1, 128, 2.25, 2.375),
    (2, 2, 1024, 2.25, 2.265625),
    (2, 4, 32768, 2.25, 2.25048828125),
    (3, 1, 512, 3.125, 3.15625),
    (3, 2, 8192, 3.125, 3.126953125),
    (4, 1, 1024, 4.125, 4.140625),
    (4, 2, 32768, 4.125, 4.12548828125),
]


@pytest.mark.parametrize(("bits", "dim", "size", "paper", "true"), TABLE)
def test_bits_per_value_are_those_of_the_paper(
    bits: int, dim: int, size: int, paper: float, true: float
) -> None:
    shape = (2048, 4096)  # every group fits
    options = LayerOptions(bits=bits, dim=dim, group_size=size)
    assert stored_bits(shape, options) / (2048 * 4096) == true
    books = 2048 * 4096 // size
    assert stored_bits(shape, options) - 16 * books == paper * 2048 * 4096
    halves = LayerOptions(bits=bits, dim=dim, group_size=2 * size, codebook_bits=16)
    assert stored_bits(shape, halves) / (2048 * 4096) == paper


def test_bits_per_value_of_scales_and_uniform_grids() -> None:
    shape = (4096, 4096)
    scaled = LayerOptions(bits=2, dim=2, group_size=4096, scale_block=64)
    logs = 64 * 32  # step and low of 64 block columns
    assert stored_bits(shape, scaled) == (2.125 + 16 / 4096) * 4096**2 + logs
    for bits, group, expected in ((4, 128, 4.15625), (3, 64, 3.296875), (2, 64, 2.28125)):
        options = LayerOptions(method="gptq", bits=bits, group_size=group)
        assert stored_bits(shape, options) / 4096**2 == expected


def test_the_weighting_of_the_paper_beats_the_others() -> None:
    """What an error costs is 1 / U^2: not nothing, nor U as in the published code."""
    some = problem(128, 128)
    assert some.hessian is not None
    stretch = torch.logspace(-1, 1, 128)
    hessian = some.hessian * stretch.outer(stretch)
    upper = factor(hessian, 0.01)
    assert upper is not None
    stretched = Problem(some.weight, hessian, upper)
    grid = make_grid(LayerOptions(group_size=2048), 128, 128)
    errors = {}
    for power in (2, 0, -1):

        class Weighted(Problem):
            @property
            def importance(self, power: int = power) -> Tensor:
                assert self.upper is not None
                return self.upper.diagonal() ** -power

        other = Weighted(some.weight, hessian, upper)
        errors[power] = stretched.error(sweep(other, grid).decode(grid)).sum().item()
    assert errors[2] < errors[0] < errors[-1]
