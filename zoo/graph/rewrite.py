"""Equal graphs that suit a device better."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from zoo.graph.ir import Graph, Op, Tensor


class _Rewriting:
    """A graph under construction: what replaces an op is built from ops named after it."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.ops: list[Op] = []
        self.tensors, self.values = dict(graph.tensors), dict(graph.values)

    def result(self) -> Graph:
        used = {name for op in self.ops for name in (*op.inputs, *op.outputs)}
        used |= {*self.graph.inputs, *self.graph.outputs}
        return dataclasses.replace(
            self.graph,
            ops=tuple(self.ops),
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            values={name: value for name, value in self.values.items() if name in used},
        )

    def constant(self, name: str, value: Any, rank: int) -> str:
        """Store a float constant, its shape padded with ones in front."""
        array = np.asarray(value, np.float32)
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        self.tensors[name] = Tensor(name=name, shape=array.shape, dtype="float32", kind="constant")
        self.values[name] = array
        return name

    def emit(
        self,
        op: Op,
        kind: str,
        inputs: tuple[str, ...],
        output: str = "",
        *,
        shape: tuple[int, ...] = (),
        **attributes: Any,
    ) -> str:
        """Append an op in place of `op`; without `output` it makes a new tensor of this shape."""
        like = self.graph.tensors[op.outputs[0]]
        if not output:
            output = f"{op.name}.{kind}{len(self.ops)}"
            self.tensors[output] = dataclasses.replace(
                like, name=output, shape=shape or like.shape, kind="activation"
            )
        self.ops.append(
            dataclasses.replace(
                op,
                name=output,
                kind=kind,
                inputs=inputs,
                outputs=(output,),
                attributes=attributes,
                macs=0,
            )
        )
        return output


def on_npu(graph: Graph) -> Graph:
    """Return a graph that gives the same values without DEPTH_TO_SPACE, which no Ethos-U runs.

    For one sample, (1, H, W, b*b*C) to (1, bH, bW, C) is a transposition of pieces of b*C:
    (H, W, b, b*C) -> (H, b, W, b*C). Others keep their operator.
    """
    rewriting = _Rewriting(graph)
    for op in graph.ops:
        if op.kind == "depth_to_space" and graph.tensors[op.outputs[0]].shape[0] == 1:
            _transposed(rewriting, op)
        else:
            rewriting.ops.append(op)
    return rewriting.result()


def _transposed(rewriting: _Rewriting, op: Op) -> None:
    _, height, width, channels = rewriting.graph.tensors[op.inputs[0]].shape
    block = op.attributes["block"]
    row = channels // block
    x = rewriting.emit(op, "reshape", op.inputs, shape=(height, width, block, row))
    x = rewriting.emit(op, "transpose", (x,), shape=(height, block, width, row), dims=(0, 2, 1, 3))
    rewriting.emit(op, "reshape", (x,), op.outputs[0])


def without_gelu(graph: Graph) -> Graph:
    """Return a float graph, channels last, whose GELUs are x * sigmoid(x (a + b x^2)).

    That is GELU's tanh form, at most 5e-4 from the other, of operators that Ethos-U and TFLite
    Micro have: neither has GELU.
    """
    rewriting = _Rewriting(graph)
    for op in graph.ops:
        if op.kind != "gelu":
            rewriting.ops.append(op)
            continue
        rank, x = len(graph.tensors[op.outputs[0]].shape), op.inputs[0]
        a = math.sqrt(8 / math.pi)  # tanh(z) = 2 sigmoid(2 z) - 1
        slope, bend = (
            rewriting.constant(f"{op.name}.{name}", value, rank)
            for name, value in (("slope", a), ("bend", 0.044715 * a))
        )
        square = rewriting.emit(op, "mul", (x, x))
        bent = rewriting.emit(op, "mul", (square, bend))
        factor = rewriting.emit(op, "add", (bent, slope))
        inner = rewriting.emit(op, "mul", (factor, x))
        share = rewriting.emit(op, "sigmoid", (inner,))
        rewriting.emit(op, "mul", (x, share), op.outputs[0])
    return rewriting.result()


