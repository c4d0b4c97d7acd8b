"""Which filters of a network go together, and the network without some of them.

Channels are followed through the traced graph: what adds two results ties their channels, a
depthwise convolution and a PReLU carry them on, and the next layer that mixes channels reads them.
Where an operator does anything else with channels, or they leave the network, all of them stay.
"""

import copy
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.trace import trace
from zoo.models.structured.narrow import narrow

_ALIKE = frozenset(  # each channel gives its own, alike
    ("relu", "relu6", "clamp", "gelu", "sigmoid", "tanh", "hard_swish", "leaky_relu", "elu",
     "avg_pool2d", "max_pool2d", "pad", "resize_bilinear", "resize_nearest", "neg", "exp",
     "square", "mean", "reduce_max")
)  # fmt: skip
_TOGETHER = frozenset(("add", "sub", "mul", "maximum", "minimum"))


@dataclass
class Channels:
    """Channels that are removed together.

    Attributes:
        count: how many there are.
        made_by: layers whose outputs they are.
        carried_by: depthwise convolutions and PReLUs that they pass through.
        read_by: layers whose inputs they are, and columns that each channel has there.
        fixed: whether all of them must stay.

    """

    count: int
    made_by: list[str] = field(default_factory=list)
    carried_by: list[str] = field(default_factory=list)
    read_by: list[tuple[str, int]] = field(default_factory=list)
    fixed: bool = False


@dataclass(frozen=True)
class _Place:
    """Where channels are in a tensor: their number, their axis, and elements of each on it."""

    number: int
    axis: int
    repeat: int = 1


def channels(
    network: nn.Module, shape: tuple[int, ...], patterns: Sequence[str] = ("*",)
) -> list[Channels]:
    """Return the channels that can be removed, which layers of these names alone make.

    Raises:
        MismatchError: the network cannot be traced, or a pattern names no layer that makes some.

    """
    following = _Following(trace(network, shape), network)
    found = [one for one in following.result() if not one.fixed]
    makers = [name for one in found for name in one.made_by]
    for pattern in patterns:
        if not fnmatch.filter(makers, pattern):
            some = ", ".join(makers[:6]) + (", ..." if len(makers) > 6 else "")
            raise MismatchError(
                f"no layer called {pattern!r} has filters that can be removed; there are "
                f"{some or 'none'}"
            )
    return [
        one
        for one in found
        if all(any(fnmatch.fnmatch(n, p) for p in patterns) for n in one.made_by)
    ]


