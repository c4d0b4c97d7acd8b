"""Masks: large negative numbers that are added to scores, so that a softmax shares out nothing.

An integer needs to know only that a masked score is far below the others. Ranges that held -1e9, or
the least float there is, would leave the others no steps.
"""

import dataclasses

import numpy as np
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import MOVEMENT

Shares = dict[str, tuple[int, float]]  # of what softmaxes read: the dimension and the factor
_NOTHING = 12.0  # e to minus this is less than half of an integer share, in int16 too
_MASKED = -1e4  # what a mask adds at most: all that is below is as good


def read_as_shares(graph: Graph) -> Shares:
    """Return the masked scores that softmaxes alone read, with their dimension and factor."""
    found: Shares = {}
    for op in reversed(graph.ops):
        name = op.outputs[0]
        readers = graph.consumers.get(name, [])
        if name in graph.outputs or len(readers) != 1:
            continue
        (reader,) = readers
        if reader.kind == "softmax":
            found[name] = (reader.attributes["dim"], reader.attributes.get("beta", 1.0))
        elif reader.kind == "transpose" and reader.outputs[0] in found:
            dim, beta = found[reader.outputs[0]]
            found[name] = (reader.attributes["dims"][dim], beta)
        elif reader.kind == "reshape" and reader.outputs[0] in found:
            rank = len(graph.tensors[name].shape)
            after = graph.tensors[reader.outputs[0]].shape
            dim, beta = found[reader.outputs[0]]
            if dim == len(after) - 1 and graph.tensors[name].shape[-1] == after[-1]:
                found[name] = (rank - 1, beta)
    masked = {name for name in found if _masked(graph, name, found[name][1])}
    return {name: how for name, how in found.items() if name in masked}


def with_small_masks(graph: Graph) -> Graph:
    """Return a float graph whose masks add to scores what integers can be scaled to.

    What shares become 0 is the same.
    """
    values = dict(graph.values)
    for name, (_, beta) in read_as_shares(graph).items():
        op = graph.producers[name]
        for place, stored in _masks(graph, op):
            sign, least = _sign(op, place), np.float32(_MASKED / beta)
            values[stored] = sign * np.maximum(sign * values[stored], least)
    return dataclasses.replace(graph, values=values)


def _masks(graph: Graph, op: Op) -> list[tuple[int, str]]:
    """Return the stored operands of a sum or a difference, with their places."""
    if op.kind not in ("add", "sub"):
        return []
    return [(place, name) for place, name in enumerate(op.inputs) if name in graph.values]


def _sign(op: Op, place: int) -> np.float32:
    return np.float32(-1 if (op.kind, place) == ("sub", 1) else 1)


def _masked(graph: Graph, name: str, beta: float) -> bool:
    """Whether a stored mask was added on the way to a tensor."""
    while (op := graph.producers.get(name)) is not None:
        stored = [_sign(op, place) * graph.values[n] for place, n in _masks(graph, op)]
        if any(float(value.min()) * beta <= -_NOTHING for value in stored):
            return True
        if op.kind not in MOVEMENT:
            return False
        name = op.inputs[0]
    return False


def counting(scores: Tensor, dim: int, beta: float) -> Tensor:
    """Return scores without what gets less than e^-12 of the largest share."""
    return scores.maximum(scores.amax(dim, keepdim=True) - _NOTHING / beta)
