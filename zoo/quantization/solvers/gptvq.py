"""GPTVQ: the sweep over codebooks, then codebooks that are optimal for the chosen codes."""

from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.grids.contract import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution
from zoo.quantization.solvers.gptq import sweep
from zoo.quantization.steps.descent import descend
from zoo.quantization.steps.update import keep_better, update


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Sweep and update the codebooks; then, `rounds` times, codes and codebooks in turn."""
    assert isinstance(grid, Codebooks)
    solution = sweep(problem, grid)
    if options.update_steps:
        solution = update(problem, grid, solution, options.update_steps)
    for _ in range(options.rounds):
        candidate = descend(problem, grid, solution, options.damp)
        solution = keep_better(problem, grid, solution, candidate)
        if options.update_steps:
            solution = update(problem, grid, solution, options.update_steps)
    return solution
