"""Recurrent layers whose matrices are in forms: HMD, HMF, KP and HKP of arXiv 1906.02876 and kin.

Gates are stacked as in torch: an LSTM's are input, forget, cell, output; a GRU's reset, update,
new. A form of all gates together has `m` = gates * hidden rows.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.structured.forms import Form, KronForm
from zoo.models.structured.layers import StructuredLinear


class Recurrent(nn.Module):
    """One layer: `(N, T, inputs)` and a state to `(N, T, hidden)` and the state after it.

    Args:
        inputs: features of a step.
        hidden: features of the state.
        of_inputs: the form of the matrix (gates * hidden, inputs).
        of_state: that of the matrix (gates * hidden, hidden).

    """

    GATES: ClassVar[int]
    STATES: ClassVar[int]  # tensors of the state

    def __init__(self, inputs: int, hidden: int, of_inputs: Form, of_state: Form) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.of_inputs = StructuredLinear(of_inputs, self.GATES * hidden, inputs, bias=True)
        self.of_state = StructuredLinear(
            of_state, self.GATES * hidden, hidden, bias=self.STATES == 1
        )

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the outputs of all steps, and the state after the last; None begins with zeros."""
        gates, outputs = self.of_inputs(x), []
        for step in range(x.shape[1]):
            state = self.step(gates[:, step], state)
            outputs.append(state[0])
        if state is None or not outputs:
            raise MismatchError(f"{type(self).__name__} was given no step: {tuple(x.shape)}")
        return torch.stack(outputs, 1), state

    def step(self, gates: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """Return the next state of `gates` (N, gates * hidden), what the inputs give.

        A state of None is zero, which costs no product.
        """
        raise NotImplementedError

    def trained(self, x: Tensor) -> Tensor:
        """Return the outputs of all steps by one call of torch, whose matrices are formed once.

        A loop over factored steps trains many times slower.
        """
        of_inputs, of_state = self.of_inputs.matrix(), self.of_state.matrix()
        none = of_inputs.new_zeros(len(of_inputs))
        biases = [none if one is None else one for one in (self.of_inputs.bias, self.of_state.bias)]
        start = x.new_zeros(1, len(x), self.hidden)
        return self._by_torch(x, start, [of_inputs, of_state, *biases])

    def _by_torch(self, x: Tensor, start: Tensor, weights: list[Tensor]) -> Tensor:
        raise NotImplementedError

    def count(self) -> int:
        """Return how many numbers are stored."""
        return sum(parameter.numel() for parameter in self.parameters())


class StructuredLSTM(Recurrent):
    """An LSTM with one bias for each gate."""

    GATES, STATES = 4, 2

    def step(self, gates: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """Return h = o tanh(c), c = f c + i g."""
        if state is not None:
            gates = gates + self.of_state(state[0])
        i, f, g, o = gates.chunk(4, -1)
        c = i.sigmoid() * g.tanh()
        if state is not None:
            c = f.sigmoid() * state[1] + c
        return o.sigmoid() * c.tanh(), c

    def _by_torch(self, x: Tensor, start: Tensor, weights: list[Tensor]) -> Tensor:
        outputs = torch._VF.lstm(
            x, (start, start), weights, True, 1, 0.0, self.training, False, True
        )
        result: Tensor = outputs[0]
        return result


class StructuredGRU(Recurrent):
    """A GRU, with a bias of the state's as in torch: the new gate's is within the reset."""

    GATES, STATES = 3, 1

    def step(self, gates: Tensor, state: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
        """Return h = (1 - z) tanh(n + r U h) + z h."""
        reset, update, new = gates.chunk(3, -1)
        of_state = self.of_state.bias if state is None else self.of_state(state[0])
        assert of_state is not None, "a GRU has a bias of the state's"
        by_state = of_state.chunk(3, -1)
        r, z = (reset + by_state[0]).sigmoid(), (update + by_state[1]).sigmoid()
        h = (1 - z) * (new + r * by_state[2]).tanh()
        return (h if state is None else h + z * state[0],)

    def _by_torch(self, x: Tensor, start: Tensor, weights: list[Tensor]) -> Tensor:
        outputs = torch._VF.gru(x, start, weights, True, 1, 0.0, self.training, False, True)
        result: Tensor = outputs[0]
        return result


def full_rank_factors(m: int, n: int) -> KronForm:
    """Return the Kronecker factors of fewest numbers whose product can have full rank.

    Of equally many numbers, those that multiply least: with the larger factor second. Fewest
    numbers alone may mean rank 2: (2 x 40) (x) (80 x 1) has as many as (10 x 8) (x) (16 x 5).
    """
    forms = [KronForm(a, b) for a in _divisors(m) for b in _divisors(n)]
    full = [form for form in forms if form.rank_bound(m, n) == min(m, n)]
    return min(full, key=lambda form: (form.count(m, n), form.macs(m, n), form.a))


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})
