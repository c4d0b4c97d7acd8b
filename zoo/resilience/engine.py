"""`Engine`: answers of an integer network with a flipped bit, for many flips at a time.

The clean network runs once, and every tensor is kept. Of a flip only the outputs that it reaches
are computed anew, from the clean sums; most flips vanish when these are rescaled. For the others
the rest of the network runs, from the next operator on, many samples at a time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.resilience.faults import BITS, OPERANDS, Integers, Reach, flipped, spread, wrapped
from zoo.resilience.layers import MacLayer, layers
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_products import requantizer, sums

BATCH = 256
_OUTPUTS = 2**19  # that are computed anew at a time
_OPERANDS = 2**22  # of partial sums, likewise
_MEMORY = 2**31  # bytes of recorded tensors
_RECORDED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Flips:
    """Flips in registers of one class, in one layer; arrays of the same length.

    Attributes:
        register: their class.
        sample: which input the network is computing.
        product: which of the layer's products.
        bit: of the register.
        reach: what each reaches.

    """

    register: str
    sample: Integers
    product: Integers
    bit: Integers
    reach: Reach

    def __len__(self) -> int:
        """Return the number of flips."""
        return len(self.sample)

    def __getitem__(self, chosen: Any) -> "Flips":
        """Return some of them."""
        return Flips(
            register=self.register,
            sample=self.sample[chosen],
            product=self.product[chosen],
            bit=self.bit[chosen],
            reach=self.reach[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class FlipOutcome:
    """What flips did, one entry for each.

    Attributes:
        answer: the network's answer, the number of its largest output.
        masked: whether no output of the layer changed, so that nothing more was run.
        caught: whether a check of the sums' range notices it: a sum lies where no input can bring
            it, see `MacLayer.range`.

    """

    answer: Integers
    masked: NDArray[np.bool_]
    caught: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What flips change on their way to the answer, one entry for each.

    Attributes:
        held: what the register holds before it is hit.
        made: and after.
        layer: the layer's output (N, ...), stored integers.
        outputs: the network's (N, ...), likewise.

    """

    held: Integers
    made: Integers
    layer: Tensor
    outputs: Tensor


class _Moved(NamedTuple):
    """The single outputs that flips change: the flip's number, place and new value of each."""

    flip: Integers
    m: Integers
    channel: Integers
    value: Tensor
    caught: Integers  # numbers of the flips that a check of the sums' range notices


