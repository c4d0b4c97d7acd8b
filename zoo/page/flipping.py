"""What the page's Reliability tab shows, without the page: one flipped bit, and how often it tells.

Faults are those of `zoo reliability`: a bit of a register of an Ethos-U55 flips in some cycle, in a
network of int8 that computes to the bit what the device does. Which cycle and which register of
its class follow from a number, so that a flip can be shown again. No labels are needed: a flip
turns an answer if it is another than without it.
"""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.cost.target import target
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page import listening, looking
from zoo.page.given import choice, number
from zoo.page.shelf import Shelved, shelf
from zoo.resilience.engine import Engine, Flips
from zoo.resilience.faults import BITS, Integers
from zoo.resilience.plan import Drawn, FaultPlan
from zoo.resilience.residency import block
from zoo.runtime.values import channels_last, dequantized
from zoo.tasks import task_of

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

TASKS = (*listening.TASKS, *looking.TASKS)
DEVICE = "ethos-u55-128"
REGISTERS = tuple(BITS)
OPENING = (2, "accumulator", 22, 1)  # layer's number, register, bit and place of the first flip
MOST_PLACES = 9999
EACH = 10  # faults that are tried of each layer and bit
_SOUNDS = {file.stem: file for file in sorted(listening.EXAMPLES.glob("*.wav"))}
_PICTURES = {file.stem: file for file in looking.EXAMPLES}


@dataclass(frozen=True, eq=False)
class Mounted:
    """A network with its example inputs, ready for flips.

    Attributes:
        network: itself.
        examples: names of the inputs.
        inputs: as the network takes them, (N, ...) reals.
        engine: answers with flips.

    """

    network: Shelved
    examples: tuple[str, ...]
    inputs: Tensor
    engine: Engine

    @property
    def layers(self) -> list[str]:
        """Names of the layers that have registers; one that runs twice has its step behind."""
        names = [layer.name for layer in self.engine.layers]
        return [
            name if names.count(name) == 1 else f"{name} ({layer.step})"
            for name, layer in zip(names, self.engine.layers, strict=True)
        ]

    @property
    def first(self) -> str:
        """The example that is shown first: one whose name says that its answer is right."""
        answers = (self.network.labels[number] for number in self.engine.clean)
        pairs = zip(self.examples, answers, strict=True)
        right = (name for name, answer in pairs if name.startswith(answer))  # "dogs" is a dog
        return next(right, self.examples[0])

    def plan(self, *registers: str) -> FaultPlan:
        """Return the sites of flips in an Ethos-U55; an answer is right if no flip turned it."""
        whole = [1.0] * len(self.engine.layers)
        flow = block(target(DEVICE))
        return FaultPlan(self.engine, flow, registers, whole, self.engine.clean, near=False)

    def likely(self, outputs: Tensor) -> dict[str, float]:
        """Return the probability of each label by outputs (1, labels), stored integers."""
        shares = dequantized(self.engine.graph, outputs).flatten().softmax(0).tolist()
        return dict(zip(self.network.labels, shares, strict=True))


@dataclass(frozen=True, eq=False)
class Flip:
    """One flip and what it changed.

    Attributes:
        mounted: the network.
        example: the input.
        layer: name of the layer.
        register: class of the register.
        bit: of it.
        held: what it held before.
        made: and with the bit flipped.
        reached: outputs of the layer that the register went into.
        clean: the layer's output without the flip, stored integers, (H, W, C) or (C,).
        faulty: with it.
        channel: the one with the largest change, or the first that was reached.
        before: probability of each label without the flip.
        after: with it.

    """

    mounted: Mounted
    example: str
    layer: str
    register: str
    bit: int
    held: int
    made: int
    reached: int
    clean: Integers
    faulty: Integers
    channel: int
    before: dict[str, float]
    after: dict[str, float]

    @property
    def changed(self) -> int:
        """How many of the layer's outputs changed."""
        return int((self.clean != self.faulty).sum())

    @property
    def answers(self) -> tuple[str, str]:
        """The answer without the flip, and with it; the first of equal ones."""
        clean, faulty = (
            max(shares, key=shares.__getitem__) for shares in (self.before, self.after)
        )
        return clean, faulty

    @property
    def maps(self) -> tuple[Integers, Integers]:
        """What is shown of the layer's output without and with the flip, (rows, columns).

        Of images one channel; of anything else all outputs in a row.
        """
        if self.clean.ndim == 3:
            return self.clean[..., self.channel], self.faulty[..., self.channel]
        return self.clean.reshape(1, -1), self.faulty.reshape(1, -1)


