"""Forms that are made of others, and the JSON of all forms.

Forms nest: an inner form's tensors have its place before their names, as in "below_left".
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError, UnknownNameError
from zoo.models.structured.forms import (
    DenseForm,
    Factors,
    Form,
    KronForm,
    LowRankForm,
    Shapes,
)


@dataclass(frozen=True)
class RowsForm(Form):
    """The first rows of W as they are, and a form for the rest (HMD, HMF, HKP).

    Attributes:
        dense: rows of each gate that are stored as they are.
        below: the form of all other rows together, gate after gate.
        gates: equal parts that W's rows are stacked of: 4 in an LSTM, 3 in a GRU.

    """

    NAME: ClassVar[str] = "rows"
    dense: int
    below: Form
    gates: int = 1

    def _rest(self, m: int) -> int:
        """Return how many rows are not stored as they are."""
        return m - self.gates * self.dense

    def check(self, m: int, n: int) -> None:
        """Raise if the rows do not divide into gates, or none is left below."""
        if self.gates < 1 or m % self.gates:
            raise self._refuse(m, n, f"{m} rows are not {self.gates} equal gates")
        if not 0 < self.dense < m // self.gates:
            raise self._refuse(m, n, f"expected 1 to {m // self.gates - 1} dense rows of each gate")
        self.below.check(self._rest(m), n)

    def shapes(self, m: int, n: int) -> Shapes:
        """Return those of the dense rows, and of the form below."""
        self.check(m, n)
        below = self.below.shapes(self._rest(m), n)
        return {"dense": (self.gates * self.dense, n), **_under("below", below)}

    def weight(self, factors: Factors) -> Tensor:
        """Return the rows, gate by gate."""
        below = self.below.weight(_of("below", factors))
        parts = [factors["dense"], below]
        return torch.cat([part.unflatten(0, (self.gates, -1)) for part in parts], 1).flatten(0, 1)

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return both parts' outputs, gate by gate, + bias."""
        parts = [F.linear(x, factors["dense"]), self.below.apply(_of("below", factors), x)]
        if self.gates > 1:
            parts = [part.unflatten(-1, (self.gates, -1)) for part in parts]
        y = torch.cat(parts, -1)
        y = y.flatten(-2) if self.gates > 1 else y
        return y if bias is None else y + bias

    def macs(self, m: int, n: int) -> int:
        """Return those of both parts."""
        return self.gates * self.dense * n + self.below.macs(self._rest(m), n)

    def rank_bound(self, m: int, n: int) -> int:
        """Return the dense rows, and what the form below adds."""
        return min(m, n, self.gates * self.dense + self.below.rank_bound(self._rest(m), n))

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random rows and factors."""
        rows = torch.randn(self.gates * self.dense, n) * variance**0.5
        return {"dense": rows, **_under("below", self.below.drawn(self._rest(m), n, variance))}


@dataclass(frozen=True)
class BlocksForm(Form):
    """Equal blocks of rows, each in the same form.

    Attributes:
        number: of blocks; m is a multiple.
        below: the form of each.

    """

    NAME: ClassVar[str] = "blocks"
    number: int
    below: Form

    def check(self, m: int, n: int) -> None:
        """Raise if the rows do not divide into blocks."""
        if self.number < 1 or m % self.number:
            raise self._refuse(m, n, f"expected a divisor of {m}")
        self.below.check(m // self.number, n)

    def shapes(self, m: int, n: int) -> Shapes:
        """Return those of each block."""
        self.check(m, n)
        below = self.below.shapes(m // self.number, n)
        return {k: v for i in range(self.number) for k, v in _under(f"{i}", below).items()}

    def weight(self, factors: Factors) -> Tensor:
        """Return the blocks, one below the other."""
        return torch.cat([self.below.weight(_of(f"{i}", factors)) for i in self._blocks])

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the blocks' outputs, one after the other, + bias."""
        y = torch.cat([self.below.apply(_of(f"{i}", factors), x) for i in self._blocks], -1)
        return y if bias is None else y + bias

    @property
    def _blocks(self) -> range:
        return range(self.number)

    def macs(self, m: int, n: int) -> int:
        """Return those of all blocks."""
        return self.number * self.below.macs(m // self.number, n)

    def rank_bound(self, m: int, n: int) -> int:
        """Return the sum over the blocks."""
        below = self.below.rank_bound(m // self.number, n)
        return min(m, n, self.number * below)

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random factors of each block."""
        rows = m // self.number
        drawn = [_under(f"{i}", self.below.drawn(rows, n, variance)) for i in self._blocks]
        return {name: value for block in drawn for name, value in block.items()}


@dataclass(frozen=True)
class SumForm(Form):
    """The sum of several forms.

    Attributes:
        parts: the forms.

    """

    NAME: ClassVar[str] = "sum"
    parts: tuple[Form, ...]

    def check(self, m: int, n: int) -> None:
        """Raise if there are no parts, or one does not fit."""
        if not self.parts:
            raise self._refuse(m, n, "expected one part or more")
        for part in self.parts:
            part.check(m, n)

    def shapes(self, m: int, n: int) -> Shapes:
        """Return those of each part."""
        self.check(m, n)
        found = [_under(f"{i}", part.shapes(m, n)) for i, part in enumerate(self.parts)]
        return {name: shape for part in found for name, shape in part.items()}

    def _each(self, factors: Factors) -> list[tuple[Form, dict[str, Tensor]]]:
        return [(part, _of(f"{i}", factors)) for i, part in enumerate(self.parts)]

    def weight(self, factors: Factors) -> Tensor:
        """Return the sum of the parts' weights."""
        first, *others = [part.weight(own) for part, own in self._each(factors)]
        return sum(others, first)

    def apply(self, factors: Factors, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return the sum of the parts' outputs; the first adds the bias."""
        (first, own), *others = self._each(factors)
        return sum((part.apply(its, x) for part, its in others), first.apply(own, x, bias))

    def macs(self, m: int, n: int) -> int:
        """Return those of all parts."""
        return sum(part.macs(m, n) for part in self.parts)

    def rank_bound(self, m: int, n: int) -> int:
        """Return the sum over the parts."""
        return min(m, n, sum(part.rank_bound(m, n) for part in self.parts))

    def drawn(self, m: int, n: int, variance: float) -> dict[str, Tensor]:
        """Return random factors of each part, which shares the variance."""
        share = variance / len(self.parts)
        drawn = [_under(f"{i}", part.drawn(m, n, share)) for i, part in enumerate(self.parts)]
        return {name: value for part in drawn for name, value in part.items()}


FORMS: Mapping[str, type[Form]] = {
    form.NAME: form for form in (DenseForm, LowRankForm, KronForm, RowsForm, BlocksForm, SumForm)
}


def from_json(value: Any, where: str = "form") -> Form:
    """Return the form that `Form.to_json` wrote.

    Raises:
        MismatchError: it is not the JSON of a form.
        UnknownNameError: there is no such form.

    """
    if not isinstance(value, Mapping) or len(value) != 1:
        raise MismatchError(f"{where} is {value!r:.80}; expected one form, e.g. {_EXAMPLE}")
    ((name, fields),) = value.items()
    if name not in FORMS:
        raise UnknownNameError.near("form", name, FORMS, f"of {where}; known: {', '.join(FORMS)}")
    known = {field.name: field for field in dataclasses.fields(FORMS[name])}
    needed = {k for k, field in known.items() if field.default is dataclasses.MISSING}
    if not isinstance(fields, Mapping) or not needed <= set(fields) <= set(known):
        expected = ", ".join(known) or "nothing"
        raise MismatchError(f"{where}.{name} is {fields!r:.80}; expected {expected}")
    made = {k: _field(v, known[k].type, f"{where}.{name}.{k}") for k, v in fields.items()}
    return FORMS[name](**made)


_EXAMPLE = '{"lowrank": {"rank": 8}}'


def _field(value: Any, kind: Any, where: str) -> Any:
    """Return a field of a form: a whole number, a word, a form or several."""
    if kind is Form:
        return from_json(value, where)
    if kind is int and type(value) is int:
        return value
    if kind == tuple[Form, ...] and isinstance(value, list | tuple):
        return tuple(from_json(part, f"{where}.{i}") for i, part in enumerate(value))
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    raise MismatchError(f"{where} is {value!r:.80}; expected {_expected(kind)}")


def _expected(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, get_args(kind)))
    return "a whole number" if kind is int else "a list of forms"


def _under(place: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of an inner form by their names in the outer one."""
    return {f"{place}_{name}": value for name, value in named.items()}


def _of(place: str, factors: Factors) -> dict[str, Tensor]:
    """Return the tensors of an inner form by its own names."""
    start = f"{place}_"
    return {k.removeprefix(start): v for k, v in factors.items() if k.startswith(start)}
