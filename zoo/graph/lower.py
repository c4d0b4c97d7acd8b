"""From a module to what a channels-last runtime stores: the float graph that is then quantized."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoo.graph.check import check
from zoo.graph.fuse import fuse, without_detours
from zoo.graph.inputs import Shapes
from zoo.graph.ir import Graph, Kind, Op, Tensor
from zoo.graph.kinds import FUSABLE, LOWER
from zoo.graph.layout import LAST, channels_last
from zoo.graph.trace import exported, folded, state_of
from zoo.graph.turns import without_turns

Move = Callable[[NDArray[Any]], NDArray[Any]]


def lower(module: nn.Module, input_shape: Shapes) -> Graph:
    """Return the deployed network in the layout "channels_last", in float, with its values.

    Batch norms are folded, activations fused, scalars become constants, every layer has a bias, and
    what a convolution pads beyond TFLite's SAME becomes an operator. Inputs and outputs of 4
    dimensions are (N, H, W, C).

    Raises:
        MismatchError: an operator has no channels-last form here; the message names it.

    """
    return lowered(exported(module, input_shape), state_of(module))


def lowered(graph: Graph, state: Mapping[str, NDArray[np.float32]]) -> Graph:
    """Return the deployed form of a graph of `zoo.graph.trace.exported` with these values."""
    plain = without_detours(fuse(folded(graph, state), FUSABLE))
    result = without_turns(Lowering(plain).run())
    check(result)
    return result


def _copy(name: str, copy: str) -> Op:
    return Op(
        name=copy, kind="reshape", inputs=(name,), outputs=(copy,), attributes={}, macs=0, module=""
    )


def _same_move(first: Move, second: Move, shape: tuple[int, ...]) -> bool:
    places = np.arange(math.prod(shape)).reshape(shape)
    return np.array_equal(first(places), second(places))


class Lowering:
    """A channels-last graph under construction, to which each kind's `lower` adds."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ops: list[Op] = []
        self.values: dict[str, NDArray[Any]] = {}
        self.moves: dict[str, Move] = {}  # which form each parameter was given
        self.tensors = {
            t.name: dataclasses.replace(t, shape=channels_last(t.shape), dtype="float32")
            for t in graph.tensors.values()
            if not t.is_parameter
        }

    def run(self) -> Graph:
        """Return the finished graph."""
        for op in self.graph.ops:
            LOWER.of(op)(self, op)
        outputs = self.outputs()
        used = {name for op in self.ops for name in (*op.inputs, *op.outputs)}
        used |= {*self.graph.inputs, *outputs}
        return dataclasses.replace(
            self.graph,
            ops=tuple(self.ops),
            outputs=outputs,
            tensors={name: t for name, t in self.tensors.items() if name in used},
            layout="channels_last",
            values={name: v for name, v in self.values.items() if name in used},
        )

    def outputs(self) -> tuple[str, ...]:
        """Return the outputs, each a separate tensor: inputs and repeated outputs are copied."""
        names: list[str] = []
        for place, name in enumerate(self.graph.outputs):
            if name in self.graph.inputs or name in names:
                copy = f"{name}.output{place}"
                self.tensors[copy] = dataclasses.replace(
                    self.tensors[name], name=copy, kind="output"
                )
                self.ops.append(_copy(name, copy))
                name = copy
            names.append(name)
        return tuple(names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape in the layout "torch"."""
        return self.graph.tensors[name].shape

    def axes(self, op: Op) -> tuple[int, ...]:
        """Return the channels-last places of the dimensions that an op works along."""
        dims, rank = op.attributes["dim"], len(self.shape(op.inputs[0]))
        several = [dims] if isinstance(dims, int) else list(range(rank)) if dims is None else dims
        return tuple(LAST[dim % rank] if rank == 4 else dim % rank for dim in several)

    def reads_flat(self, flat: Op) -> bool:
        """Whether a reshape turns images into rows that only fully connected layers read."""
        output = flat.outputs[0]
        before, after = self.shape(flat.inputs[0]), self.shape(output)
        readers = self.graph.consumers.get(output, [])
        return (
            (len(before), len(after)) == (4, 2)
            and before[0] == after[0]
            and output not in self.graph.outputs
            and all(op.kind == "fully_connected" for op in readers)
        )

    def emit(self, op: Op, **changes: Any) -> None:
        """Append an op, changed."""
        self.ops.append(dataclasses.replace(op, **changes))

    def activation(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a tensor that an op will make; return its name."""
        self.tensors[name] = Tensor(name=name, shape=shape, dtype="float32", kind="activation")
        return name

    def constant(
        self, name: str, value: NDArray[Any], kind: Kind = "constant", source: str = ""
    ) -> str:
        """Store a value; `source` is the parameter it came from."""
        self.values[name] = np.ascontiguousarray(value, np.float32)
        self.tensors[name] = Tensor(
            name=name, shape=value.shape, dtype="float32", kind=kind, source=source
        )
        return name

    def parameter(self, op: Op, place: int, move: Move = np.asarray) -> str:
        """Store a parameter in the form that an op needs; return its name.

        Ops that share a parameter share what is stored, unless they need different forms.
        """
        name = op.inputs[place]
        like, value = self.graph.tensors[name], self.graph.values[name]
        if name in self.moves and not _same_move(self.moves[name], move, value.shape):
            name = f"{op.name}.{like.kind}"
        self.moves[name] = move
        return self.constant(name, move(value), like.kind, like.source)

    def layer(self, op: Op, source: str, move: Move = np.asarray, **changes: Any) -> None:
        """Emit a convolution or fully connected layer; LiteRT takes no convolution without bias."""
        inputs = [source, self.parameter(op, 1, move)]
        if len(op.inputs) > 2:
            inputs.append(self.parameter(op, 2))
        else:
            zeros = np.zeros(self.graph.kernel(op)[0])
            inputs.append(self.constant(f"{op.name}.bias", zeros, "bias"))
        self.emit(op, inputs=tuple(inputs), **changes)

    def before(self, op: Op, kind: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> str:
        """Put an op of another kind between `op` and its first input; return its output."""
        name = self.activation(f"{op.name}.{kind}", shape)
        self.emit(
            op,
            name=name,
            kind=kind,
            inputs=op.inputs[:1],
            outputs=(name,),
            attributes=attributes,
            macs=0,
        )
        return name
