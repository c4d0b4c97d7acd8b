"""Round to nearest: every weight on its own, no error fed back."""

import torch

from zoo.quantization.grids.contract import Grid
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import Problem, Solution


def solve(problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
    """Fit each column group to its weights, and take the nearest values."""
    importance = problem.importance
    groups, codes = [], []
    for start, end in grid.groups:
        values = problem.weight[:, start:end]
        groups.append(grid.fit(values, importance[start:end]))
        codes.append(grid.encode(groups[-1], values, importance[start:end]))
    return Solution(torch.cat(codes, 1), grid.collect(groups))
