"""Reshapes, transpositions, joins and borders."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime.integer_base import Kernel, operands, quantization_of, same_quantization
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _float_reshape(graph: Graph, op: Op, x: Tensor) -> Tensor:
    before, after = (graph.tensors[n].shape for n in (op.inputs[0], op.outputs[0]))
    free = before[:1] == after[:1]
    return x.reshape(x.shape[0] if free else after[0], *after[1:])


def _integer_reshape(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    before, after = (graph.tensors[n].shape for n in (op.inputs[0], op.outputs[0]))
    free = before[:1] == (1,) and after[:1] == (1,)
    return lambda x: x.reshape(x.shape[0] if free else after[0], *after[1:])


def _transpose(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: x.permute(op.attributes["dims"]).contiguous()


def _cells(x: Tensor, block: int) -> Tensor:
    """Move `(N, H, W, b*b*C)`, the cell's place first, to `(N, bH, bW, C)`."""
    n, height, width, channels = x.shape
    cells = x.reshape(n, height, width, block, block, channels // block**2)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(n, height * block, width * block, -1)


def _blocks(x: Tensor, block: int) -> Tensor:
    """Move `(N, bH, bW, C)` to `(N, H, W, b*b*C)`, the cell's place first."""
    n, height, width, channels = x.shape
    cells = x.reshape(n, height // block, block, width // block, block, channels)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(n, height // block, width // block, -1)


def _space_to_depth(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: _blocks(x, op.attributes["block"])


def _depth_to_space(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: _cells(x, op.attributes["block"])


_MOST = float(np.finfo(np.float32).max)


def _to_output(graph: Graph, op: Op, name: str) -> Kernel:
    """Return what `concat` does to an operand: only in uint8 do runtimes rescale, in float32."""
    source, output = (quantization_of(graph, n) for n in (name, op.outputs[0]))
    if source == output:
        return lambda x: x
    scale = np.float32(source.scale) * np.float32(min(1 / output.scale, _MOST))
    if scale >= 2**20:
        raise MismatchError(f"its input {name!r} and output have scales that do not fit each other")
    table = np.arange(256, dtype=np.float32) * scale + np.float32(-source.zero_point) * scale
    steps = np.copysign(np.floor(np.abs(table) + np.float32(0.5)), table) + output.zero_point
    results = torch.from_numpy(steps.clip(0, 255).astype(np.uint8))
    return lambda x: results[x.to(torch.int64)]


def _joined(tensors: Sequence[Tensor], dim: int) -> Tensor:
    """Return tensors joined; constants are repeated for each sample."""
    batch = max(x.shape[0] for x in tensors)
    same = [x.expand(batch, *x.shape[1:]) if dim % x.ndim else x for x in tensors]
    return torch.cat(same, dim)


def _concat(graph: Graph, op: Op) -> Kernel:
    if graph.tensors[op.outputs[0]].dtype != "uint8":
        same_quantization(graph, op)
    rescaled = [_to_output(graph, op, name) for name in op.inputs]
    dim = op.attributes["dim"]

    def run(*inputs: Tensor) -> Tensor:
        tensors = operands(graph, op, inputs)
        tensors = [into(x) for into, x in zip(rescaled, tensors, strict=True)]
        return _joined(tensors, dim)

    return run


def _pad(graph: Graph, op: Op) -> Kernel:
    value = op.attributes["value"] + same_quantization(graph, op).zero_point
    low, high = LIMITS[graph.tensors[op.inputs[0]].dtype]
    if not low <= value <= high:
        raise MismatchError(f"it pads with the integer {value}, which its type cannot hold")
    return lambda x: F.pad(x, op.attributes["padding"], value=value)


FLOAT: dict[str, FloatKernel] = {
    "reshape": _float_reshape,
    "transpose": lambda graph, op, x: x.permute(op.attributes["dims"]),
    "space_to_depth": lambda graph, op, x: _blocks(x, op.attributes["block"]),
    "depth_to_space": lambda graph, op, x: _cells(x, op.attributes["block"]),
    "concat": lambda graph, op, *parts: _joined(parts, op.attributes["dim"]),
    "pad": lambda graph, op, x: F.pad(x, op.attributes["padding"], value=op.attributes["value"]),
}
INTEGER: dict[str, IntegerMaker] = {
    "reshape": _integer_reshape,
    "transpose": _transpose,
    "space_to_depth": _space_to_depth,
    "depth_to_space": _depth_to_space,
    "concat": _concat,
    "pad": _pad,
}
