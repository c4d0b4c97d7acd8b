"""Solvers: how codes are chosen. One file each, found by name (`zoo.quantization.options`)."""

import importlib
from typing import Any

from zoo.quantization.grids import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.base import Problem, Solution

__all__ = ["Problem", "Solution", "solve"]


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Choose codes and parameters with the solver that `options` ask for."""
    solver = _module(options.solver if problem.upper is not None else "rtn")
    solution: Solution = solver.solve(problem, grid, options)
    if grid.finish:
        solution = _module(grid.finish).finish(problem, grid, solution, options)
    return solution


def _module(name: str) -> Any:
    return importlib.import_module(f"zoo.quantization.solvers.{name}")
