"""Codebooks that are optimal for given codes: a least-squares problem (equation 7 of the paper)."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.solvers.contract import Problem, Solution


def update(problem: Problem, grid: Codebooks, solution: Solution, steps: int) -> Solution:
    """Return `solution` with codebooks after `steps` of preconditioned conjugate gradients.

    Q is linear in the codebooks, so tr((W - Q) H (W - Q)^T), H undamped, is a convex quadratic
    that falls with every step and has no learning rate. Row groups do not interact: each has its
    own step lengths. A row group whose error after rounding is no smaller than before keeps its old
    codebooks.
    """
    codebooks = conjugate_gradients(problem, grid, solution, steps)
    parameters = {**solution.parameters, "codebook": grid.round(codebooks)}
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


class Equations:
    """The least-squares problem that codebooks solve for fixed codes: spread^T H spread C = ...

    `jacobi` is the diagonal of the left side, by which conjugate gradients are preconditioned.
    """

    def __init__(self, problem: Problem, grid: Codebooks, solution: Solution) -> None:
        self.problem, self.grid = problem, grid
        self.codes, self.parameters = solution.codes, solution.parameters
        ones = torch.ones_like(problem.weight[0])
        diagonal = ones if problem.hessian is None else problem.hessian.diagonal()
        weight, scales = diagonal.expand_as(problem.weight), grid.scales(self.parameters)
        self.jacobi = self.collect(weight if scales is None else weight * scales)

    def spread(self, codebook: Tensor) -> Tensor:
        """Return the matrix (rows, padded) of the codes with these codebooks."""
        return self.grid.decode({**self.parameters, "codebook": codebook}, self.codes)

    def collect(self, matrix: Tensor) -> Tensor:
        """Return the transpose of `spread`: the sums over the places of each centroid."""
        return self.grid.adjoint(self.parameters, self.codes, matrix)["codebook"]

    def times(self, matrix: Tensor) -> Tensor:
        """Return the matrix times H."""
        return matrix if self.problem.hessian is None else matrix @ self.problem.hessian


def conjugate_gradients(
    problem: Problem, grid: Codebooks, solution: Solution, steps: int
) -> Tensor:
    """Return the codebooks after `steps`, not rounded."""
    equations = Equations(problem, grid, solution)
    return minimise(
        solution.parameters["codebook"],
        equations,
        spread=lambda codebook: codebook,
        collect=lambda codebook: codebook,
        jacobi=equations.jacobi,
        dot=lambda a, b: (a * b).sum((0, 2, 3)).view(1, -1, 1, 1),  # one per row group
        steps=steps,
    )


def minimise(
    start: Tensor,
    equations: Equations,
    *,
    spread: Callable[[Tensor], Tensor],
    collect: Callable[[Tensor], Tensor],
    jacobi: Tensor,
    dot: Callable[[Tensor, Tensor], Tensor],
    steps: int,
) -> Tensor:
    """Return `start` after `steps` of preconditioned conjugate gradients.

    Args:
        start: the tensor in which codebooks are linear: themselves, or one factor of them.
        equations: the equations of the codebooks.
        spread: returns the codebooks of such a tensor.
        collect: its transpose.
        jacobi: the diagonal of the normal equations, shaped as `start`.
        dot: inner products, one per part that has its own step lengths.
        steps: number of steps.

    """
    inverse = torch.where(jacobi > 0, 1 / jacobi.clamp(min=1e-38), torch.zeros_like(jacobi))

    def back(matrix: Tensor) -> Tensor:
        return collect(equations.collect(equations.times(matrix)))

    point = start.clone()
    residual = back(equations.problem.weight - equations.spread(spread(point)))
    conditioned = inverse * residual
    direction, energy = conditioned, dot(residual, conditioned)
    for _ in range(steps):
        product = back(equations.spread(spread(direction)))
        curvature = dot(direction, product)
        length = torch.where(curvature > 0, energy / curvature, torch.zeros_like(energy))
        point = point + length * direction
        residual = residual - length * product
        conditioned = inverse * residual
        last, energy = energy, dot(residual, conditioned)
        ratio = torch.where(last > 0, energy / last, torch.zeros_like(last))
        direction = conditioned + ratio * direction
    return point


def _per_row_group(grid: Codebooks, errors: Tensor) -> Tensor:
    missing = grid.row_groups * grid.group_rows - grid.rows
    padded = torch.nn.functional.pad(errors, (0, missing))
    return padded.view(grid.row_groups, -1).sum(1)