class Engine:
    """A network with its inputs, ready for flips.

    Args:
        graph: an integer graph, channels last.
        samples: stored inputs (N, ...).
        batch: samples that the rest of the network runs on at a time; results do not depend on it.

    Raises:
        MismatchError: the network cannot be run so; says why.

    """

    def __init__(self, graph: Graph, samples: Tensor, batch: int = BATCH) -> None:
        self.layers = layers(graph)
        self.network, self.graph, self.batch = IntegerNetwork(graph), graph, batch
        if not self.network.batched:
            raise MismatchError("the network mixes its samples, which faults are not modelled in")
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise MismatchError("the network has several inputs or outputs; expected one of each")
        self._check_memory(len(samples))
        parts = [self.network.record(x) for x in samples.split(_RECORDED_AT_ONCE)]
        fixed = {*graph.values}
        self.recorded = {n: torch.cat([p[n] for p in parts]) for n in parts[0] if n not in fixed}
        self.clean = answers(self.recorded[graph.outputs[0]])
        self.logits = self.recorded[graph.outputs[0]].flatten(1).numpy().astype(np.int64)
        self._arithmetic = {
            layer.step: (sums(graph, layer.op), requantizer(graph, layer.op))
            for layer in self.layers
        }

    def _check_memory(self, samples: int) -> None:
        made = [t for t in self.graph.tensors.values() if not t.is_parameter]
        each = sum(t.bytes() for t in made)
        if each * samples > _MEMORY:
            raise MismatchError(
                f"{samples} inputs need {each * samples / 2**30:.1f} GiB of recorded tensors; type "
                f"--samples {max(1, _MEMORY // each)}"
            )

    def inject(self, layer: MacLayer, flips: Flips) -> FlipOutcome:
        """Return what flips in a layer's registers do."""
        answer = self.clean[flips.sample].copy()
        masked, caught = np.ones(len(flips), bool), np.zeros(len(flips), bool)
        outcome = FlipOutcome(answer=answer, masked=masked, caught=caught)
        for part in _parts(layer, flips):
            self._inject(layer, flips[part], part, outcome)
        return outcome

    def trace(self, layer: MacLayer, flips: Flips) -> "Trace":
        """Return what a few flips in a layer's registers change on their way to the answer."""
        known, local = np.unique(flips.sample, return_inverse=True)
        x = self.recorded[layer.op.inputs[0]][torch.from_numpy(known)]
        before = held(layer, flips, layer.padded(x), local)
        every = np.arange(len(flips))
        value = self._output(layer, flips, self._moved(layer, flips), every)
        made = {layer.op.outputs[0]: value}
        outputs = self._outputs(layer.step + 1, torch.from_numpy(flips.sample), made)
        after = _flipped(layer, flips, before)
        return Trace(held=before, made=after, layer=value, outputs=outputs)

    def _inject(self, layer: MacLayer, flips: Flips, place: Integers, outcome: FlipOutcome) -> None:
        """Enter what some flips do at their places."""
        moved = self._moved(layer, flips)
        outcome.caught[place[moved.caught]] = True
        hit = np.unique(moved.flip)
        outcome.masked[place[hit]] = False
        for start in range(0, len(hit), self.batch):
            some = hit[start : start + self.batch]
            samples = torch.from_numpy(flips.sample[some])
            made = {layer.op.outputs[0]: self._output(layer, flips, moved, some)}
            outcome.answer[place[some]] = answers(self._outputs(layer.step + 1, samples, made))

    def _moved(self, layer: MacLayer, flips: Flips) -> "_Moved":
        """Return the outputs of a layer that some flips change."""
        known, local = np.unique(flips.sample, return_inverse=True)
        x = self.recorded[layer.op.inputs[0]][torch.from_numpy(known)]
        summed, rescale = self._arithmetic[layer.step]
        clean = summed(x).reshape(len(known), layer.shape.positions, -1).numpy()
        found = spread(flips.reach)
        flip, m = found.flip, found.m
        channel = flips.product[flip] * layer.shape.channels + found.n
        sample = local[flip]
        changed = clean[sample, m, channel] + deltas(layer, flips, layer.padded(x), local, found)
        low, high = (ends[flips.product[flip], found.n] for ends in layer.range)
        register = wrapped(changed)
        caught = flip[(register < low) | (register > high)]
        made = rescale(torch.from_numpy(changed), torch.from_numpy(channel))
        before = self.recorded[layer.op.outputs[0]]
        rows = before.reshape(len(before), layer.shape.positions, -1)
        moved = np.flatnonzero((made != rows[flips.sample[flip], m, channel]).numpy())
        value = made[torch.from_numpy(moved)]
        return _Moved(flip[moved], m[moved], channel[moved], value, caught)

    def _output(self, layer: MacLayer, flips: Flips, moved: "_Moved", some: Integers) -> Tensor:
        """Return a layer's output (N, ...) with each of some flips, by their numbers, in it.

        The numbers ascend, and none between them has outputs in `moved`.
        """
        before = self.recorded[layer.op.outputs[0]]
        rows = before.reshape(len(before), layer.shape.positions, -1)
        value = rows[torch.from_numpy(flips.sample[some])]
        mine = np.flatnonzero((moved.flip >= some[0]) & (moved.flip <= some[-1]))
        slot = np.searchsorted(some, moved.flip[mine])
        value[slot, moved.m[mine], moved.channel[mine]] = moved.value[torch.from_numpy(mine)]
        return value.reshape(len(some), *before.shape[1:])

    def inject_stored(
        self, name: str, sample: Integers, element: Integers, bit: Integers
    ) -> FlipOutcome:
        """Return what flips of a tensor's stored bytes do: all that read it see the same byte.

        Args:
            name: the tensor.
            sample: which input the network is computing.
            element: place in the flattened tensor of one sample.
            bit: of the byte.

        """
        step = min(i for i, op in enumerate(self.graph.ops) if name in op.inputs)
        signed = self.graph.tensors[name].dtype == "int8"
        answer = self.clean[sample].copy()
        for start in range(0, len(sample), self.batch):
            part = slice(start, start + self.batch)
            samples = torch.from_numpy(sample[part])
            value = self.recorded[name][samples]
            rows = value.reshape(len(value), -1)
            index = np.arange(len(value)), element[part]
            held = rows[index].numpy().astype(np.int64)
            new = torch.from_numpy(flipped(held, bit[part], 8, signed=signed)).to(value.dtype)
            rows[index] = new
            made = {name: rows.reshape(value.shape)}
            answer[part] = answers(self._outputs(step, samples, made))
        none = np.zeros(len(sample), bool)
        return FlipOutcome(answer=answer, masked=none, caught=none)

    def _outputs(self, step: int, samples: Tensor, made: dict[str, Tensor]) -> Tensor:
        needed = [name for name in self.network.live(step) if name not in made]
        kept = {name: self.recorded[name][samples] for name in needed}
        return self.network.run_from(step, kept | made)[0]


