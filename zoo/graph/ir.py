"""The graph IR: what a deployed network computes, as plain data.

`zoo.graph.trace` makes a `Graph` from a module, `zoo.deploy.tflite` from a file; the memory
planner, the cost estimators and the file writers read nothing else. A graph has one of two
layouts:

- "torch", as traced: (N, C, H, W) for images, (O, I, kH, kW) for kernels. Values are not copied;
  `Tensor.source` names the entry of the module's state dict.
- "channels_last", as TFLite runtimes store it: (N, H, W, C) for images, (O, kH, kW, I) for
  kernels, (1, kH, kW, C) for depthwise ones. `Graph.values` holds the constants.

`zoo.graph.lower` goes from the first to the second.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo.graph.constants import Derived

Layout = Literal["torch", "channels_last"]
Kind = Literal["input", "output", "activation", "weight", "bias", "slope", "constant"]

ITEM_BYTES = {"int8": 1, "uint8": 1, "bool": 1, "int16": 2, "float16": 2, "bfloat16": 2}
ITEM_BYTES |= {"int32": 4, "float32": 4, "int64": 8, "float64": 8}
# Types that files may name and nothing here computes with; a handle of a state is a number.
ITEM_BYTES |= {"uint16": 2, "uint32": 4, "uint64": 8, "complex64": 8, "complex128": 16}
ITEM_BYTES |= {"resource": 4}
# Biases of integer networks are added to the accumulator, so they have its width.
BIAS_DTYPE = {"int8": "int32", "uint8": "int32", "int16": "int64"}
# Smallest and largest integer of a quantized activation.
LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What the integers of a tensor mean: real = scale * (integer - zero_point).

    Attributes:
        scales: float32 values; one, or one per slice along `axis`.
        zero_points: as many as scales.
        axis: the dimension the scales belong to; None when there is one scale.

    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int | None = None

    @property
    def scale(self) -> float:
        """The scale of a tensor that has only one."""
        (value,) = self.scales
        return value

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor that has only one."""
        (value,) = self.zero_points
        return value


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A value of the graph.

    Attributes:
        name: unique in the graph.
        shape: as in PyTorch.
        dtype: as traced, e.g. "float32".
        kind: "weight" (convolution, fully connected), "bias", "slope" (PReLU), "constant" (any
            other parameter or buffer), or how the value flows.
        source: name in the module's state dict for the four parameter kinds, else "".
        quantization: what the integers mean; None for floats and for plain integers (shapes, axes).

    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Kind
    source: str = ""
    quantization: Quantization | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_parameter(self) -> bool:
        """Whether the value is stored with the model rather than computed."""
        return self.kind in ("weight", "bias", "slope", "constant")

    def bytes(self, dtype: str | None = None) -> int:
        """Bytes it takes when the network is deployed in `dtype` (default: as traced).

        Biases are int32 in an int8 network and int64 in an int16 one.
        """
        stored = dtype or self.dtype
        if self.kind == "bias":
            stored = BIAS_DTYPE.get(stored, stored)
        return self.elements * ITEM_BYTES[stored]


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation.

    Attributes:
        name: unique in the graph.
        kind: a row of `zoo.graph.kinds`: "conv2d", "fully_connected", "add", "prelu", ...
        inputs: tensor names in the operator's order: (x, weight, bias) for a convolution.
        outputs: tensor names.
        attributes: what the operator needs besides tensors. `padding` is (top, bottom, left,
            right); a scalar operand of add or mul is `constant`; `activation` is the fused
            activation, `activation_limits` its (low, high) for a clamp.
        macs: multiply-accumulates (1 MAC = 2 FLOPs) of convolutions and fully connected layers;
            0 for every other kind, as the papers count.
        module: path of the module it came from, e.g. "body.3"; "" is the root.

    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    macs: int
    module: str

    @property
    def label(self) -> str:
        """What messages call it: "conv2d at body.3"."""
        return f"{self.kind} at {self.module or 'the top level'}"


@dataclass(frozen=True, kw_only=True)
class State:
    """A value that a network keeps from one call to the next.

    Attributes:
        name: the tensor that holds it while a call reads it.
        next: the tensor that the call leaves for the next one; `name` itself if it never changes.
        initial: what the first call reads.

    """

    name: str
    next: str
    initial: "NDArray[Any]" = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Operations in an order in which they can run, and every tensor by name.

    Attributes:
        ops: operations in that order.
        tensors: every tensor, by name.
        inputs: names of the input tensors.
        outputs: names of the output tensors.
        layout: the order of dimensions: "torch" or "channels_last".
        values: values of the parameters, by tensor name; empty in a traced graph.
        states: what is kept between calls; only files have some.
        derived: how constants come from others, in order; `folded` computes them.

    """

    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layout: Layout = "torch"
    values: "Mapping[str, NDArray[Any]]" = field(default_factory=dict, repr=False, compare=False)
    states: tuple[State, ...] = ()
    derived: "tuple[Derived, ...]" = field(default=(), repr=False, compare=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input, e.g. (N, C, H, W)."""
        return self.tensors[self.inputs[0]].shape

    @property
    def firsts(self) -> list[int]:
        """The first size of each input: 1, of a sample, but for states and the like."""
        return [self.tensors[name].shape[0] for name in self.inputs]

    def kernel(self, op: Op) -> tuple[int, int, int]:
        """Outputs, inputs per output and window size of a MAC op's weights."""
        shape = self.tensors[op.inputs[1]].shape
        if self.layout == "torch" or len(shape) == 2:
            return shape[0], shape[1], math.prod(shape[2:])
        if op.kind == "depthwise_conv2d":
            return shape[3], 1, shape[1] * shape[2]
        return shape[0], shape[3], shape[1] * shape[2]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run on the whole input."""
        return sum(op.macs for op in self.ops)

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters by kind: weights, biases, slopes (of PReLU), constants; each counted once."""
        plural = {"weight": "weights", "bias": "biases", "slope": "slopes", "constant": "constants"}
        counts = dict.fromkeys(plural.values(), 0)
        for tensor in self.tensors.values():
            if tensor.is_parameter:
                counts[plural[tensor.kind]] += tensor.elements
        return counts

    def weight_bytes(self, dtype: str) -> int:
        """Bytes of all parameters when stored for a network in `dtype`, uncompressed."""
        return sum(t.bytes(dtype) for t in self.tensors.values() if t.is_parameter)

    @cached_property
    def producers(self) -> dict[str, Op]:
        """The op that makes each computed tensor."""
        return {name: op for op in self.ops for name in op.outputs}

    @cached_property
    def consumers(self) -> dict[str, list[Op]]:
        """The ops that read each tensor, in order; unread tensors are missing."""
        readers: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.inputs):
                readers.setdefault(name, []).append(op)
        return readers

    @cached_property
    def lifetimes(self) -> dict[str, tuple[int, int]]:
        """First and last op index at which each activation exists, both included.

        Inputs exist from the first op, outputs to the last, states all the time; while an op runs,
        its inputs and outputs both exist.
        """
        spans = {name: (0, 0) for name in self.inputs}
        for index, op in enumerate(self.ops):
            spans |= {name: (index, index) for name in op.outputs}
            for name in op.inputs:
                if name in spans:
                    spans[name] = (spans[name][0], index)
        end = max(len(self.ops) - 1, 0)
        spans |= {name: (spans[name][0], end) for name in self.outputs if name in spans}
        spans |= {state.name: (0, end) for state in self.states}
        # Until it takes its place, what comes next exists beside what was.
        return spans | {s.next: (spans[s.next][0], end) for s in self.states if s.next in spans}