def for_int16(graph: Graph) -> Graph:
    """Return an equal float graph of operators that int16 kernels have and agree on.

    PReLU becomes max(x, 0) + slope * min(x, 0); other stand-alone activations become a maximum and
    a minimum; clamps that neither are symmetric nor start at 0 become operators.
    (The writer turns depth-to-space, which has no int16 kernel either, into a transposition: that
    form is for one sample.)
    """
    rewriting = _Rewriting(without_clamps(graph, _saturates))
    for op in rewriting.graph.ops:
        if op.kind in INT16:
            rank = len(rewriting.graph.tensors[op.outputs[0]].shape)
            INT16[op.kind](rewriting, op, rewriting.constant(f"{op.name}.zero", 0.0, rank), rank)
        else:
            rewriting.ops.append(op)
    return rewriting.result()


def _relu(rewriting: _Rewriting, op: Op, zero: str, rank: int) -> None:
    rewriting.emit(op, "maximum", (op.inputs[0], zero), op.outputs[0])


def _relu6(rewriting: _Rewriting, op: Op, zero: str, rank: int) -> None:
    above = rewriting.emit(op, "maximum", (op.inputs[0], zero))
    six = rewriting.constant(f"{op.name}.six", 6, rank)
    rewriting.emit(op, "minimum", (above, six), op.outputs[0])


def _prelu(rewriting: _Rewriting, op: Op, zero: str, rank: int) -> None:
    above = rewriting.emit(op, "maximum", (op.inputs[0], zero))
    slope = rewriting.constant(f"{op.name}.slope", rewriting.values[op.inputs[1]], rank)
    rewriting.tensors[slope] = dataclasses.replace(rewriting.tensors[slope], kind="slope")
    below = rewriting.emit(op, "minimum", (op.inputs[0], zero))
    below = rewriting.emit(op, "mul", (below, slope))
    rewriting.emit(op, "add", (above, below), op.outputs[0])


# Kinds whose int16 kernels runtimes lack or disagree on, and their equivalents.
INT16: dict[str, Callable[[_Rewriting, Op, str, int], None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "prelu": _prelu,
}


def _saturates(op: Op) -> bool:
    """Whether the range of a symmetric int16 output does the work of its clamp."""
    low, high = op.attributes["activation_limits"]
    return high is not None and low in (0, -high)


def without_clamps(graph: Graph, keep: Callable[[Op], bool] = lambda op: False) -> Graph:
    """Return an equal float graph whose fused clamps are MAXIMUM and MINIMUM with a scalar.

    An int8 graph needs no such operators: its outputs' ranges saturate at the limits.

    Args:
        graph: a float graph, channels last, with values.
        keep: says of an op whether its clamp stays fused.

    """
    rewriting = _Rewriting(graph)
    for op in graph.ops:
        if op.attributes.get("activation") != "clamp" or keep(op):
            rewriting.ops.append(op)
            continue
        output = op.outputs[0]
        rank = len(graph.tensors[output].shape)
        limits = zip(("maximum", "minimum"), op.attributes["activation_limits"], strict=True)
        parts = [(kind, limit) for kind, limit in limits if limit is not None]
        plain = {k: v for k, v in op.attributes.items() if not k.startswith("activation")}
        x = rewriting.emit(op, op.kind, op.inputs, **plain)
        rewriting.ops[-1] = dataclasses.replace(rewriting.ops[-1], macs=op.macs)
        for place, (kind, limit) in enumerate(parts):
            scalar = rewriting.constant(f"{op.name}.{kind}", limit, rank)
            last = place == len(parts) - 1
            x = rewriting.emit(op, kind, (x, scalar), output if last else "")
    return rewriting.result()