@dataclass(frozen=True, eq=False)
class Rates:
    """How many flips turned an answer, by layer and bit.

    Attributes:
        mounted: the network.
        register: class of the registers.
        tried: flips of each, (layers, bits).
        turned: those that turned an answer, likewise.

    """

    mounted: Mounted
    register: str
    tried: NDArray[np.int64]
    turned: NDArray[np.int64]

    @property
    def whole(self) -> int:
        """How many flips are tried in all."""
        return faults(self.mounted, self.register)


class Rig:
    """What all visitors share: networks of int8, each made ready when it is first asked for.

    Args:
        given: checkpoints besides those that ship; those of floats are left out.

    Raises:
        MissingWeightsError: no network of int8 that hears or sees has weights.

    """

    def __init__(self, given: "Iterable[Artifact]" = ()) -> None:
        own = tuple(given)
        found = shelf(TASKS, own, "hears or sees in int8", ending="-int8")
        self.shelf = {ref: x for ref, x in found.items() if hasattr(x.model, "quantization")}
        if not self.shelf:
            raise MissingWeightsError("no network of int8 has weights; type: zoo list")
        first = [artifact.ref for artifact in own if artifact.ref in self.shelf]
        smallest = min(self.shelf, key=lambda ref: self.shelf[ref].weights)
        self.default = first[0] if first else smallest
        self._mounted: dict[str, Mounted] = {}
        self._lock = threading.Lock()

    def mounted(self, ref: Any) -> Mounted:
        """Return a network ready for flips.

        Raises:
            MismatchError: there is no such network, or its registers are not modelled.

        """
        network = self.shelf[choice(ref, "network", self.shelf)]
        with self._lock:
            if network.ref not in self._mounted:
                self._mounted[network.ref] = _ready(network)
            return self._mounted[network.ref]

    def flip(self, ref: Any, example: Any, layer: Any, register: Any, bit: Any, place: Any) -> Flip:
        """Return what one flip changes.

        Args:
            ref: of the network.
            example: name of the input.
            layer: name of the layer.
            register: "activation", "weight" or "accumulator".
            bit: of the register, 0 is the least.
            place: chooses the cycle and the register of its class: the same number, the same place.

        Raises:
            MismatchError: there is no such network, input, layer, register or bit.

        """
        mounted = self.mounted(ref)
        sample = mounted.examples.index(choice(example, "example", mounted.examples))
        where = mounted.layers.index(choice(layer, "layer", mounted.layers))
        choice(register, "register", REGISTERS)
        chosen = whole(bit, "bit", BITS[register] - 1, BITS[register] - 1)
        dice = np.random.default_rng(whole(place, "place", MOST_PLACES, 0))
        plan = mounted.plan(register)
        cell = next(i for i, x in enumerate(plan.cells) if (x.layer, x.bit) == (where, chosen))
        found = drawn([cell], [sample], dice.integers(0, plan.sites(plan.cells[cell]), 1))
        return _traced(mounted, where, plan.flips(where, register, found))

    def rates(self, ref: Any, register: Any) -> Iterator[Rates]:
        """Yield how many flips of each layer and bit turn an answer, after every layer.

        Sites are drawn as they are likely, examples in turn; the same faults at every call.

        Raises:
            MismatchError: there is no such network or register.

        """
        mounted = self.mounted(ref)
        plan = mounted.plan(choice(register, "register", REGISTERS))
        tried = np.zeros((len(mounted.layers), BITS[register]), np.int64)
        turned = np.zeros_like(tried)
        dice = np.random.default_rng(0)
        yield Rates(mounted, register, tried.copy(), turned.copy())
        for layer in range(len(mounted.layers)):
            cells = [i for i, cell in enumerate(plan.cells) if cell.layer == layer]
            cell = np.repeat(cells, EACH)
            sites = dice.integers(0, plan.sites(plan.cells[cells[0]]), len(cell))
            found = drawn(cell, np.arange(len(cell)) % len(mounted.examples), sites)
            outcome = plan.tried(found)[0]
            bits = np.array([plan.cells[i].bit for i in cell])
            tried[layer] += np.bincount(bits, minlength=tried.shape[1])
            turns = bits[outcome.answer != mounted.engine.clean[found.sample]]
            turned[layer] += np.bincount(turns, minlength=tried.shape[1])
            yield Rates(mounted, register, tried.copy(), turned.copy())


