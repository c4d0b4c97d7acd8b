"""What there is to choose when each layer of a trained network may have its own bits.

A layer's weights are rounded to integers with a scale per row, or per row and group of columns,
without training. How good a choice is says the divergence of the outputs from the float network's:
no labels are needed. It is judged on one half of the inputs, and again on the other.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.nas.limits import Use
from zoo.nas.spaces.contract import Choice, Decision, Value
from zoo.quantization.core import QuantizedMatrix, quantize_matrix, stored_bits
from zoo.quantization.language import allocate
from zoo.quantization.options import LayerOptions

BITS = (2, 3, 4, 6, 8)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@dataclass(frozen=True)
class Inputs:
    """Batches of inputs: a network's, or windows of tokens (1, length)."""

    searched: Sequence[Tensor]
    held_out: Sequence[Tensor]

    @classmethod
    def halves(cls, batches: Sequence[Tensor], size: int = 128) -> "Inputs":
        """Return every second input for the search, the others held out; `size` in a batch.

        Raises:
            MismatchError: there are fewer than two.

        """
        rows = [row for batch in batches for row in batch.split(1)]
        if len(rows) < 2:
            raise MismatchError(f"{len(rows)} inputs; expected two or more: half are held out")
        return cls(*(torch.cat(rows[start::2]).split(size) for start in (0, 1)))


