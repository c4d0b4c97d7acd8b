"""Which faults to try: every live site by its residency, strata of them, and where to look more.

A site is a register, a bit and a cycle, all equally likely: P(site) = 1 / (bits x cycles). The
share of a cell (layer, class, bit) is that of its live sites. Strata are layers x classes x groups
of bits. Within one, sites are drawn as they are likely, and inputs by how near they are to another
answer: q(x) = 0.9 q*(x) + 0.1 / N with q*(x) in proportion to 1 / (1 + (margin / 8)^2), and every
fault counts 1 / (N q(x)), so that the mean is that of all inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.resilience.dataflow import Dataflow
from zoo.resilience.engine import Engine, FlipOutcome, Flips
from zoo.resilience.faults import BITS, Integers, reached
from zoo.resilience.layers import MacLayer
from zoo.resilience.statistics import Reals, Tally

_GROUPS = {
    8: ((0, 1), (2, 3), (4, 5), (6, 7)),
    32: (tuple(range(8)), tuple(range(8, 12)), tuple(range(12, 16)), tuple(range(16, 20)),
         tuple(range(20, 31)), (31,)),
}  # fmt: skip
_NEAR = 8.0  # steps of the output within which an answer is nearly another
_LEAST = 0.1  # share of the draws that take inputs as they are likely
_FEWEST = 8  # faults of each stratum in the pilot
_PRIOR = 20.0  # faults at the pooled rate, when draws are shared out
STORED = "stored"  # class of the bytes of an activation, where software is modelled


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The live sites of one bit of one class of registers in one layer.

    Attributes:
        layer: its number among the layers.
        register: the class.
        bit: which.
        share: of all live sites.

    """

    layer: int
    register: str
    bit: int
    share: float