class _Following:
    """The channels of a graph, under construction."""

    def __init__(self, graph: Graph, network: nn.Module) -> None:
        self.graph, self.modules = graph, dict(network.named_modules())
        self.all: list[Channels] = []
        self.same: list[int] = []  # of each, a lower one that it is tied to, or itself
        self.places: dict[str, _Place] = {}
        self.used: set[str] = set()
        for op in graph.ops:
            self.add(op)
        for name in graph.outputs:
            self.fix(name)

    def result(self) -> list[Channels]:
        """Return what is left when all that is tied is one."""
        for number, own in enumerate(self.all):
            first = self.all[self.first(number)]
            if first is not own:
                first.made_by += own.made_by
                first.carried_by += own.carried_by
                first.read_by += own.read_by
                first.fixed |= own.fixed
        return [own for number, own in enumerate(self.all) if self.same[number] == number]

    def first(self, number: int) -> int:
        while self.same[number] != number:
            number = self.same[number]
        return number

    def fix(self, *names: str) -> None:
        for name in names:
            if (place := self.places.get(name)) is not None:
                self.all[self.first(place.number)].fixed = True

    def add(self, op: Op) -> None:
        acts = [name for name in op.inputs if not self.graph.tensors[name].is_parameter]
        layer = self.layer(op)
        dense = op.attributes.get("groups", 1) == 1
        if op.kind in ("conv2d", "fully_connected") and layer and dense:
            self.mixed(op, layer)
        elif op.kind in ("depthwise_conv2d", "prelu") and layer and self.passes(op):
            self.carried(op, layer)
        elif len(acts) == len(op.inputs) and self.alike(op, acts):
            self.places[op.outputs[0]] = self.places[acts[0]]
        elif op.kind == "reshape" and (place := self.flattened(op)) is not None:
            self.places[op.outputs[0]] = place
        else:
            self.fix(*op.inputs)

    def alike(self, op: Op, acts: Sequence[str]) -> bool:
        """Whether each channel of the result comes from those of the same number, and no other."""
        if op.kind in _ALIKE:
            return len(acts) == 1 and self.passes(op)
        return op.kind in _TOGETHER and self.tied(op, acts)

    def layer(self, op: Op) -> str:
        """Return the name of the layer whose weight an op has; "" where that is not plain."""
        if len(op.inputs) < 2:
            return ""
        name, _, kind = self.graph.tensors[op.inputs[1]].source.rpartition(".")
        plain = type(self.modules.get(name)) in (nn.Conv2d, nn.Linear, nn.PReLU)
        return name if kind == "weight" and plain else ""

    def carried(self, op: Op, layer: str) -> None:
        """Let channels pass through a layer that has values for each."""
        place = self.places[op.inputs[0]]
        self.places[op.outputs[0]] = place
        own = self.all[self.first(place.number)]
        if len(self.modules[layer].get_parameter("weight")) == own.count:
            own.carried_by.append(layer)
            self.once(layer)
        elif op.kind != "prelu":  # several outputs of each; but one slope is for all
            self.fix(op.inputs[0])

    def mixed(self, op: Op, layer: str) -> None:
        """Let a layer read the channels before it, and make new ones."""
        shape = self.graph.tensors[op.outputs[0]].shape
        axis = 1 if op.kind == "conv2d" else len(shape) - 1
        if (before := self.places.get(op.inputs[0])) is not None:
            self.all[before.number].read_by.append((layer, before.repeat))
            if before.axis != axis:
                self.fix(op.inputs[0])
        self.places[op.outputs[0]] = _Place(len(self.all), axis)
        self.same.append(len(self.all))
        self.all.append(Channels(shape[axis], [layer]))
        self.once(layer)

    def once(self, layer: str) -> None:
        """Keep all channels of a layer that is called twice."""
        if layer in self.used:
            for number, own in enumerate(self.all):
                readers = [name for name, _ in own.read_by]
                if layer in (*own.made_by, *own.carried_by, *readers):
                    self.all[self.first(number)].fixed = True
        self.used.add(layer)

    def passes(self, op: Op) -> bool:
        """Whether channels leave an op as they came."""
        place = self.places.get(op.inputs[0])
        if place is None:
            return False
        before = self.graph.tensors[op.inputs[0]].shape
        after = self.graph.tensors[op.outputs[0]].shape
        return len(after) > place.axis and after[: place.axis + 1] == before[: place.axis + 1]

    def tied(self, op: Op, acts: Sequence[str]) -> bool:
        """Tie the channels of two results that are added, or of one with a number."""
        places = [self.places.get(name) for name in acts]
        if None in places or not self.passes(op):
            return False
        shapes = [self.graph.tensors[name].shape for name in acts]
        first, *others = (place for place in places if place is not None)
        for place, shape in zip(others, shapes[1:], strict=True):
            alike = (place.axis, place.repeat) == (first.axis, first.repeat)
            if not alike or len(shape) != len(shapes[0]):
                return False
            if shape[place.axis] != shapes[0][place.axis]:
                return False
            low, high = sorted((self.first(first.number), self.first(place.number)))
            self.same[high] = low
        return True

    def flattened(self, op: Op) -> _Place | None:
        """Return where channels are once (N, C, ...) is (N, C ...)."""
        place = self.places.get(op.inputs[0])
        before = self.graph.tensors[op.inputs[0]].shape
        after = self.graph.tensors[op.outputs[0]].shape
        if place is None or place.axis != 1 or len(after) != 2 or after[0] != before[0]:
            return None
        return _Place(place.number, 1, place.repeat * math.prod(before[2:]))


Kept = Mapping[int, Tensor]  # by the place in the list of `channels`: the indices that stay