def faults(mounted: Mounted, register: Any) -> int:
    """Return how many flips `Rig.rates` tries."""
    return len(mounted.layers) * BITS[choice(register, "register", REGISTERS)] * EACH


def whole(value: Any, what: str, most: int, default: int) -> int:
    """Return a whole number from 0 on; an emptied one is the default.

    Raises:
        MismatchError: it is no whole number, or beyond.

    """
    found = number(value, what, 0, most, default)
    if found != int(found):
        raise MismatchError(f"the {what} is {found:g}; expected a whole number from 0 to {most}")
    return int(found)


def drawn(cell: Any, sample: Any, site: Integers) -> Drawn:
    """Return faults by their cells, inputs and sites."""
    return Drawn(cell=np.asarray(cell), sample=np.asarray(sample), site=site)


def _ready(network: Shelved) -> Mounted:
    """Return a network with its examples, as its task hands them to it."""
    seen: list[Tensor] = []
    hook = network.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].cpu()))
    try:
        for file in files(network).values():
            task_of(network.recipe).run(network.model, network.recipe, file)
    finally:
        hook.remove()
    inputs = torch.cat(seen)
    model: Any = network.model
    graph = model.graph((1, *inputs.shape[1:]))
    engine = Engine(graph, model.integers(graph, channels_last(inputs.float())))
    return Mounted(network, tuple(files(network)), inputs, engine)


def files(network: Shelved) -> dict[str, Path]:
    """Return the example inputs by their names."""
    return _SOUNDS if hears(network) else _PICTURES


def hears(network: Shelved) -> bool:
    """Whether its inputs are sounds; pictures otherwise."""
    return network.recipe.subtask in listening.TASKS


def _traced(mounted: Mounted, where: int, flips: Flips) -> Flip:
    """Return what one flip changes in a layer, by the layer's number."""
    engine, layer, sample = mounted.engine, mounted.engine.layers[where], int(flips.sample[0])
    found = engine.trace(layer, flips)
    outputs = engine.recorded[engine.graph.outputs[0]][sample : sample + 1]
    clean = engine.recorded[layer.op.outputs[0]][sample].numpy().astype(np.int64)
    faulty = found.layer[0].numpy().astype(np.int64)
    change = np.abs(faulty - clean).reshape(-1, clean.shape[-1]).max(0)
    first = int(flips.product[0]) * layer.shape.channels + int(flips.reach.n0[0])
    return Flip(
        mounted=mounted,
        example=mounted.examples[sample],
        layer=mounted.layers[where],
        register=flips.register,
        bit=int(flips.bit[0]),
        held=int(found.held[0]),
        made=int(found.made[0]),
        reached=int(flips.reach.outputs[0]),
        clean=clean,
        faulty=faulty,
        channel=int(change.argmax()) if change.any() else first,
        before=mounted.likely(outputs),
        after=mounted.likely(found.outputs),
    )


def code(ref: str) -> str:
    """Return the lines of Python that measure it on labelled data."""
    return (
        "import zoo\n\n"
        f'print(zoo.reliability("{ref}", "{DEVICE}", data="DIR"))  # a folder for each label'
    )
