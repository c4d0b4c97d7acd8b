"""Parts of a tensor: slices with a stride, and a tensor cut into several."""

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Kernel, quantization_of, same_quantization
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _slice(graph: Graph, op: Op, x: Tensor) -> Tensor:
    one = graph.tensors[op.inputs[0]].shape[0] == 1
    batched = one and op.attributes["slices"][0] == (0, 1, 1) and 0 not in op.attributes["squeeze"]
    for dim, (start, stop, step) in enumerate(op.attributes["slices"]):
        if dim or not batched:  # a batch of any size stays whole
            x = x.index_select(dim, torch.arange(start, stop, step))
    for dim in sorted(op.attributes["squeeze"], reverse=True):
        x = x.squeeze(dim)
    return x


def _split(graph: Graph, op: Op, x: Tensor) -> tuple[Tensor, ...]:
    return x.split(list(op.attributes["sizes"]), op.attributes["dim"])


def _integer_slice(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: _slice(graph, op, x)


def _integer_split(graph: Graph, op: Op) -> Callable[[Tensor], tuple[Tensor, ...]]:
    source = same_quantization(graph, op)
    if any(quantization_of(graph, name) != source for name in op.outputs):
        raise MismatchError("its outputs differ in scale or zero point; runtimes do not rescale")
    return lambda x: _split(graph, op, x)


FLOAT: dict[str, FloatKernel] = {"strided_slice": _slice, "split": _split}
INTEGER: dict[str, IntegerMaker] = {"strided_slice": _integer_slice, "split": _integer_split}