def kept(
    network: nn.Module, found: Sequence[Channels], share: float, multiple: int = 1
) -> dict[int, Tensor]:
    """Return the channels of the largest filters, so that so many of the weights stay.

    Every group keeps the same share of its channels, a multiple of a number or all of them. A
    channel is as large as its filters: the sum over its layers of the squared norm, as a share of
    the layer's.

    Raises:
        MismatchError: even the fewest channels of each are more.

    """
    scores = [_scores(network, one) for one in found]
    whole = _numbers(network, found, {})

    def chosen(part: float) -> dict[int, Tensor]:
        wanted = [max(1, round(part * one.count / multiple)) * multiple for one in found]
        counts = [min(count, one.count) for count, one in zip(wanted, found, strict=True)]
        return {
            number: score.topk(count).indices.sort().values
            for number, (score, count) in enumerate(zip(scores, counts, strict=True))
        }

    steps = sorted({n / one.count for one in found for n in range(1, one.count + 1)}, reverse=True)
    for part in steps:
        now = chosen(part)
        if _numbers(network, found, now) <= share * whole:
            return now
    least = _numbers(network, found, chosen(0.0)) / whole if whole else 1.0
    raise MismatchError(
        f"keep {share:g} is less than what is left with the fewest filters of each layer, "
        f"{least:.3f}; give another --keep, or a smaller --multiple"
    )


def _scores(network: nn.Module, one: Channels) -> Tensor:
    total = torch.zeros(one.count)
    for name in one.made_by:
        squares = network.get_submodule(name).get_parameter("weight").detach().square().flatten(1)
        total += squares.sum(1) / squares.sum().clamp_min(torch.finfo(squares.dtype).tiny)
    return total


def _sides(
    found: Sequence[Channels], chosen: Kept
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, int]]]:
    """Return the outputs that stay of each layer, and the inputs, with the columns of each."""
    rows = {
        name: chosen[number]
        for number, one in enumerate(found)
        if number in chosen
        for name in (*one.made_by, *one.carried_by)
    }
    columns = {
        name: (chosen[number], repeat)
        for number, one in enumerate(found)
        if number in chosen
        for name, repeat in one.read_by
    }
    return rows, columns


def _columns(kept: Tensor, repeat: int) -> Tensor:
    return (kept[:, None] * repeat + torch.arange(repeat)).flatten()


def _numbers(network: nn.Module, found: Sequence[Channels], chosen: Kept) -> int:
    """Return the weights of all layers that make or read channels."""
    rows, columns = _sides(found, chosen)
    names = {n for one in found for n in (*one.made_by, *(name for name, _ in one.read_by))}
    total = 0
    for name in names:
        weight = network.get_submodule(name).get_parameter("weight")
        m = len(rows[name]) if name in rows else len(weight)
        n = len(columns[name][0]) * columns[name][1] if name in columns else weight.shape[1]
        total += m * n * math.prod(weight.shape[2:])
    return total


def without(
    network: nn.Module, found: Sequence[Channels], chosen: Kept
) -> tuple[nn.Module, dict[str, list[int]]]:
    """Return a copy of a network with only the chosen channels, and the sizes of its layers."""
    rows, columns = _sides(found, chosen)
    values: dict[str, Tensor] = {}
    sizes: dict[str, list[int]] = {}
    for name in {**rows, **columns}:
        layer = network.get_submodule(name)
        weight = layer.get_parameter("weight").detach()
        bias = getattr(layer, "bias", None)
        if name in rows:
            weight = weight[rows[name]]
            bias = bias if bias is None else bias.detach()[rows[name]]
        if name in columns:
            weight = weight[:, _columns(*columns[name])]
        mixes = not isinstance(layer, nn.PReLU) and getattr(layer, "groups", 1) == 1
        sizes[name] = list(weight.shape[: 1 + mixes])
        values |= {f"{name}.weight": weight} | ({} if bias is None else {f"{name}.bias": bias})
    small = copy.deepcopy(network)
    narrow(small, sizes)
    with torch.no_grad():
        for name, value in values.items():
            small.get_parameter(name).copy_(value)
    return small.eval(), sizes
