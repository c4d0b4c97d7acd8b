"""Transpositions that undo each other, or that a product or a reshape can take over.

The order of dimensions differs between torch and devices, so lowering turns what lies like an
image before and after reshapes, matrix products and softmaxes. Much of that cancels.
"""

import dataclasses
import math
from collections.abc import Sequence

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import ELEMENTWISE, SCALAR_ACTIVATIONS

_MOST = 5  # dimensions that TFLite Micro transposes


def without_turns(graph: Graph) -> Graph:
    """Return an equal graph, channels last, with as few transpositions as follow from each other.

    - Two in a row, also around a function of single elements, become one; one that changes nothing
      is left out; one that moves dimensions of size 1 alone is a reshape, which costs nothing.
    - One of more than 5 dimensions is one of fewer, of which neighbours that stay together are one.
    - One that swaps the last two dimensions before a batch_matmul becomes its `adj_x` or `adj_y`.
    """
    turning = _Turning(graph)
    for op in graph.ops:
        turning.add(op)
    return turning.result()


def _composed(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(first[dim] for dim in second)


def _runs(dims: Sequence[int]) -> list[list[int]]:
    """Return the dimensions that stay together; the batch stays apart."""
    runs: list[list[int]] = []
    for dim in dims:
        if runs and runs[-1][-1] == dim - 1 and runs[-1] != [0]:
            runs[-1].append(dim)
        else:
            runs.append([dim])
    return runs


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

    def merged(self, op: Op) -> list[Op]:
        """Return an op, with a transposition of too many dimensions as one of fewer.

        Neighbours that stay together are one dimension: windows of a picture are cut out of
        (N, H / h, h, W / w, w, C), which is a turn of (N, H / h, h, W / w, w C).
        """
        if op.kind != "transpose" or len(op.attributes["dims"]) <= _MOST:
            return [op]
        shape = self.tensors[op.inputs[0]].shape
        runs = _runs(op.attributes["dims"])
        if len(runs) > _MOST:  # maybe without the sizes of 1, as that of a batch
            runs = _runs([dim for dim in op.attributes["dims"] if shape[dim] > 1])
        if len(runs) > _MOST:
            raise MismatchError(
                f"{op.label} moves {len(runs)} dimensions apart, and devices at most {_MOST}: "
                "move fewer at a time"
            )
        order = sorted(runs)
        sizes = [math.prod(shape[dim] for dim in run) for run in order]
        dims = tuple(order.index(run) for run in runs)
        few, turned = f"{op.name}.few", f"{op.name}.turned"
        like = self.tensors[op.outputs[0]]
        for name, after in ((few, sizes), (turned, [sizes[dim] for dim in dims])):
            self.tensors[name] = dataclasses.replace(
                like, name=name, shape=tuple(after), kind="activation"
            )
        plain = dataclasses.replace(op, kind="reshape", attributes={})
        return [
            dataclasses.replace(plain, name=few, outputs=(few,)),
            dataclasses.replace(
                op, name=turned, inputs=(few,), outputs=(turned,), attributes={"dims": dims}
            ),
            dataclasses.replace(plain, inputs=(turned,)),
        ]

    def result(self) -> Graph:
        wanted, ops = set(self.graph.outputs), list[Op]()
        for op in reversed(self.made.values()):
            if wanted.intersection(op.outputs):
                ops.extend(reversed(self.merged(op)))
                wanted.update(op.inputs)
        used = wanted | set(self.graph.inputs) | {name for op in ops for name in op.outputs}
        return dataclasses.replace(
            self.graph,
            ops=tuple(reversed(ops)),
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            values={name: value for name, value in self.graph.values.items() if name in used},
        )
