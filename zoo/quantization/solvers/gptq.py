"""The sweep of GPTQ, over any grid: columns from left to right, errors fed to what follows."""

import torch
from torch import Tensor

from zoo.quantization.grids.contract import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Fit each column group when the sweep reaches it, and take the nearest values."""
    return sweep(problem, grid)


def sweep(
    problem: Problem, grid: Grid, *, block: int = 0, fixed: Solution | None = None
) -> Solution:
    """Return codes chosen with error feedback (algorithm 1 of the paper).

    The columns of a cell P are chosen together, by the metric (U_PP^T U_PP)^-1 that is left once
    earlier columns are fixed, and their errors are fed on as E_P U_PP^-1 U_P,>P. (The paper takes
    only the diagonal of U_PP in both; for cells of one column that is the same.)

    Within `block` columns (at most a column group, the default) errors are fed on at once, and
    to all columns after it in one product at its end; the block changes only the order of
    summation. Column groups always see every earlier error. With `fixed`, its parameters are
    kept instead of fitting new ones.
    """
    if problem.upper is None:
        raise ValueError("a sweep needs the factor U; use the solver rtn without one")
    weight, upper, importance = problem.weight.clone(), problem.upper, problem.importance
    inverses = cell_inverses(upper, grid.dim)
    metrics = inverses @ inverses.mT
    groups, codes = [], []
    for index, (start, end) in enumerate(grid.groups):
        if fixed is not None:
            group = grid.group(fixed.parameters, index)
        else:
            group = grid.fit(weight[:, start:end], importance[start:end])
        groups.append(group)
        width = min(block or end - start, end - start)
        for first in range(start, end, width):
            last = min(first + width, end)
            errors = torch.empty_like(weight[:, first:last])
            for at in range(first, last, grid.dim):
                cell, number = slice(at, at + grid.dim), at // grid.dim
                codes.append(grid.encode(group, weight[:, cell], metrics[number], at - start))
                chosen = grid.decode_group(group, codes[-1], at - start)
                error = (weight[:, cell] - chosen) @ inverses[number]
                errors[:, at - first : at - first + grid.dim] = error
                behind = slice(at + grid.dim, last)
                weight[:, behind].addmm_(error, upper[cell, behind], alpha=-1)
            weight[:, last:].addmm_(errors, upper[first:last, last:], alpha=-1)
    return Solution(torch.cat(codes, 1), grid.collect(groups))


def cell_inverses(upper: Tensor, dim: int) -> Tensor:
    """Return U_PP^-1 of every cell P, (cells, dim, dim)."""
    cells = upper.unflatten(0, (-1, dim)).unflatten(2, (-1, dim)).diagonal(dim1=0, dim2=2)
    unit = torch.eye(dim, dtype=upper.dtype, device=upper.device)
    return torch.linalg.solve_triangular(cells.permute(2, 0, 1), unit, upper=True)
