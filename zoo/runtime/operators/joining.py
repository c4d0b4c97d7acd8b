"""Tensors stacked and taken apart; places of extremes."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import TYPES, Kernel, operands, quantization_of, same_quantization
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _pack(graph: Graph, op: Op, *parts: Tensor) -> Tensor:
    return torch.stack(parts, op.attributes["dim"])


def _unpack(graph: Graph, op: Op, x: Tensor) -> tuple[Tensor, ...]:
    return x.unbind(op.attributes["dim"])


def _extreme(graph: Graph, op: Op, x: Tensor) -> Tensor:
    """Return the place of the first greatest or least."""
    values, dim = x.numpy(), op.attributes["dim"]
    places = values.argmax(dim) if op.kind == "arg_max" else values.argmin(dim)
    return torch.from_numpy(places).to(TYPES[graph.tensors[op.outputs[0]].dtype])


def _integer_pack(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda *inputs: _pack(graph, op, *operands(graph, op, inputs))


def _integer_unpack(graph: Graph, op: Op) -> Callable[[Tensor], tuple[Tensor, ...]]:
    same_quantization(graph, op)
    if any(quantization_of(graph, n) != quantization_of(graph, op.inputs[0]) for n in op.outputs):
        raise MismatchError("its outputs differ in scale or zero point; runtimes do not rescale")
    return lambda x: _unpack(graph, op, x)


def _integer_extreme(graph: Graph, op: Op) -> Kernel:
    return lambda x: _extreme(graph, op, x)


FLOAT: dict[str, FloatKernel] = {
    "pack": _pack,
    "unpack": _unpack,
    "arg_max": _extreme,
    "arg_min": _extreme,
}
INTEGER: dict[str, IntegerMaker] = {
    "pack": _integer_pack,
    "unpack": _integer_unpack,
    "arg_max": _integer_extreme,
    "arg_min": _integer_extreme,
}
