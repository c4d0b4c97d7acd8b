"""What elementwise integer kernels share: tables of all results, and the last rounding.

Operators that act on elements are written as arithmetic on real integers. In int8 and uint8 two
operands have 2^16 pairs of values: such an operator is evaluated once for all of them and then
looked up.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime.integer_base import TYPES, Kernel, in_groups, limits, operands, quantization_of
from zoo.runtime.rescale import Rescale


def elementwise(make: Callable[[Graph, Op], Kernel]) -> Callable[[Graph, Op], Kernel]:
    """Return the maker of a stored operator, given one on float64 integers - zero point."""

    def prepare(graph: Graph, op: Op) -> Kernel:
        arithmetic = make(graph, op)
        zeros = [quantization_of(graph, name).zero_point for name in op.inputs]

        def run(*inputs: Tensor) -> Tensor:
            values = operands(graph, op, inputs)
            return arithmetic(*(x.double() - z for x, z in zip(values, zeros, strict=True)))

        dtypes = {graph.tensors[name].dtype for name in (*op.inputs, *op.outputs)}
        if dtypes not in ({"int8"}, {"uint8"}):
            return run
        least, most = LIMITS[dtypes.pop()]

        @functools.cache
        def results() -> Tensor:
            every = torch.arange(least, most + 1, dtype=torch.float64)
            pairs = (every[:, None], every) if len(zeros) == 2 else (every,)
            return arithmetic(*(x - z for x, z in zip(pairs, zeros, strict=True))).flatten()

        def look_up(*inputs: Tensor) -> Tensor:
            first, *second = operands(graph, op, inputs)
            places = first.to(torch.int32)
            if second:
                places = torch.add(second[0], places, alpha=256).sub_(least * 257)
            else:
                places -= least
            return results().index_select(0, places.flatten()).view(places.shape)

        return in_groups(graph, op, look_up)

    return prepare


def output_rescale(graph: Graph, op: Op, factor: float, bound: int) -> Rescale:
    """Return the last rounding of an operator, to its stored output."""
    output = op.outputs[0]
    zero, dtype = quantization_of(graph, output).zero_point, TYPES[graph.tensors[output].dtype]
    return Rescale(factor, bound, *limits(graph, op), zero_point=zero, dtype=dtype)
