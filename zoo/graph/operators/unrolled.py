"""Recurrent layers of modules (LSTM, GRU, RNN), unrolled: a graph has one length of input.

The products with the inputs of all steps are one layer; each step adds the product with the state
before it, and applies its gates, which are plain operators that every runtime has. A state that
starts at zero costs nothing in the first step. Gates stand as in torch: LSTM input, forget, cell,
output; GRU reset, update, new.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import Trace

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer

_ZEROS = ("zeros", "zeros_like", "new_zeros")
State = list[str | None]  # the names of hidden and cell state; None: zero


@dataclass(frozen=True)
class _Weights:
    """The parameters of one direction of one layer; without biases, None."""

    inner: Any
    outer: Any
    inner_bias: Any = None
    outer_bias: Any = None


class _Unrolling:
    """One recurrent layer of a module, as operators of `tracer`."""

    def __init__(self, tracer: "Tracer", node: "fx.Node", a: dict[str, Any], states: int) -> None:
        self.tracer, self.node, self.count = tracer, node, 0
        if "batch_sizes" in a:
            raise tracer.unmapped(node, f"{node.target} of packed sequences")
        params, each = list(a["params"]), 4 if a["has_biases"] else 2
        self.directions = 2 if a["bidirectional"] else 1
        if len(params) != each * self.directions * a["num_layers"]:
            raise tracer.unmapped(node, f"{node.target} with projections")
        if a["input"].meta["val"].ndim != 3:
            raise tracer.unmapped(node, f"{node.target} without a batch")
        self.weights = [_Weights(*params[i : i + each]) for i in range(0, len(params), each)]
        self.width = int(params[1].meta["val"].shape[1])
        self.turned = not a["batch_first"]
        steps, batch = (int(size) for size in a["input"].meta["val"].shape[:2])
        self.batch, self.steps = (batch, steps) if self.turned else (steps, batch)
        given = a["hx"] if isinstance(a["hx"], list | tuple) else [a["hx"]]
        self.initial = [self.states(part) for part in given[:states]]

    def op(
        self,
        kind: str,
        operands: Sequence[Any],
        shape: tuple[int, ...],
        attributes: dict[str, Any] | None = None,
    ) -> str:
        """Append an operator; return its output."""
        self.count += 1
        part = f"{kind}{self.count}"
        return self.tracer.step(self.node, part, kind, operands, attributes, shape=shape)

    def row(self, kind: str, *operands: Any) -> str:
        """Append an operator that makes one value per cell."""
        return self.op(kind, operands, (self.batch, self.width))

    def cut(self, x: str, shape: tuple[int, ...], dim: int, start: int, stop: int) -> str:
        """Append a slice."""
        slices = [(0, size, 1) for size in shape]
        slices[dim] = (start, stop, 1)
        smaller = (*shape[:dim], stop - start, *shape[dim + 1 :])
        return self.op("strided_slice", [x], smaller, {"slices": tuple(slices), "squeeze": ()})

    def gate(self, x: str, number: int, count: int) -> str:
        """Append the slice of one gate."""
        shape, start = (self.batch, count * self.width), number * self.width
        return self.cut(x, shape, 1, start, start + self.width)

    def states(self, given: "fx.Node") -> State:
        """Return the initial state of each direction of each layer."""
        tracer, count = self.tracer, len(self.weights)
        name = tracer.names[given]
        if name in tracer.sources:
            target = getattr(tracer.parameters[name].target, "_schema", None)
            if target is None or target.name.split("::")[-1] not in _ZEROS:
                raise tracer.unmapped(self.node, f"{self.node.target} with a stored initial state")
            return [None] * count
        shape, rows = (count, self.batch, self.width), (self.batch, self.width)
        cuts = [self.cut(name, shape, 0, k, k + 1) if count > 1 else name for k in range(count)]
        return [self.op("reshape", [part], rows) for part in cuts]

    def run(self, source: "fx.Node", cell: "_Cell") -> list[str]:
        """Return the outputs of all steps, and the last states."""
        features = int(source.meta["val"].shape[2])
        x = self.tracer.names[source]
        if self.turned:
            shape = (self.batch, self.steps, features)
            x = self.op("transpose", [x], shape, {"dims": (1, 0, 2)})
        last: list[list[str]] = []
        for layer in range(len(self.weights) // self.directions):
            sides = []
            for direction in range(self.directions):
                place = layer * self.directions + direction
                rows, state = self.direction(x, place, cell, reverse=direction == 1)
                sides.append(rows)
                last.append(state)
            width = self.width * self.directions
            joined = [self.side(parts) for parts in zip(*sides, strict=True)]
            shape = (self.batch, self.steps, width)
            x = self.op("concat", joined, shape, {"dim": 1}) if self.steps > 1 else joined[0]
        if self.turned:
            x = self.op("transpose", [x], (self.steps, self.batch, width), {"dims": (1, 0, 2)})
        wanted = {user.args[1] for user in self.node.users}
        finals = [
            self.stacked(list(states)) if place + 1 in wanted else ""
            for place, states in enumerate(zip(*last, strict=True))
        ]
        return [x, *finals]

    def side(self, parts: Sequence[str]) -> str:
        """Join the directions of one step, as (N, 1, width)."""
        wide = (self.batch, self.width * len(parts))
        row = self.op("concat", parts, wide, {"dim": 1}) if len(parts) > 1 else parts[0]
        return self.op("reshape", [row], (self.batch, 1, wide[1]))

    def stacked(self, rows: list[str]) -> str:
        shape = (1, self.batch, self.width)
        parts = [self.op("reshape", [row], shape) for row in rows]
        if len(parts) == 1:
            return parts[0]
        return self.op("concat", parts, (len(parts), *shape[1:]), {"dim": 0})

    def direction(
        self, x: str, place: int, cell: "_Cell", *, reverse: bool
    ) -> tuple[list[str], list[str]]:
        """Return the hidden states of all steps in their order, and the last states."""
        weights = self.weights[place]
        wide = cell.gates * self.width
        inputs = (self.batch, self.steps, wide)
        biases = cell.biases(self, weights)
        operands = [x, weights.inner, *([biases[0]] if biases else [])]
        every = self.op("fully_connected", operands, inputs)
        state: State = [part[place] for part in self.initial]
        rows: list[str] = []
        order = range(self.steps)
        for step in reversed(order) if reverse else order:
            given = self.cut(every, inputs, 1, step, step + 1)
            given = self.op("reshape", [given], (self.batch, wide))
            outer = None
            if state[0] is not None:
                operands = [state[0], weights.outer, *biases[1:2]]
                outer = self.op("fully_connected", operands, (self.batch, wide))
            state = list(cell.step(self, given, outer, state, biases))
            rows.append(str(state[0]))
        return rows[::-1] if reverse else rows, [str(part) for part in state]


# Of the products with the inputs; of those with the state; of a state that is zero.
Biases = list[str]
_Step = Callable[[_Unrolling, str, str | None, State, Biases], Sequence[str]]


@dataclass(frozen=True)
class _Cell:
    """A kind of recurrent layer."""

    gates: int
    states: int
    step: _Step
    biases: Callable[[_Unrolling, _Weights], Biases]


def _one_bias(call: _Unrolling, weights: _Weights) -> Biases:
    """Both biases are added to the same sum."""

    import torch

    if weights.inner_bias is None:
        return []
    both = (weights.inner_bias, weights.outer_bias)
    shape = tuple(int(size) for size in both[0].meta["val"].shape)
    return [call.tracer.stored("both", both, shape, torch.add, "bias")]


def _gru_biases(call: _Unrolling, weights: _Weights) -> Biases:
    """The state's bias of the new gate is multiplied by the reset gate, the others are not."""

    import torch

    if weights.inner_bias is None:
        return []
    shared = 2 * call.width
    shape = (3 * call.width,)

    def inner(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat([first[:shared] + second[:shared], first[shared:]])

    def outer(second: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(second[:shared]), second[shared:]])

    both = (weights.inner_bias, weights.outer_bias)
    stored = call.tracer.stored
    alone = stored("new", both[1:], (call.width,), lambda second: second[shared:], "constant")
    return [
        stored("inner", both, shape, inner, "bias"),
        stored("outer", both[1:], shape, outer, "bias"),
        alone,
    ]


