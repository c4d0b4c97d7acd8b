"""Every kind of operator, one row each; the rows are in `zoo.graph.operators`, by group.

A new kind is a row there and one entry in each `Column` of the rooms above (a kernel, an operator
of a file, a cost), or the reason why it has none; `tests/unit/test_operators.py` says what is
missing.
"""

import dataclasses
from collections.abc import Callable

from zoo.graph.ir import Graph, Op
from zoo.graph.operators import (
    activations,
    arithmetic,
    casts,
    cutting,
    filled,
    joining,
    layers,
    mathematics,
    movement,
    norms,
    pools,
    products,
    recurrent,
    resizing,
    transposed,
)
from zoo.graph.operators.contract import Check, Column, Lower, OpKind, Trace

_GROUPS = (
    layers,
    transposed,
    products,
    norms,
    mathematics,
    pools,
    arithmetic,
    activations,
    movement,
    resizing,
    casts,
    cutting,
    joining,
    recurrent,
)
KINDS: dict[str, OpKind] = {row.name: row for group in _GROUPS for row in group.ROWS}


def _where(holds: Callable[[OpKind], bool]) -> frozenset[str]:
    return frozenset(name for name, row in KINDS.items() if holds(row))


LAYERS = _where(lambda row: "weight" in row.roles)
MAC_KINDS = _where(lambda row: row.macs is not None)
SCALAR_ACTIVATIONS = _where(lambda row: row.scalar)
ELEMENTWISE = _where(lambda row: row.elementwise)
MOVEMENT = _where(lambda row: row.moves)
FUSABLE = _where(lambda row: row.fusable)
FUSING = _where(lambda row: row.fuses)
SHARED = _where(lambda row: row.shares_quantization)

_PLACE = "zoo/graph/operators"
_FORM = "channels-last form"
LOWER: Column[Lower] = Column(
    _FORM,
    _PLACE,
    {name: row.lower for name, row in KINDS.items() if row.lower},
    absent={n: row.absent["lower"] for n, row in KINDS.items() if "lower" in row.absent},
)
SHAPES: Column[Check] = Column(
    _FORM,
    _PLACE,
    {name: row.shape for name, row in KINDS.items() if row.shape},
    absent={n: row.absent["shape"] for n, row in KINDS.items() if "shape" in row.absent},
)
# How each ATen operator is read: a kind and the arguments that become attributes, or a function.
ATEN: dict[str, tuple[str, tuple[str, ...] | Trace]] = {
    **{aten: ("", reader) for aten, reader in filled.READERS.items()},
    **{
        aten: (name, reader)
        for name, row in KINDS.items()
        for aten, reader in (row.aten or {}).items()
    },
}


def counted(graph: Graph) -> Graph:
    """Return the graph with the multiply-accumulates of its ops."""
    counters = [KINDS[op.kind].macs for op in graph.ops]
    ops = [
        dataclasses.replace(op, macs=count(graph, op) if count else 0)
        for op, count in zip(graph.ops, counters, strict=True)
    ]
    return dataclasses.replace(graph, ops=tuple(ops))


def is_batched(graph: Graph) -> bool:
    """Whether every operation treats all samples of a batch the same, so that N may replace 1."""
    if graph.states:
        return False
    for tensor in graph.tensors.values():
        if not tensor.is_parameter and tensor.shape[:1] != (1,):
            return False
    return not any(_mixes_samples(graph, op) for op in graph.ops)


def _mixes_samples(graph: Graph, op: Op) -> bool:
    source = graph.tensors[op.inputs[0]]
    rank = len(source.shape)
    if any(len(graph.tensors[n].shape) != rank for n in op.inputs if n not in graph.values):
        return True  # broadcasting would mistake samples for something else
    return KINDS[op.kind].mixes_samples(graph, op)
