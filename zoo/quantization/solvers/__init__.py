"""Solvers: how codes are chosen. One file each, found by being here; see `contract`."""

import importlib

from zoo import extensions
from zoo.quantization.grids import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution, Solver

__all__ = ["Problem", "Solution", "solve"]

POINT = "zoo.quantization.solvers"


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Choose codes and parameters with the solver that `options` ask for."""
    name = options.solver if problem.upper is not None else "rtn"
    solver: Solver = extensions.member(POINT, name, "solver")
    solution = solver.solve(problem, grid, options)
    if grid.finish:
        step = importlib.import_module(f"zoo.quantization.steps.{grid.finish}")
        solution = step.finish(problem, grid, solution, options)
    return solution
