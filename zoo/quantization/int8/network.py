"""`QuantizedNetwork`: a deployed network that computes what the device does, for real inputs.

It is a float network, whose weights are rounded when the integer graph is made, and the range of
each activation. Ranges are keyed by labels that do not depend on names that a tracer invents:
"input", then the module's path and the operator's kind ("body.0:conv2d", ":add" at the top level),
with ".2", ".3" for repeats of the same label. Activations whose quantization the device cannot
tell apart (see `zoo.quantization.int8.post_training.groups`) share one
entry, labelled by the first of them.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.quantization.int8.calibration import Range
from zoo.quantization.int8.post_training import quantize_graph
from zoo.quantization.int8.scales import groups
from zoo.registry.recipe import WEIGHT_BITS
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, dequantized, quantized

_KEPT = 16  # integer networks, one for each size of input


class QuantizedNetwork(nn.Module):
    """Real numbers in and out, integers in between: bit for bit the exported `.tflite` file.

    Inputs are rounded to the integers that the device gets, `(N, C, H, W)` or whatever the network
    takes; outputs are the device's integers times their scale. Any other attribute is the float
    network's own. It runs on the CPU.

    Args:
        network: the float network with its trained weights, in eval mode.
        ranges: (low, high) of each activation by label, see above.
        scheme: "int8", or "int8-w4" for weights of 4 bits in int8 tensors.

    Raises:
        MismatchError: the scheme is unknown, or a range is not low <= 0 <= high.

    """

    def __init__(self, network: nn.Module, ranges: Mapping[str, Range], scheme: str) -> None:
        super().__init__()
        check_ranges(ranges)
        if scheme not in WEIGHT_BITS:
            raise MismatchError(
                f"quantization scheme is {scheme!r}; expected {' or '.join(WEIGHT_BITS)}"
            )
        self.network = network
        self.ranges, self.scheme = dict(ranges), scheme
        self._integers: dict[tuple[int, ...], IntegerNetwork] = {}
        self.eval()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not there yet
                raise
            return getattr(self.network, name)

    def graph(self, input_shape: tuple[int, ...]) -> Graph:
        """Return the integer graph for one input of this shape, channels last.

        Raises:
            MismatchError: the ranges belong to another network.

        """
        lowered = lower(self.network, input_shape)
        ranges = by_tensor(lowered, self.ranges)
        return quantize_graph(lowered, ranges, weight_bits=WEIGHT_BITS[self.scheme])

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, on the device that x is on."""
        shape = (1, *x.shape[1:])
        if shape not in self._integers:
            while len(self._integers) >= _KEPT:
                del self._integers[next(iter(self._integers))]
            self._integers[shape] = IntegerNetwork(self.graph(shape))
        integer = self._integers[shape]
        inputs = channels_last(x.detach().to("cpu", torch.float32))
        y = integer(self.integers(integer.graph, inputs))
        if isinstance(y, tuple):
            raise MismatchError(f"{type(self.network).__name__} has {len(y)} outputs; expected one")
        y = dequantized(integer.graph, y)
        return (y.permute(0, 3, 1, 2) if y.ndim == 4 else y).to(x.device)

    def integers(self, graph: Graph, x: Tensor) -> Tensor:
        """Return real inputs, channels last, as the integers that the device gets."""
        return quantized(graph, x)

    def quantization(self) -> dict[str, Any]:
        """Return what a checkpoint stores besides the float network's tensors."""
        ranges = {label: list(limits) for label, limits in self.ranges.items()}
        return {"scheme": self.scheme, "ranges": ranges}


def read_quantization(network: nn.Module, facts: Any) -> QuantizedNetwork:
    """Return the network whose `QuantizedNetwork.quantization` was stored.

    Raises:
        MismatchError: the facts are not well-formed.

    """
    if not isinstance(facts, Mapping) or set(facts) != {"scheme", "ranges"}:
        raise MismatchError("quantization in the config: expected an object of scheme and ranges")
    ranges = facts["ranges"]
    if not isinstance(ranges, Mapping):
        raise MismatchError(f"quantization.ranges is {ranges!r}; expected an object")
    for label, pair in ranges.items():
        numbers = isinstance(pair, list) and len(pair) == 2
        if not numbers or any(type(x) not in (int, float) for x in pair):
            raise MismatchError(f"quantization.ranges[{label!r}] is {pair!r}; expected [low, high]")
    pairs = {label: (float(low), float(high)) for label, (low, high) in ranges.items()}
    return QuantizedNetwork(network, pairs, str(facts["scheme"]))


def check_ranges(ranges: Mapping[str, Range]) -> None:
    """Raise a MismatchError unless every range holds 0 and is finite and not empty."""
    for label, (low, high) in ranges.items():
        if not (-math.inf < low <= 0 <= high < math.inf and low < high):
            raise MismatchError(
                f"the range of {label!r} is ({low:g}, {high:g}); expected finite limits "
                "around 0, low < high"
            )


def labels(graph: Graph) -> dict[str, str]:
    """Return the label of each group of activations, by the name of its first tensor."""
    by_name: dict[str, str] = {}
    seen: dict[str, int] = {}
    owner = groups(graph)
    makers = {name: f"{op.module}:{op.kind}" for op in graph.ops for name in op.outputs}
    for name in dict.fromkeys(owner.values()):
        label = makers.get(name, "input")
        seen[label] = seen.get(label, 0) + 1
        by_name[name] = label if seen[label] == 1 else f"{label}.{seen[label]}"
    return by_name


def by_tensor(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return the range of every activation of a graph, given the ranges by label.

    Raises:
        MismatchError: a label is missing, or there is one too many.

    """
    wanted = labels(graph)
    missing, extra = set(wanted.values()) - set(ranges), set(ranges) - set(wanted.values())
    if missing or extra:
        raise MismatchError(
            f"the ranges of the activations do not fit this network: {_some('missing', missing)}"
            f"{_some('unknown', extra)}get the whole checkpoint again"
        )
    return {name: ranges[wanted[group]] for name, group in groups(graph).items()}


def _some(what: str, names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return f"{what} {', '.join(map(repr, listed[:3]))}{more}; " if listed else ""


def by_label(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Return one range per group, which holds 0 and the observed range of each of its tensors.

    If an activation is clamped, its limits are the range, whether reached or not.
    """
    named, owner, merged = labels(graph), groups(graph), dict[str, Range]()
    for name, group in owner.items():
        low, high = merged.get(named[group], (0.0, 0.0))
        merged[named[group]] = min(low, ranges[name][0]), max(high, ranges[name][1])
    for op in graph.ops:
        if op.attributes.get("activation") == "clamp":
            label = named[owner[op.outputs[0]]]
            pairs = zip(op.attributes["activation_limits"], merged[label], strict=True)
            low, high = (seen if limit is None else float(limit) for limit, seen in pairs)
            merged[label] = low, high
    return merged
