"""The best factors of a form for a given weight, as its inputs see it.

The error of W' in place of W is E|(W - W') x|^2 = tr(E H E^T) with E = W - W', H = E[x x^T], or
|E L|^2 with H = L L^T: what is best for a plain matrix is best for W L. Low rank is exact (Eckart
and Young on W L); the others alternate between their factors, from the plain optimum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.models.structured.composed import BlocksForm, RowsForm, SumForm
from zoo.models.structured.forms import DenseForm, Form, KronForm, LowRankForm
from zoo.quantization.hessian import check_hessian

DAMP = 1e-3  # added to the diagonal of H, as a fraction of its mean
_SWEEPS = 30  # alternations between factors


@dataclass(frozen=True)
class Fitted:
    """Factors for a weight.

    Attributes:
        factors: by name, in the weight's dtype.
        error: tr(E H E^T) / tr(W H W^T); 0 of a weight of zeros.

    """

    factors: dict[str, Tensor]
    error: float


def fit(form: Form, weight: Tensor, hessian: Tensor | None = None, damp: float = DAMP) -> Fitted:
    """Return the factors of `form` that come nearest to a weight.

    Args:
        form: what they are factors of.
        weight: W (m, n).
        hessian: H (n, n), or a multiple; None takes the identity.
        damp: added to H's diagonal, as a fraction of its mean.

    Raises:
        MismatchError: the form does not fit the matrix, or H is not one.

    """
    form.check(*weight.shape)
    exact = weight.detach().double()
    root = root_of(hessian, len(exact.T), damp)
    factors = _fit(form, exact, root)
    error = relative_error(exact, form.weight(factors), root)
    return Fitted({name: factor.to(weight.dtype) for name, factor in factors.items()}, error)


def root_of(hessian: Tensor | None, columns: int, damp: float = DAMP) -> Tensor:
    """Return L (n, n), lower triangular in float64, with H + damping = L L^T.

    Raises:
        MismatchError: H has another size, or is not a sum of x x^T.

    """
    if hessian is None:
        return torch.eye(columns, dtype=torch.float64)
    checked = check_hessian(hessian, columns).double().cpu()
    mean = float(checked.diagonal().mean())
    if not mean > 0:  # no input was ever other than 0: any factors do
        return torch.eye(columns, dtype=torch.float64)
    for attempt in range(4):
        extra = mean * damp * 10**attempt * torch.eye(columns, dtype=torch.float64)
        lower, failed = torch.linalg.cholesky_ex(checked + extra)
        if not failed.item():
            return cast("Tensor", lower)
    raise MismatchError("the Hessian is not a sum of x x^T: it has negative eigenvalues")


def relative_error(weight: Tensor, other: Tensor, root: Tensor) -> float:
    """Return |(W - W') L|^2 / |W L|^2; 0 of a weight of zeros."""
    whole = float((weight @ root).square().sum())
    return float(((weight - other) @ root).square().sum()) / whole if whole else 0.0


@dataclass(frozen=True)
class Spectrum:
    """The singular values of D W L, of which a rank keeps the first.

    Attributes:
        rows: D's diagonal (m,).
        root: L (n, n).
        left: left singular vectors (m, k).
        values: singular values (k,), falling.
        right: right singular vectors (k, n).

    """

    rows: Tensor
    root: Tensor
    left: Tensor
    values: Tensor
    right: Tensor

    def losses(self) -> Tensor:
        """Return |D (W - W') L|^2 of every rank from 0 to k, (k + 1,)."""
        dropped = self.values.square().flip(0).cumsum(0).flip(0)
        return torch.cat([dropped, dropped.new_zeros(1)])

    def cut(self, form: LowRankForm) -> dict[str, Tensor]:
        """Return the best factors of a rank; what is not in the middle is shared evenly."""
        r = form.rank
        values = self.values[:r]
        half = values.sqrt() if not form.middle else torch.ones_like(values)
        left = self.left[:, :r] * half / self.rows[:, None]
        whitened = half[:, None] * self.right[:r]
        right = torch.linalg.solve_triangular(self.root, whitened, upper=False, left=False)
        between = {"diag": values, "full": torch.diag(values)}
        middle = {"middle": between[form.middle]} if form.middle else {}
        return {"left": left, "right": right, **middle}


def spectrum(weight: Tensor, root: Tensor, rows: Tensor | None = None) -> Spectrum:
    """Return the spectrum of a weight (m, n), seen through L and with weights for its rows."""
    exact = weight.detach().double()
    scale = exact.new_ones(len(exact)) if rows is None else rows.double()
    left, values, right = torch.linalg.svd(scale[:, None] * exact @ root, full_matrices=False)
    return Spectrum(scale, root, left, values, right)


def _fit(form: Form, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    return _FITS[type(form)](form, weight, root)


def _dense(form: DenseForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    return {"weight": weight}


def _low_rank(form: LowRankForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    return spectrum(weight, root).cut(form)


def _kron(form: KronForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    """Nearest Kronecker product (Van Loan and Pitsianis), then least squares on A and B in turn.

    With W_i the rows of block i, G_jk = tr(B H_jk B^T), c_ij = <B, (W_i H)_j>: a_i = G^-1 c_i; with
    M = sum_ijk a_ij a_ik H_jk, C = sum_ij a_ij (W_i H)_j: B = C M^-1.
    """
    a, b = form.a, form.b
    m, n = weight.shape
    blocks = weight.reshape(a, m // a, b, n // b).permute(0, 2, 1, 3)  # (a, b, m/a, n/b)
    left, values, right = torch.linalg.svd(blocks.flatten(2).flatten(0, 1), full_matrices=False)
    first = (left[:, 0] * values[0].sqrt()).reshape(a, b)
    second = (right[0] * values[0].sqrt()).reshape(m // a, n // b)
    hessian = root @ root.T
    if torch.equal(root, torch.eye(n, dtype=root.dtype)):
        return {"a": first, "b": second}
    parts = hessian.reshape(b, n // b, b, n // b).permute(0, 2, 1, 3)  # (b, b, n/b, n/b)
    seen = (weight @ hessian).reshape(a, m // a, b, n // b)  # (W_i H)_j
    for _ in range(_SWEEPS):
        gram = torch.einsum("pq,jkqr,pr->jk", second, parts, second)
        first = _solved(gram, torch.einsum("pq,ipjq->ij", second, seen))
        mixed = torch.einsum("ij,ik,jkqr->qr", first, first, parts)
        second = _solved(mixed, torch.einsum("ij,ipjq->pq", first, seen))
    return {"a": first, "b": second}


def _solved(square: Tensor, rows: Tensor) -> Tensor:
    """Return X with X square = rows, of least norm where that is not unique."""
    return cast("Tensor", torch.linalg.lstsq(square.T, rows.T, driver="gelsd").solution.T)


def _rows(form: RowsForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    gates = weight.unflatten(0, (form.gates, -1))
    rest = gates[:, form.dense :].flatten(0, 1)
    below = {f"below_{name}": f for name, f in _fit(form.below, rest, root).items()}
    return {"dense": gates[:, : form.dense].flatten(0, 1), **below}


def _blocks(form: BlocksForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    parts = [_fit(form.below, part, root) for part in weight.chunk(form.number)]
    return {f"{i}_{name}": f for i, part in enumerate(parts) for name, f in part.items()}


def _sum(form: SumForm, weight: Tensor, root: Tensor) -> dict[str, Tensor]:
    """Each part in turn fits what the others leave."""
    fitted: list[dict[str, Tensor]] = []
    weights = [torch.zeros_like(weight) for _ in form.parts]
    for _ in range(_SWEEPS):
        for i, part in enumerate(form.parts):
            left = weight - sum((w for j, w in enumerate(weights) if j != i), weight * 0)
            factors = _fit(part, left, root)
            weights[i] = part.weight(factors)
            fitted[i : i + 1] = [factors]
    return {f"{i}_{name}": f for i, part in enumerate(fitted) for name, f in part.items()}


_FITS: dict[type[Form], Callable[[Any, Tensor, Tensor], dict[str, Tensor]]] = {
    DenseForm: _dense, LowRankForm: _low_rank, KronForm: _kron, RowsForm: _rows,
    BlocksForm: _blocks, SumForm: _sum,
}  # fmt: skip
