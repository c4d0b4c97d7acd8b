"""Solvers: how codes are chosen. One file each, found by name (`zoo.quantization.options`)."""

import importlib

from zoo.quantization.grids import Grid
from zoo.quantization.grids.factored import Factored
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.base import Problem, Solution
from zoo.quantization.solvers.factor import factor

__all__ = ["Problem", "Solution", "solve"]


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Choose codes and parameters with the solver that `options` ask for."""
    name = options.solver if problem.upper is not None else "rtn"
    module = importlib.import_module(f"zoo.quantization.solvers.{name}")
    solution: Solution = module.solve(problem, grid, options)
    if isinstance(grid, Factored):  # whatever chose the codes
        return factor(problem, grid, solution, options)
    return solution