def divergence(found: Tensor, wanted: Tensor) -> Tensor:
    """Return KL(wanted || found) of logits (..., classes), in nats, for each row."""
    theirs, ours = wanted.float().log_softmax(-1), found.float().log_softmax(-1)
    return (theirs.exp() * (theirs - ours)).sum(-1).flatten()


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Return |found - wanted|^2 / |wanted|^2 of outputs (N, ...), for each of N."""
    off, size = ((x.float().flatten(1).square().sum(1)) for x in (found - wanted, wanted))
    return off / size.clamp(min=1e-30)


class BitProblem:
    """A network, the bits that its layers may have, and a budget for all of them.

    Args:
        network: in eval mode; its weights are changed while a choice is judged, and put back.
        names: of its layers; None for all linear and convolutional ones.
        inputs: what it is judged on.
        budget: as much storage as so many bits for every layer take, scales included; of 4.5, half
            way between 4 and 5.
        bits: what a layer may have.
        group: columns that share a scale; 0 for one scale per row.
        call: returns the outputs for a batch.
        compare: returns how far outputs are from the float network's, a number for each row.

    Raises:
        MismatchError: there are no layers, or the budget is none for these bits.

    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Inputs,
        budget: float,
        *,
        names: Sequence[str] | None = None,
        bits: Sequence[int] = BITS,
        group: int = 0,
        call: Callable[[nn.Module, Tensor], Tensor] = lambda network, batch: network(batch),
        compare: Callable[[Tensor, Tensor], Tensor] = divergence,
    ) -> None:
        self.network, self.inputs, self.group = network, inputs, group
        self.call, self.compare = call, compare
        self.bits = tuple(sorted(set(bits)))
        if not self.bits or any(type(b) is not int or not 1 <= b <= 8 for b in self.bits):
            raise MismatchError(f"bits are {list(bits)}; expected whole numbers from 1 to 8")
        self.weights = self._weights(names)
        self.floats = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.count = sum(weight.numel() for weight in self.weights.values())
        if not self.bits[0] <= budget <= self.bits[-1]:
            raise MismatchError(
                f"the budget is {budget:g} bits; the layers may have {self.bits[0]} to "
                f"{self.bits[-1]}: give a number between them, or offer others"
            )
        below, above = self._alike(math.floor(budget)), self._alike(math.ceil(budget))
        self.budget = round(below + (budget % 1) * (above - below))
        self._known: dict[tuple[str, int], QuantizedMatrix] = {}
        with torch.no_grad():
            self._wanted = {
                held_out: [call(network, batch) for batch in batches]
                for held_out, batches in ((False, inputs.searched), (True, inputs.held_out))
            }

    def _weights(self, names: Sequence[str] | None) -> dict[str, nn.Parameter]:
        found: dict[str, nn.Parameter] = {
            name: layer.get_parameter("weight")
            for name, layer in self.network.named_modules()
            if isinstance(layer, LAYERS) and (names is None or name in names)
        }
        once = {id(weight): name for name, weight in reversed(found.items())}
        found = {name: weight for name, weight in found.items() if once[id(weight)] == name}
        if not found:
            raise MismatchError(
                f"{type(self.network).__name__} has no linear or convolutional layer: there are no "
                "bits to choose"
            )
        return found

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """A decision for each layer."""
        return tuple(Decision(name=name, values=self.bits, kind="bits") for name in self.weights)

    # --- what a choice takes ------------------------------------------------------------------

    def options(self, name: str, bits: int) -> LayerOptions:
        """Return how a layer is stored with so many bits."""
        columns = self.weights[name][0].numel()
        return LayerOptions(method="rtn", bits=bits, group_size=self.group or columns)

    def _alike(self, bits: int) -> int:
        """Return the stored bits of so many for every layer."""
        return sum(stored_bits(self.shape(n), self.options(n, bits)) for n in self.weights)

    def shape(self, name: str) -> tuple[int, int]:
        """Return a layer's weight as (rows, columns), a row for each output channel."""
        weight = self.weights[name]
        return len(weight), weight[0].numel()

    @cached_property
    def _stored(self) -> dict[tuple[str, Value], int]:
        return {
            (name, bits): stored_bits(self.shape(name), self.options(name, bits))
            for name in self.weights
            for bits in self.bits
        }

    def stored(self, choice: Choice) -> int:
        """Return the stored bits of a choice, scales included."""
        return sum(self._stored[name, value] for name, value in choice.items())

    def use(self, choice: Choice) -> Use:
        """Return what a choice takes, as searchers ask."""
        return Use(flash_bytes=self.stored(choice) // 8)

    def fitted(self, choice: Choice, dice: random.Random, *, fill: bool) -> dict[str, Value]:
        """Return a choice within the budget, layers drawn; with `fill`, as much of it as fits."""
        chosen = dict(choice)
        names = list(chosen)
        while self.stored(chosen) > self.budget:
            name = dice.choice([n for n in names if chosen[n] != self.bits[0]])
            chosen[name] = self.bits[self.bits.index(int(chosen[name])) - 1]
        left = names if fill else []
        while left:
            name = dice.choice(left)
            place = self.bits.index(int(chosen[name])) + 1
            more = {**chosen, name: self.bits[place]} if place < len(self.bits) else None
            if more is None or self.stored(more) > self.budget:
                left = [n for n in left if n != name]
            else:
                chosen = more
        return chosen

    # --- how good it is -----------------------------------------------------------------------

    def loss(self, choice: Choice, *, held_out: bool = False) -> float:
        """Return the mean divergence of a choice; layers that it does not name stay floats."""
        batches = self.inputs.held_out if held_out else self.inputs.searched
        try:
            for name, bits in choice.items():
                self.weights[name].data = self._rounded(name, int(bits))
            return self._mean(batches, self._wanted[held_out])
        finally:
            for name in choice:
                self.weights[name].data = self.floats[name]

    def _rounded(self, name: str, bits: int) -> Tensor:
        if (name, bits) not in self._known:
            matrix = self.floats[name].reshape(self.shape(name))
            self._known[name, bits] = quantize_matrix(matrix, None, self.options(name, bits))
        weight = self.floats[name]
        return self._known[name, bits].dequantize(weight.dtype).view_as(weight)

    @torch.no_grad()
    def _mean(self, batches: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        parts = [
            self.compare(self.call(self.network, batch), known)
            for batch, known in zip(batches, wanted, strict=True)
        ]
        mean = float(torch.cat(parts).double().mean())
        return mean if mean == mean else float("inf")  # NaN: the worst there is

    # --- allocation ---------------------------------------------------------------------------

    def alone(self) -> dict[str, list[allocate.Choice[LayerOptions]]]:
        """Return what each layer loses with each number of bits while the others are floats."""
        return {
            name: [
                allocate.Choice(
                    self.options(name, bits), self._stored[name, bits], self.loss({name: bits})
                )
                for bits in self.bits
            ]
            for name in self.weights
        }

    def allocated(
        self, priced: Mapping[str, Sequence[allocate.Choice[LayerOptions]]]
    ) -> dict[str, Value]:
        """Return the choice of the shared allocator for these prices."""
        chosen = allocate.allocate(priced, self.budget)
        return {name: int(choice.options.bits) for name, choice in chosen.items()}

    def uniform(self) -> dict[str, Value]:
        """Return the most bits that all layers may have alike."""
        fit = [b for b in self.bits if self.stored(dict.fromkeys(self.weights, b)) <= self.budget]
        return dict.fromkeys(self.weights, fit[-1])
