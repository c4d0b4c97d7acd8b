"""What a solver takes, what it returns, and what its module offers."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from zoo.quantization.grids.contract import Grid, Parameters
from zoo.quantization.options import LayerOptions


@dataclass(frozen=True)
class Problem:
    """Minimise tr((W - Q) H (W - Q)^T) over the Q of a grid (equation 1 of the paper).

    `weight` is W (rows, padded); `hessian` H (padded, padded), undamped, or None for the
    identity; `upper` is U (padded, padded), H^-1 = U^T U after damping, or None if there is no
    factor: then nothing is fed back.
    """

    weight: Tensor
    hessian: Tensor | None
    upper: Tensor | None

    @property
    def importance(self) -> Tensor:
        """Return what an error in column j costs once the earlier ones are fixed: 1 / U_jj^2.

        Without feedback that is H_jj, or 1 where there is no H either.
        """
        if self.upper is not None:
            return self.upper.diagonal().square().reciprocal()
        if self.hessian is None:
            return torch.ones_like(self.weight[0])
        diagonal = self.hessian.diagonal()
        return diagonal + 0.01 * diagonal.mean()  # as damped for the sweep: none is zero

    def error(self, quantized: Tensor) -> Tensor:
        """Return each row's share of tr(E H E^T), (rows,), with E = W - Q."""
        return weighted(self.weight - quantized, self.hessian)


@dataclass(frozen=True)
class Solution:
    """Codes (rows, cells) and the parameters of all column groups."""

    codes: Tensor
    parameters: Parameters

    def decode(self, grid: Grid) -> Tensor:
        """Return Q (rows, padded)."""
        return grid.decode(self.parameters, self.codes)


class Solver(Protocol):
    """A module of `zoo.quantization.solvers`, or one that an entry point of that group names."""

    def solve(self, problem: Problem, grid: Grid, options: LayerOptions) -> Solution:
        """Return codes of the grid and its parameters, the same for the same problem.

        Only for `rtn` is `problem.upper` None.
        """
        ...


def weighted(error: Tensor, hessian: Tensor | None) -> Tensor:
    """Return the diagonal of E H E^T, (rows,)."""
    return ((error if hessian is None else error @ hessian) * error).sum(1)
