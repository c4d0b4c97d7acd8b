"""Codes chosen again, one cell at a time with all others fixed: no step can raise the error."""

import torch

from zoo.quantization.grids.contract import Grid
from zoo.quantization.solvers.contract import Problem, Solution


def descend(problem: Problem, grid: Grid, solution: Solution, damp: float) -> Solution:
    """Return `solution` after one pass of coordinate descent over its codes.

    With G = E H and all other cells fixed, the error of cell P is least at the value nearest to
    W_P + (G_P - E_P H_PP) H_PP^-1 by the metric H_PP. H is damped as for the sweep.
    """
    if problem.hessian is None:
        return solution
    hessian = problem.hessian.clone()
    hessian.diagonal().add_(damp * hessian.diagonal().mean())
    cells = hessian.unflatten(0, (-1, grid.dim)).unflatten(2, (-1, grid.dim))
    metrics = cells.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
    inverses = torch.linalg.inv(metrics)
    errors = problem.weight - solution.decode(grid)
    gradient = errors @ hessian
    codes = []
    for index, (start, end) in enumerate(grid.groups):
        group = grid.group(solution.parameters, index)
        changes = torch.zeros_like(errors[:, start:end])
        for at in range(start, end, grid.dim):
            cell, number = slice(at, at + grid.dim), at // grid.dim
            old = errors[:, cell]
            # W_P + (G_P - E_P H_PP) H_PP^-1, and W_P - E_P is the current value
            wanted = problem.weight[:, cell] - old + gradient[:, cell] @ inverses[number]
            codes.append(grid.encode(group, wanted, metrics[number], at - start))
            chosen = grid.decode_group(group, codes[-1], at - start)
            change = problem.weight[:, cell] - chosen - old
            changes[:, at - start : at - start + grid.dim] = change
            gradient[:, at:end].addmm_(change, hessian[cell, at:end])
        ahead = changes @ hessian[start:end]
        gradient[:, :start] += ahead[:, :start]
        gradient[:, end:] += ahead[:, end:]
    return Solution(torch.cat(codes, 1), solution.parameters)