def _lstm(
    call: _Unrolling, given: str, outer: str | None, state: State, biases: Biases
) -> Sequence[str]:
    wide = (call.batch, 4 * call.width)
    total = given if outer is None else call.op("add", [given, outer], wide)
    into, forget, new, out = (call.gate(total, number, 4) for number in range(4))
    into, new, out = (
        call.row(kind, x) for kind, x in (("sigmoid", into), ("tanh", new), ("sigmoid", out))
    )
    cell = call.row("mul", into, new)
    if state[1] is not None:
        kept = call.row("mul", call.row("sigmoid", forget), state[1])
        cell = call.row("add", kept, cell)
    return call.row("mul", out, call.row("tanh", cell)), cell


def _gru(
    call: _Unrolling, given: str, outer: str | None, state: State, biases: Biases
) -> Sequence[str]:
    reset, update, new = (call.gate(given, number, 3) for number in range(3))
    if outer is None:  # the state is zero: of its product the bias is left
        update = call.row("sigmoid", update)
        if biases:
            reset = call.row("sigmoid", reset)
            new = call.row("add", new, call.row("mul", reset, biases[2]))
        new = call.row("tanh", new)
        return [call.row("sub", new, call.row("mul", update, new))]
    parts = [call.gate(outer, number, 3) for number in range(3)]
    reset, update = (
        call.row("sigmoid", call.row("add", x, part))
        for x, part in zip((reset, update), parts[:2], strict=True)
    )
    new = call.row("tanh", call.row("add", new, call.row("mul", reset, parts[2])))
    change = call.row("sub", state[0], new)
    return [call.row("add", new, call.row("mul", update, change))]


def _plain(activation: str) -> _Step:
    def step(
        call: _Unrolling, given: str, outer: str | None, state: State, biases: Biases
    ) -> Sequence[str]:
        total = given if outer is None else call.row("add", given, outer)
        return [call.row(activation, total)]

    return step


def _trace(cell: _Cell) -> Trace:
    def trace(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        tracer.results[node] = _Unrolling(tracer, node, a, cell.states).run(a["input"], cell)

    return trace


READERS: dict[str, Trace] = {
    "lstm": _trace(_Cell(gates=4, states=2, step=_lstm, biases=_one_bias)),
    "gru": _trace(_Cell(gates=3, states=1, step=_gru, biases=_gru_biases)),
    "rnn_tanh": _trace(_Cell(gates=1, states=1, step=_plain("tanh"), biases=_one_bias)),
    "rnn_relu": _trace(_Cell(gates=1, states=1, step=_plain("relu"), biases=_one_bias)),
}
