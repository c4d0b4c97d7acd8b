"""A base and its adapters as one int8 file and patches of it: one set of scales serves all.

Scales of weights and slopes hold the largest value of each channel over the base and every adapter
at strength 1; ranges of activations are those seen with the base and with every adapter, without
one value in ten thousand at each end. So a switch changes integers alone, never a scale. What that
costs in accuracy is measured by `benchmarks/adapters_patch.py`: most of it is the 8 bits of the
activations, little is that the scales are common.

A patch is for a runtime that reads weights where the file has them, as TFLite Micro does. Vela
compresses them: a file that it compiled has no place for a patch, and a patched file is compiled
anew.
"""

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.adapters.format import SparseAdapter
from zoo.adapters.switcher import Switcher
from zoo.deploy.fidelity import Fidelity, deployable, same_as_module
from zoo.deploy.patch import IntegerChange, Patch
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.graph.kinds import MOVEMENT
from zoo.graph.lower import lowered
from zoo.graph.rewrite import on_npu
from zoo.graph.trace import exported, state_of
from zoo.quantization.int8.calibration import Options, Range, checked_tensor, observed
from zoo.quantization.int8.post_training import quantize_graph

# Of looks on photographs kept from training, against the whole ranges: 0.1 dB better on average,
# none more than 0.03 dB worse.
_OBSERVER = Options(observer="percentile", percentile=99.99)
State = Mapping[str, NDArray[np.float32]]  # of a module, by name


@dataclass(eq=False)
class Family:
    """A base, its adapters, and the scales that hold all of them.

    Args:
        module: the base, in eval mode, on the CPU, pristine; it stays as it is.
        adapters: by name.
        calibration: batches of inputs, `(N, C, H, W)`.
        input_shape: of one inference of the file, (1, C, H, W).
        npu: use operators that Ethos-U accelerators have.

    Raises:
        MismatchError: an adapter is for another base, or the inputs cannot be used.

    """

    module: nn.Module
    adapters: Mapping[str, SparseAdapter]
    calibration: Sequence[Tensor]
    input_shape: tuple[int, ...]
    npu: bool = False
    ranges: dict[str, Range] = field(init=False)

    def __post_init__(self) -> None:
        batches = enumerate(self.calibration)
        self.calibration = [checked_tensor(batch, n, self.input_shape) for n, batch in batches]
        if not self.calibration or not self.adapters:
            raise MismatchError("there are no calibration inputs, or no adapters; give both")
        self.live = copy.deepcopy(deployable(self.module))
        self.switcher = Switcher(self.live)
        for name, adapter in self.adapters.items():
            self.switcher.register(name, adapter)
        self._exported = functools.cache(functools.partial(exported, self.live))  # it is slow
        alone: list[dict[str, float]] = [{}, *({name: 1.0} for name in self.adapters)]
        states = [self.state(strengths) for strengths in alone]
        # Values do not depend on the size, so those of one stand for all.
        self.values = [self.floating(state, self.input_shape).values for state in states]
        self.ranges = {}
        for state in states:
            at = functools.cache(functools.partial(self.floating, state))
            seen = observed(at, self.calibration, _OBSERVER, like=self.input_shape)
            for name, (low, high) in seen.items():
                old = self.ranges.get(name, (low, high))
                self.ranges[name] = min(old[0], low), max(old[1], high)
        self.ranges = saturated(self.floating(states[0], self.input_shape), self.ranges)
        self.content = self.file({})
        self.sha256 = hashlib.sha256(self.content).hexdigest()

    def state(self, strengths: Mapping[str, float]) -> State:
        """Return the float weights with adapters of these strengths, as a switcher fuses them."""
        if not strengths:
            return {name: value.copy() for name, value in state_of(self.live).items()}
        with self.switcher.using(dict(strengths)):
            return {name: value.copy() for name, value in state_of(self.live).items()}

    def floating(self, state: State, input_shape: tuple[int, ...]) -> Graph:
        """Return the float graph, channels last, with these weights."""
        return lowered(self._exported(input_shape), state)

    def graph(
        self, strengths: Mapping[str, float], input_shape: tuple[int, ...] | None = None
    ) -> Graph:
        """Return the integer graph with adapters of these strengths, in the common scales.

        Weights of a mixture that are beyond a scale are those at its end.
        """
        floating = self.floating(self.state(strengths), input_shape or self.input_shape)
        return quantize_graph(floating, self.ranges, held=self.values)

    def file(self, strengths: Mapping[str, float]) -> bytes:
        """Return the `.tflite` file with adapters of these strengths in it; {} is the base's."""
        graph = self.graph(strengths)
        return serialize_tflite(on_npu(graph) if self.npu else graph)

    def patch(self, strengths: Mapping[str, float], label: str = "") -> Patch:
        """Return what turns the base's file into the one with adapters of these strengths.

        Raises:
            MismatchError: the files differ in more than integers of constants.

        """
        base, other = self.base, self.graph(strengths)
        if (base.ops, base.tensors) != (other.ops, other.tensors):
            raise MismatchError("with the adapter the network has other operators or scales")
        changes = {}
        for name, old in base.values.items():
            where = np.flatnonzero(old.reshape(-1) != other.values[name].reshape(-1))
            if len(where):
                new = np.ascontiguousarray(other.values[name].reshape(-1)[where])
                changes[name] = IntegerChange(old.size, where.astype(np.int64), new)
        return Patch(label or label_of(strengths), dict(strengths), self.sha256, changes)

    @functools.cached_property
    def base(self) -> Graph:
        """The base's integer graph."""
        return self.graph({})

    def fidelity(self, strengths: Mapping[str, float]) -> Fidelity:
        """Return how close the integers are to the float network, on the first inputs.

        Raises:
            MismatchError: they compute something else.

        """
        first = self.calibration[0]
        shape = (1, *first.shape[1:])
        graph = self.graph(strengths, shape)
        with self.switcher.using(dict(strengths)):
            state = state_of(self.live)
            return same_as_module(self.live, graph, first, lambda: self.floating(state, shape))