def answers(outputs: Tensor) -> Integers:
    """Return the number of the largest output of each sample (N, ...), the first of equal ones."""
    found: Integers = outputs.flatten(1).numpy().argmax(1)
    return found


def deltas(
    layer: MacLayer, flips: Flips, bytes_: Integers, local: Integers, found: Any
) -> Integers:
    """Return by how much each output's sum changes.

    Args:
        layer: where.
        flips: what is hit.
        bytes_: padded inputs of some samples.
        local: the row of `bytes_` that each flip's sample is.
        found: the outputs that each flip reaches, see `spread`.

    """
    flip, product, k = found.flip, flips.product, flips.reach.k
    before = held(layer, flips, bytes_, local)
    change = _flipped(layer, flips, before) - before
    if flips.register == "activation":
        weight = layer.stored[product[flip], k[flip], found.n]
        return change[flip] * (weight - layer.weight_zero[product[flip], found.n])
    if flips.register == "weight":
        row = layer.operands(bytes_, local[flip], product[flip], found.m, k[flip])
        return change[flip] * (row - layer.zero)
    return change


def held(layer: MacLayer, flips: Flips, bytes_: Integers, local: Integers) -> Integers:
    """Return what the registers hold before they are hit; for the arguments see `deltas`."""
    reach = flips.reach
    if flips.register == "activation":
        return layer.operands(bytes_, local, flips.product, reach.m0, reach.k)
    if flips.register == "weight":
        return layer.stored[flips.product, reach.k, reach.n0]
    return _partial(layer, flips, bytes_, local)


def _flipped(layer: MacLayer, flips: Flips, before: Integers) -> Integers:
    """Return what the registers hold after they are hit."""
    signs = dict(zip(OPERANDS, layer.signed, strict=True))
    signed = signs.get(flips.register, True)
    return flipped(before, flips.bit, BITS[flips.register], signed=signed)


def _partial(layer: MacLayer, flips: Flips, bytes_: Integers, local: Integers) -> Integers:
    """Return what the accumulators hold that are hit; each reaches one output."""
    made = np.zeros(len(flips), np.int64)
    step, reach = max(1, _OPERANDS // layer.shape.depth), flips.reach
    places = np.arange(layer.shape.depth)
    for start in range(0, len(flips), step):
        part = slice(start, start + step)
        product, n = flips.product[part], reach.n0[part]
        rows = layer.operands(
            bytes_, local[part][:, None], product[:, None], reach.m0[part][:, None], places
        )
        weights = layer.stored[product, :, n] - layer.weight_zero[product, n][:, None]
        held = (places >= reach.start[part][:, None]) & (places < reach.stop[part][:, None])
        made[part] = ((rows - layer.zero) * weights * held).sum(1)
    return made


def _parts(layer: MacLayer, flips: Flips) -> Iterator[Integers]:
    """Yield the places of flips that are computed together, ordered by their samples."""
    order = np.argsort(flips.sample, kind="stable")
    outputs = layer.shape.positions * layer.shape.channels * layer.shape.products
    samples = np.cumsum(np.diff(flips.sample[order], prepend=-1) != 0)
    load = np.maximum(np.cumsum(flips.reach.outputs[order]), samples * math.ceil(outputs / 8))
    ends = np.flatnonzero(np.diff(load // _OUTPUTS, append=-1))
    start = 0
    for end in (ends + 1).tolist():
        yield order[start:end]
        start = end
