"""Operators whose operands are all constant, computed once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from zoo.graph.check import check
from zoo.graph.ir import Graph, Op, Tensor
from zoo.runtime.integer import IntegerNetwork


def results(
    op: Op, tensors: Mapping[str, Tensor], values: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the values of an op's outputs, by name.

    Args:
        op: an op, channels last.
        tensors: its operands and outputs, among others.
        values: its operands' values, among others.

    Raises:
        MismatchError: it has no kernel, or its operands do not fit it; the message names it.

    """
    given, names = op.inputs[:1], {*op.inputs, *op.outputs}
    graph = Graph(
        ops=(op,),
        tensors={
            name: replace(tensors[name], kind="constant" if name in op.inputs[1:] else "activation")
            for name in names
        },
        inputs=given,
        outputs=op.outputs,
        layout="channels_last",
        values={name: values[name] for name in op.inputs[1:]},
    )
    check(graph)
    made = IntegerNetwork(graph)(*(torch.from_numpy(values[name].copy()) for name in given))
    several = made if isinstance(made, tuple) else (made,)
    return {name: y.numpy() for name, y in zip(op.outputs, several, strict=True)}
