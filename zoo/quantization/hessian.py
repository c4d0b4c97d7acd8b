"""Calibration statistics: the Hessian of the layer-wise squared error, and its factor."""

import torch
from torch import Tensor

from zoo.errors import MismatchError


class Hessian:
    """The running means H = 2/n sum x x^T and 1/n sum |x| over n tokens of inputs x (columns,).

    Sums are kept in float64, so that once rounded to float32 they depend neither on the order of
    the sequences nor on how they were split over processes.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self.total = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self.sizes = torch.zeros(columns, dtype=torch.float64, device=device)
        self.tokens = 0

    def update(self, inputs: Tensor) -> None:
        """Add the tokens of `inputs` (..., columns)."""
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).to(torch.float32)
        if flat.shape[1] != len(self.total):
            raise MismatchError(f"inputs have {flat.shape[1]} columns; expected {len(self.total)}")
        self.total += flat.T @ flat
        self.sizes += flat.abs().sum(0)
        self.tokens += len(flat)

    def merge(self, other: "Hessian") -> None:
        """Add what another process, or another part of the data, has seen."""
        self.total += other.total
        self.sizes += other.sizes
        self.tokens += other.tokens

    def finish(self) -> Tensor:
        """Return H (columns, columns) in float32; zeros where no token was seen."""
        return (self.total * (2 / max(self.tokens, 1))).to(torch.float32)

    def magnitude(self) -> Tensor:
        """Return the mean |x| of each column, (columns,), in float32."""
        return (self.sizes / max(self.tokens, 1)).to(torch.float32)


def check_hessian(hessian: Tensor, columns: int) -> Tensor:
    """Return `hessian` in float32 after checks of shape and values.

    Raises:
        MismatchError: it is not (columns, columns), is not finite, or has a negative diagonal.

    """
    if hessian.shape != (columns, columns):
        raise MismatchError(
            f"the Hessian is {tuple(hessian.shape)}; a weight of {columns} columns needs "
            f"({columns}, {columns})"
        )
    if not torch.isfinite(hessian).all():
        raise MismatchError(
            "the Hessian holds NaN or infinity: the activations of the calibration overflowed; "
            "calibrate in float32 or bfloat16"
        )
    if (hessian.diagonal() < 0).any():
        raise MismatchError("the Hessian has a negative diagonal, so it is not a sum of x x^T")
    return hessian.to(torch.float32)


def factor(hessian: Tensor, damp: float) -> Tensor | None:
    """Return U, upper triangular with H^-1 = U^T U for the damped H, or None if H is singular.

    U_jj^2 is the entry of column j in the inverse of H restricted to columns j and later: the
    remaining cost of column j once the earlier ones are fixed. From H = R R^T with R = U^-1
    upper: in reverse order R is the ordinary Cholesky factor, so one factorisation and one
    triangular inverse give U, without ever forming H^-1.
    """
    mean = hessian.diagonal().mean()
    if not mean > 0:
        return None
    damped = (hessian / mean).flip(0, 1)  # so that U does not depend on H's scale
    damped.diagonal().add_(damp)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed.item():
        return None
    unit = torch.eye(len(lower), device=lower.device, dtype=lower.dtype)
    inverse = torch.linalg.solve_triangular(lower, unit, upper=False)
    upper = inverse.flip(0, 1).contiguous()
    return upper if torch.isfinite(upper).all() and (upper.diagonal() > 0).all() else None


def factor_damped(hessian: Tensor, damp: float) -> tuple[Tensor | None, float]:
    """Return U and the damping it took: `damp`, else ten times as much, up to three times over."""
    tried = damp
    for attempt in range(4):
        tried = damp * 10**attempt if damp else (0.0 if attempt == 0 else 1e-3 * 10**attempt)
        upper = factor(hessian, tried)
        if upper is not None:
            return upper, tried
    return None, tried
