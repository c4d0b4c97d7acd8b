"""Codebooks that are optimal for given codes: a least-squares problem (equation 7 of the paper)."""

from dataclasses import replace

import torch
from torch import Tensor

from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.solvers.base import Problem, Solution


def update(problem: Problem, grid: Codebooks, solution: Solution, steps: int) -> Solution:
    """Return `solution` with codebooks after `steps` of preconditioned conjugate gradients.

    Q is linear in the codebooks, so tr((W - Q) H (W - Q)^T), H undamped, is a convex quadratic
    that falls with every step and has no learning rate. Row groups do not interact: each has
    step lengths of its own. A row group whose error rounding makes no better than before keeps
    its old codebooks.
    """
    found = conjugate_gradients(problem, grid, solution, steps)
    parameters = {**solution.parameters, "codebook": grid.round(found)}
    after = replace(solution, parameters=parameters)
    return keep_better(problem, grid, solution, after)


def keep_better(problem: Problem, grid: Codebooks, old: Solution, new: Solution) -> Solution:
    """Return, of two solutions with the same block scales, the better one of each row group."""
    errors = [_per_row_group(grid, problem.error(s.decode(grid))) for s in (old, new)]
    better = errors[1] < errors[0]
    rows = better.repeat_interleave(grid.group_rows)[: grid.rows].unsqueeze(1)
    codebook = torch.where(
        better.view(1, -1, 1, 1), new.parameters["codebook"], old.parameters["codebook"]
    )
    codes = torch.where(rows, new.codes, old.codes)
    return Solution(codes, {**new.parameters, "codebook": codebook})


def conjugate_gradients(
    problem: Problem, grid: Codebooks, solution: Solution, steps: int
) -> Tensor:
    """Return the codebooks after `steps`, not rounded."""
    codes, parameters = solution.codes, solution.parameters

    def spread(codebook: Tensor) -> Tensor:
        return grid.decode({**parameters, "codebook": codebook}, codes)

    def collect(matrix: Tensor) -> Tensor:
        return grid.adjoint(parameters, codes, matrix)["codebook"]

    def times(matrix: Tensor) -> Tensor:
        return matrix if problem.hessian is None else matrix @ problem.hessian

    def dot(a: Tensor, b: Tensor) -> Tensor:  # one per row group
        return (a * b).sum((0, 2, 3)).view(1, -1, 1, 1)

    ones = torch.ones_like(problem.weight[0])
    diagonal = ones if problem.hessian is None else problem.hessian.diagonal()
    weight, scales = diagonal.expand_as(problem.weight), grid.scales(parameters)
    jacobi = collect(weight if scales is None else weight * scales)
    inverse = torch.where(jacobi > 0, 1 / jacobi.clamp(min=1e-38), torch.zeros_like(jacobi))

    found = parameters["codebook"].clone()
    residual = collect(times(problem.weight - spread(found)))
    conditioned = inverse * residual
    direction, energy = conditioned, dot(residual, conditioned)
    for _ in range(steps):
        product = collect(times(spread(direction)))
        curvature = dot(direction, product)
        length = torch.where(curvature > 0, energy / curvature, torch.zeros_like(energy))
        found = found + length * direction
        residual = residual - length * product
        conditioned = inverse * residual
        last, energy = energy, dot(residual, conditioned)
        ratio = torch.where(last > 0, energy / last, torch.zeros_like(last))
        direction = conditioned + ratio * direction
    return found


def _per_row_group(grid: Codebooks, errors: Tensor) -> Tensor:
    missing = grid.row_groups * grid.group_rows - grid.rows
    padded = torch.nn.functional.pad(errors, (0, missing))
    return padded.view(grid.row_groups, -1).sum(1)
