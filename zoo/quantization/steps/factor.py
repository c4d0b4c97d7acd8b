"""Codebooks of one dimension as a product of low rank, tuned with the loss of their update."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.quantization.grids.contract import Parameters
from zoo.quantization.grids.factored import UNIT, Factored
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution
from zoo.quantization.steps.descent import descend
from zoo.quantization.steps.update import Equations, minimise

TURNS = 3  # rounds of tuning one factor with the other fixed


def finish(problem: Problem, grid: Factored, solution: Solution, options: LayerOptions) -> Solution:
    """Return a solution whose codebooks are `factor` times `basis`, as they are stored.

    Codebooks are sorted, so that entries of equal rank in their groups line up, and codes are
    renamed accordingly. The singular value decomposition gives the factors, which are then tuned in
    turn; the better ones are kept. With rounds, codes are chosen again for them.
    """
    solution = ordered(grid, solution)
    books = solution.parameters["codebook"].squeeze(-1)
    left, values, right = torch.linalg.svd(books.flatten(0, 1).double(), full_matrices=False)
    kept = min(grid.rank, len(values))
    first = books.new_zeros(*books.shape[:2], grid.rank)
    first[..., :kept] = (left[:, :kept] * values[:kept]).view(*books.shape[:2], -1).to(books)
    basis = books.new_zeros(grid.rank, books.shape[-1])
    basis[:kept] = right[:kept].to(books)
    candidates = [rounded(first, basis)]
    if options.update_steps:
        candidates.append(_tuned(problem, grid, solution, first, basis, options.update_steps))
    best = min(
        (Solution(solution.codes, parameters) for parameters in candidates),
        key=lambda each: problem.error(each.decode(grid)).sum().item(),
    )
    if options.rounds:
        after = descend(problem, grid, best, options.damp)
        errors = [problem.error(each.decode(grid)) for each in (best, after)]
        better = (errors[1] < errors[0]).unsqueeze(1)
        best = Solution(torch.where(better, after.codes, best.codes), best.parameters)
    return best


def ordered(grid: Factored, solution: Solution) -> Solution:
    """Return the same values with every codebook sorted."""
    codebook = solution.parameters["codebook"]
    order = codebook.argsort(dim=2, stable=True)
    places = order.argsort(dim=2).flatten()
    codes = places[grid.places(solution.codes)]
    return Solution(codes, {**solution.parameters, "codebook": codebook.gather(2, order)})


def rounded(first: Tensor, basis: Tensor) -> Parameters:
    """Return a product (C, G, r) (r, k) as it is stored: every column of integers reaches 127."""
    largest = first.abs().amax((0, 1))
    unit = torch.where(largest > 0, largest / 127, torch.ones_like(largest))
    halves = (basis * (unit * UNIT).unsqueeze(1)).clamp(-65504, 65504).to(torch.float16)
    if not halves.any():  # a matrix of zeros; a basis of zeros would look like a lost one
        halves[0, 0] = 1
    return {"factor": (first / unit).round(), "basis": halves.to(torch.float32)}


def _tuned(
    problem: Problem,
    grid: Factored,
    solution: Solution,
    first: Tensor,
    basis: Tensor,
    steps: int,
) -> Parameters:
    """Return the factors after least squares for each in turn, rounded; the basis comes last."""
    equations = Equations(problem, grid, solution)
    for _ in range(TURNS):
        first = _left(equations, first, basis, steps)
        basis = _right(equations, first, basis, steps)
    stored = rounded(first, basis)
    integers = stored["factor"]
    basis = _right(equations, integers / UNIT, stored["basis"], steps)
    return {"factor": integers, "basis": basis.clamp(-65504, 65504).half().float()}


def _left(equations: Equations, first: Tensor, basis: Tensor, steps: int) -> Tensor:
    """Return the factor (C, G, r) that suits the basis; row groups do not interact."""
    return minimise(
        first,
        equations,
        spread=lambda some: (some @ basis).unsqueeze(-1),
        collect=lambda books: books.squeeze(-1) @ basis.T,
        jacobi=equations.jacobi.squeeze(-1) @ basis.square().T,
        dot=lambda a, b: (a * b).sum((0, 2)).view(1, -1, 1),
        steps=steps,
    )


def _right(equations: Equations, first: Tensor, basis: Tensor, steps: int) -> Tensor:
    """Return the basis (r, k) that suits the factor."""
    gather: Callable[[Tensor, Tensor], Tensor] = lambda a, books: torch.einsum(  # noqa: E731
        "cgr,cgk->rk", a, books.squeeze(-1)
    )
    return minimise(
        basis,
        equations,
        spread=lambda some: (first @ some).unsqueeze(-1),
        collect=lambda books: gather(first, books),
        jacobi=gather(first.square(), equations.jacobi),
        dot=lambda a, b: (a * b).sum(),
        steps=steps,
    )