def saturated(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return ranges without what a clamp behind `x + scalar` cuts off anyway.

    What only operators that move values pass on to the clamp may be cut off before it, and the
    integers left are finer. One step more than the clamp's limits have between them, so that
    limits as far below 0 as above it are whole steps.
    """
    narrowed = dict(ranges)
    for op in graph.ops:
        constant = graph.values.get(op.inputs[-1])
        if op.kind != "add" or op.attributes.get("activation") != "clamp" or constant is None:
            continue
        low, high = op.attributes["activation_limits"]
        if constant.size != 1 or None in (low, high):
            continue
        low, high = (float(limit) - float(constant.flat[0]) for limit in (low, high))
        name = op.inputs[0]
        while low <= 0 <= high and _only_there(graph, name):
            start, end = ranges[name]
            narrowed[name] = max(start, low - (high - low) / 254), min(end, high)
            maker = graph.producers[name]
            if maker.kind not in MOVEMENT:
                break
            name = maker.inputs[0]
    return narrowed


def _only_there(graph: Graph, name: str) -> bool:
    """Whether an activation is computed, and read once."""
    outside = name in graph.inputs or name in graph.outputs
    return not outside and len(graph.consumers[name]) == 1


def label_of(strengths: Mapping[str, float]) -> str:
    """Return what a mixture is called: `pencil`, or `film-0.5+night-1`."""
    if len(strengths) == 1 and set(strengths.values()) == {1.0}:
        return next(iter(strengths))
    return "+".join(f"{name}-{strength:g}" for name, strength in sorted(strengths.items()))


@dataclass(frozen=True, kw_only=True)
class PatchFile:
    """A patch that was written.

    Attributes:
        path: where.
        count: integers that it changes.
        written_bytes: what a switch writes into the file's buffers.
        file_bytes: size of its file.
        snr_db: of the integer outputs against the float network with the same adapters.

    """

    path: Path
    count: int
    written_bytes: int
    file_bytes: int
    snr_db: float

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {**dataclasses.asdict(self), "path": str(self.path)}
