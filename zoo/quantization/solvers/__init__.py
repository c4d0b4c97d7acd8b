"""Solvers: how codes are chosen. One file each, found in this folder; see `contract`."""

import importlib
from collections.abc import Callable

from zoo import extensions
from zoo.quantization.grids.contract import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution, Solver

__all__ = ["Problem", "Solution", "solve"]

POINT = "zoo.quantization.solvers"


def find(name: str) -> Solver:
    """Return the solver of that name.

    Raises:
        UnknownNameError: there is no such solver.
        MismatchError: it lacks its function, or cannot be imported.

    """
    solver: Solver = extensions.member(POINT, name, "solver")
    extensions.require(solver, {"solve": Callable}, f"solver {name!r}", f"{POINT}.contract")
    return solver


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Choose codes and parameters with the solver that `options` ask for."""
    name = options.solver if problem.upper is not None else "rtn"
    solution = find(name).solve(problem, grid, options)
    if grid.finish:
        step = importlib.import_module(f"zoo.quantization.steps.{grid.finish}")
        solution = step.finish(problem, grid, solution, options)
    return solution
