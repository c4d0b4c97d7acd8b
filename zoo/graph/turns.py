"""Transpositions that undo each other, or that a product or a reshape can take over.

The order of dimensions differs between torch and devices, so lowering turns what lies like an
image before and after reshapes, matrix products and softmaxes. Much of that cancels.
"""

import dataclasses
from collections.abc import Sequence

from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import ELEMENTWISE, SCALAR_ACTIVATIONS


def without_turns(graph: Graph) -> Graph:
    """Return an equal graph, channels last, with as few transpositions as follow from each other.

    - Two in a row, also around a function of single elements, become one; one that changes nothing
      is left out; one that moves dimensions of size 1 alone is a reshape, which costs nothing.
    - One that swaps the last two dimensions before a batch_matmul becomes its `adj_x` or `adj_y`.
    """
    turning = _Turning(graph)
    for op in graph.ops:
        turning.add(op)
    return turning.result()


def _composed(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(first[dim] for dim in second)


class _Turning:
    """The graph under construction."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.made: dict[str, Op] = {}  # the ops so far, by their first outputs
        self.same: dict[str, str] = {}  # what stands for the result of an op that is left out
        self.owed: dict[str, tuple[int, ...]] = {}  # how a result has still to be turned

    def add(self, op: Op) -> None:
        op = dataclasses.replace(op, inputs=tuple(self.same.get(n, n) for n in op.inputs))
        turned = self.made.get(op.inputs[0]) if op.inputs else None
        if op.kind == "transpose":
            self.turn(op)
        elif op.kind == "batch_matmul":
            self.multiply(op)
        elif turned is not None and turned.kind == "transpose" and self.passes(op):
            source, output = turned.inputs[0], op.outputs[0]
            shape = self.tensors[source].shape
            self.owed[output] = tuple(turned.attributes["dims"])
            self.tensors[output] = dataclasses.replace(self.tensors[output], shape=shape)
            self.made[output] = dataclasses.replace(op, inputs=(source, *op.inputs[1:]))
        else:
            self.made[op.outputs[0]] = op

    def turn(self, op: Op) -> None:
        source, output, dims = op.inputs[0], op.outputs[0], tuple(op.attributes["dims"])
        before = self.made.get(source)
        if source in self.owed:
            dims = _composed(self.owed[source], dims)
        elif before is not None and before.kind == "transpose":
            source, dims = before.inputs[0], _composed(before.attributes["dims"], dims)
        if dims == tuple(range(len(dims))) and output not in self.graph.outputs:
            self.same[output] = source
            return
        shape = self.tensors[source].shape
        long = [dim for dim in dims if shape[dim] > 1]
        moves = long != sorted(long)
        self.made[output] = dataclasses.replace(
            op,
            kind="transpose" if moves else "reshape",
            inputs=(source,),
            attributes={"dims": dims} if moves else {},
        )

    def multiply(self, op: Op) -> None:
        inputs, attributes = list(op.inputs), dict(op.attributes)
        for place, key in enumerate(("adj_x", "adj_y")):
            turned = self.made.get(inputs[place])
            if turned is None or turned.kind != "transpose":
                continue
            *rest, before, last = turned.attributes["dims"]
            if [*rest, last, before] == list(range(len(rest) + 2)):
                inputs[place], attributes[key] = turned.inputs[0], not attributes[key]
        self.made[op.outputs[0]] = dataclasses.replace(
            op, inputs=tuple(inputs), attributes=attributes
        )

    def passes(self, op: Op) -> bool:
        """Whether an op is the same function of each element, whose result is only turned."""
        others, output = op.inputs[1:], op.outputs[0]
        single = all(n in self.graph.values and self.graph.values[n].size == 1 for n in others)
        readers = self.graph.consumers.get(output, [])
        return (
            op.kind in (SCALAR_ACTIVATIONS if not others else ELEMENTWISE)
            and single
            and output not in self.graph.outputs
            and bool(readers)
            and all(reader.kind == "transpose" for reader in readers)
        )

    def result(self) -> Graph:
        wanted, ops = set(self.graph.outputs), list[Op]()
        for op in reversed(self.made.values()):
            if wanted.intersection(op.outputs):
                ops.append(op)
                wanted.update(op.inputs)
        used = wanted | set(self.graph.inputs) | {name for op in ops for name in op.outputs}
        return dataclasses.replace(
            self.graph,
            ops=tuple(reversed(ops)),
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            values={name: value for name, value in self.graph.values.items() if name in used},
        )
