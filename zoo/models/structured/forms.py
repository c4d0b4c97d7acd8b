"""Forms: how a matrix W (m, n) is stored as fewer numbers, as plain data with pure functions.

A form holds no numbers. `shapes(m, n)` says which tensors it stores, by name; the other functions
take these tensors as `factors`. Forms made of others are in `zoo.models.structured.composed`.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError

Factors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Form:
    """What every form can do.

    Attributes:
        NAME: what its JSON calls it.

    """

    NAME: ClassVar[str]

    def check(self, m: int, n: int) -> None:
        """Raise a MismatchError if no matrix (m, n) has this form."""
        raise NotImplementedError

    def shapes(self, m: int, n: int) -> Shapes:
        """Return the shape of each stored tensor of a matrix (m, n), by name."""
        raise NotImplementedError

    def weight(self, factors: Factors) -> Tensor:
        """Return W (m, n); gradients reach the factors."""
        raise NotImplementedError

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return W x + bias of x (..., n) without forming W."""
        raise NotImplementedError

    def macs(self, m: int, n: int) -> int:
        """Return the multiply-accumulates of one W x."""
        return self.count(m, n)

    def rank_bound(self, m: int, n: int) -> int:
        """Return the largest rank that W can have."""
        raise NotImplementedError

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random factors; entries of W have mean 0 and about this variance."""
        raise NotImplementedError

    def count(self, m: int, n: int) -> int:
        """Return how many numbers are stored."""
        return sum(math.prod(shape) for shape in self.shapes(m, n).values())

    def to_json(self) -> dict[str, Any]:
        """Return JSON types; `from_json` returns an equal form."""
        return {self.NAME: {f.name: _json(getattr(self, f.name)) for f in dataclasses.fields(self)}}

    def _refuse(self, m: int, n: int, why: str) -> MismatchError:
        return MismatchError(f"{_said(self)} does not fit a matrix of {m} x {n}: {why}")


@dataclass(frozen=True)
class DenseForm(Form):
    """W itself."""

    NAME: ClassVar[str] = "dense"

    def check(self, m: int, n: int) -> None:
        """Do nothing: every matrix has it."""

    def shapes(self, m: int, n: int) -> Shapes:
        """Return that of W."""
        return {"weight": (m, n)}

    def weight(self, factors: Factors) -> Tensor:
        """Return W."""
        return factors["weight"]

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return W x + bias."""
        return F.linear(x, factors["weight"], bias)

    def rank_bound(self, m: int, n: int) -> int:
        """Return the smaller side."""
        return min(m, n)

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return a random W."""
        return {"weight": torch.randn(m, n) * variance**0.5}


@dataclass(frozen=True)
class LowRankForm(Form):
    """W = left (m, r) middle right (r, n).

    Attributes:
        rank: r; 0 is the matrix of zeros, which stores nothing.
        middle: what stands between: "" nothing, "diag" r numbers, "full" (r, r).

    """

    NAME: ClassVar[str] = "lowrank"
    rank: int
    middle: Literal["", "diag", "full"] = ""

    def check(self, m: int, n: int) -> None:
        """Raise if the rank is more than a matrix can have, or the middle is not known."""
        if not 0 <= self.rank <= min(m, n):
            raise self._refuse(m, n, f"expected a rank of 0 to {min(m, n)}")
        if self.middle not in ("", "diag", "full"):
            raise self._refuse(m, n, 'expected the middle "", "diag" or "full"')

    def shapes(self, m: int, n: int) -> Shapes:
        """Return those of left, right and what is between."""
        self.check(m, n)
        r = self.rank
        shapes: Shapes = {"left": (m, r), "right": (r, n)}
        if self.middle:
            shapes["middle"] = (r,) if self.middle == "diag" else (r, r)
        return shapes

    def weight(self, factors: Factors) -> Tensor:
        """Return left middle right."""
        return factors["left"] @ self._middle(factors, factors["right"].T).T

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return left (middle (right x)) + bias."""
        if not self.rank:
            return nothing(x, len(factors["left"]), bias)
        return F.linear(self._middle(factors, F.linear(x, factors["right"])), factors["left"], bias)

    def _middle(self, factors: Factors, x: Tensor) -> Tensor:
        """Return the middle of x (..., r)."""
        if self.middle == "full":
            return F.linear(x, factors["middle"])
        return x * factors["middle"] if self.middle == "diag" else x

    def rank_bound(self, m: int, n: int) -> int:
        """Return the rank."""
        return self.rank

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random factors, and ones between them."""
        r = self.rank
        half = (variance / max(r, 1)) ** 0.25  # of both, so that neither gradient vanishes
        factors = {"left": torch.randn(m, r) * half, "right": torch.randn(r, n) * half}
        between = {"diag": torch.ones(r), "full": torch.eye(r)}
        return {**factors, **({"middle": between[self.middle]} if self.middle else {})}


@dataclass(frozen=True)
class KronForm(Form):
    """W = A (x) B, A (a, b) and B (m/a, n/b): of full rank at any size (arXiv 1906.02876).

    W x is B on each of b pieces of x, then A across the pieces: the larger factor belongs second.

    Attributes:
        a: rows of A; m is a multiple.
        b: columns of A; n is a multiple.

    """

    NAME: ClassVar[str] = "kron"
    a: int
    b: int

    def check(self, m: int, n: int) -> None:
        """Raise if the factors do not divide the matrix."""
        if self.a < 1 or self.b < 1 or m % self.a or n % self.b:
            raise self._refuse(m, n, f"expected a divisor of {m} and one of {n}")

    def shapes(self, m: int, n: int) -> Shapes:
        """Return those of A and B."""
        self.check(m, n)
        return {"a": (self.a, self.b), "b": (m // self.a, n // self.b)}

    def weight(self, factors: Factors) -> Tensor:
        """Return A (x) B."""
        return torch.kron(factors["a"], factors["b"])

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return A (B X^T)^T, X the pieces of x, + bias."""
        pieces = F.linear(x.unflatten(-1, (self.b, -1)), factors["b"])
        y = F.linear(pieces.transpose(-1, -2), factors["a"]).transpose(-1, -2).flatten(-2)
        return y if bias is None else y + bias

    def macs(self, m: int, n: int) -> int:
        """Return those of B on b pieces, then A on m/a places."""
        rows, columns = m // self.a, n // self.b
        return self.b * rows * columns + self.a * self.b * rows

    def rank_bound(self, m: int, n: int) -> int:
        """Return rank A times rank B."""
        return min(self.a, self.b) * min(m // self.a, n // self.b)

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random factors: var A var B is the variance, or gates vanish."""
        shapes, half = self.shapes(m, n), variance**0.25
        return {name: torch.randn(shape) * half for name, shape in shapes.items()}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [part.to_json() for part in value]
    return value.to_json() if isinstance(value, Form) else value


def _said(form: Form) -> str:
    """Return a form for messages: lowrank(rank=8)."""
    fields = (f"{f.name}={_text(getattr(form, f.name))}" for f in dataclasses.fields(form))
    return f"{form.NAME}({', '.join(fields)})"


def _text(value: Any) -> str:
    return _said(value) if isinstance(value, Form) else repr(value)


def nothing(x: Tensor, m: int, bias: Tensor | None) -> Tensor:
    """Return 0 x + bias, (..., m), which depends on no value of x."""
    shape = (*x.shape[:-1], m)
    return x.new_zeros(shape) if bias is None else bias.expand(shape)