@dataclass(frozen=True, eq=False)
class FaultPlan:
    """Sites with their shares, in an order that does not change.

    Attributes:
        engine: the network.
        flow: the array; None models software: every weight, and every byte of a layer's input, is
            equally likely, and a flip is there for the whole layer.
        registers: classes that are hit.
        stretch: by layer, cycles that it takes over those of the array without waiting.
        labels: of the inputs (N,).
        near: whether inputs that are near another answer are drawn more often.

    """

    engine: Engine
    flow: Dataflow | None
    registers: Sequence[str]
    stretch: Sequence[float]
    labels: Integers
    near: bool = True

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells that have live sites, strata one after the other."""
        sites = {
            (number, name): self._sites(layer, name) * self.stretch[number]
            for number, layer in enumerate(self.engine.layers)
            for name in self.registers
        }
        total = sum(live * self._bits(name) for (_, name), live in sites.items())
        if not total:
            raise MismatchError(f"no register of {', '.join(self.registers)} is ever live")
        return [
            Cell(layer=number, register=name, bit=bit, share=live / total)
            for (number, name), live in sites.items()
            if live
            for group in _GROUPS[self._bits(name)]
            for bit in group
        ]

    def _bits(self, register: str) -> int:
        return 8 if register == STORED else BITS[register]

    def sites(self, cell: Cell) -> int:
        """Return the numbers that a cell's sites have: from 0 to before this, for each input."""
        return self._sites(self.engine.layers[cell.layer], cell.register)

    def live_bits(self, register: str) -> float:
        """Return the live pairs of a bit of a class and a cycle, of one inference."""
        counts = (
            self._sites(layer, register) * stretch
            for layer, stretch in zip(self.engine.layers, self.stretch, strict=True)
        )
        return sum(counts) * self._bits(register)

    def _sites(self, layer: MacLayer, register: str) -> int:
        """Return the live pairs of a register and a cycle in a layer, for one sample."""
        if self.flow is not None:
            return self.flow.live(layer.shape, register) * layer.shape.products
        if register == STORED:
            return self.engine.graph.tensors[layer.op.inputs[0]].elements
        return layer.stored.size

    def group(self, cell: Cell) -> tuple[str, str]:
        """Return the class of a cell, and the bits that it shares a stratum with: "0-7"."""
        groups = _GROUPS[self._bits(cell.register)]
        bits = next(bits for bits in groups if cell.bit in bits)
        return cell.register, f"{bits[0]}-{bits[-1]}" if len(bits) > 1 else str(bits[0])

    @cached_property
    def stratum(self) -> Integers:
        """The number of each cell's stratum."""
        keys = [(cell.layer, *self.group(cell)) for cell in self.cells]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    @cached_property
    def shares(self) -> Reals:
        """The share of each stratum."""
        return np.bincount(self.stratum, [cell.share for cell in self.cells]).astype(float)

    @cached_property
    def margins(self) -> Integers:
        """How far each input's right answer is from the best other, in steps; below 0 if wrong."""
        logits, rows = self.engine.logits, np.arange(len(self.labels))
        right = logits[rows, self.labels]
        others = logits.copy()
        others[rows, self.labels] = np.iinfo(np.int64).min
        margins: Integers = right - others.max(1)
        return margins

    @cached_property
    def chances(self) -> Reals:
        """How often each input is drawn, q(x)."""
        count = len(self.labels)
        if not self.near:
            return np.full(count, 1 / count)
        wanted = 1 / (1 + (self.margins / _NEAR) ** 2)
        made: Reals = (1 - _LEAST) * wanted / wanted.sum() + _LEAST / count
        return made

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """Which inputs the clean network has right."""
        return self.engine.clean == self.labels

    def pilot(self, faults: int) -> Integers:
        """Return how many faults of each stratum to try first."""
        return np.maximum(np.round(self.shares * faults), _FEWEST).astype(np.int64)

    def allocated(self, tally: Tally, faults: int) -> Integers:
        """Return how many faults of each stratum to try next (Neyman).

        Args:
            tally: of the cells so far.
            faults: to be tried in all strata.

        """
        seen = tally.merged(self.stratum, len(self.shares))
        kind = self._kinds
        pooled = seen.merged(kind, int(kind.max()) + 1)
        rate = np.maximum(pooled.square, 0.5) / np.maximum(pooled.trials, 1)
        spread = np.sqrt(seen.moments(_PRIOR, rate[kind]))
        wanted = self.shares * spread
        return np.maximum(np.round(faults * wanted / wanted.sum()), 1).astype(np.int64)

    @cached_property
    def _kinds(self) -> Integers:
        """For each stratum the number of its class and group of bits."""
        firsts = [int(np.argmax(self.stratum == number)) for number in range(len(self.shares))]
        keys = [(self.cells[i].register, self.cells[i].bit) for i in firsts]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        return np.array([numbers[key] for key in keys])

    def drawn(self, counts: Integers, seed: Sequence[int]) -> "Drawn":
        """Return so many faults of each stratum; which depends on nothing else but the seed."""
        parts = []
        for number, count in enumerate(counts.tolist()):
            own = np.flatnonzero(self.stratum == number)
            dice = np.random.default_rng([*seed, number])
            live = self.sites(self.cells[own[0]])
            parts.append(
                np.stack([
                    dice.choice(own, count),
                    dice.choice(len(self.labels), count, p=self.chances),
                    dice.integers(0, live, count),
                ])
            )  # fmt: skip
        cell, sample, site = np.concatenate(parts, 1)
        return Drawn(cell=cell, sample=sample, site=site)

    def tried(self, drawn: "Drawn") -> tuple[FlipOutcome, Reals, Reals]:
        """Return the outcomes of faults, their weights, and what each lost: 1, 0 or -1."""
        answer = self.engine.clean[drawn.sample].copy()
        masked, caught = np.ones(len(drawn), bool), np.zeros(len(drawn), bool)
        keys = [(cell.layer, cell.register) for cell in self.cells]
        for layer, register in dict.fromkeys(keys):
            mine = [i for i, key in enumerate(keys) if key == (layer, register)]
            some = np.flatnonzero(np.isin(drawn.cell, mine))
            if len(some):
                outcome = self._inject(layer, register, drawn[some])
                answer[some], masked[some] = outcome.answer, outcome.masked
                caught[some] = outcome.caught
        weight = 1 / (len(self.labels) * self.chances[drawn.sample])
        after = (answer == self.labels[drawn.sample]).astype(float)
        lost = self.right[drawn.sample].astype(float) - after
        return FlipOutcome(answer=answer, masked=masked, caught=caught), weight, lost

    def _inject(self, number: int, register: str, drawn: "Drawn") -> FlipOutcome:
        layer = self.engine.layers[number]
        if register == STORED:
            name = layer.op.inputs[0]
            return self.engine.inject_stored(name, drawn.sample, drawn.site, self._hit(drawn))
        return self.engine.inject(layer, self.flips(number, register, drawn))

    def _hit(self, drawn: "Drawn") -> Integers:
        """Return the bit that each fault hits."""
        return np.array([cell.bit for cell in self.cells])[drawn.cell]

    def flips(self, number: int, register: str, drawn: "Drawn") -> Flips:
        """Return faults in one layer and class of registers as the engine takes them.

        Args:
            number: of the layer.
            register: the class, other than stored bytes.
            drawn: the faults, all of that layer and class.

        """
        layer = self.engine.layers[number]
        live = self._sites(layer, register) // layer.shape.products
        product, site = np.divmod(drawn.site, live)
        if self.flow is None:
            n, k = np.divmod(site, layer.shape.depth)
            every = np.int64(layer.shape.positions)
            reach = reached(len(n), m0=np.zeros_like(n), m1=every, n0=n, k=k)
        else:
            reach = self.flow.reach(layer.shape, register, site)
        return Flips(
            register=register,
            sample=drawn.sample,
            product=product,
            bit=self._hit(drawn),
            reach=reach,
        )


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Faults: the cell, the input and the site within the layer of each."""

    cell: Integers
    sample: Integers
    site: Integers

    def __len__(self) -> int:
        """Return the number of faults."""
        return len(self.cell)

    def __getitem__(self, chosen: "Integers | slice") -> "Drawn":
        """Return some of them."""
        return Drawn(cell=self.cell[chosen], sample=self.sample[chosen], site=self.site[chosen])


def stretches(engine: Engine, flow: Dataflow, cycles: Mapping[str, float]) -> list[float]:
    """Return by layer how much longer it takes than the array needs: values stay as long.

    Args:
        engine: the network.
        flow: the array.
        cycles: of operators by name; one that is missing takes what the array needs.

    """
    made = []
    for layer in engine.layers:
        turns = -(-layer.shape.products // flow.parallel(layer.shape))
        least = flow.cycles(layer.shape) * turns
        made.append(cycles.get(layer.op.name, least) / least)
    return made
