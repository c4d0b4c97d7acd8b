"""An operator of a graph as an Ethos-U sees it: shapes, places, what is applied to its result."""

import math
from dataclasses import dataclass, replace

from zoo.cost.ethos_u.passes import TABLE_BYTES, Pass, Shape
from zoo.graph.ir import Graph, Op

NUMBERS = frozenset(("add", "sub", "mul", "maximum", "minimum"))
VIEWS = frozenset(("reshape", "strided_slice", "split", "unpack"))  # outputs lie in the input
JOINTS = frozenset(("concat", "strided_slice", "split"))


FEW = 8  # channels below which a tensor is never in bricks, and an activation is not fused


class OnHostError(Exception):
    """The accelerator lacks the operator, or this form of it; the text says why."""


@dataclass(frozen=True)
class Site:
    """An operator with all that its passes depend on.

    Attributes:
        graph: the network.
        op: the operator.
        micro_depth: output channels that the array makes at once.
        fused: kind of the table that the operator applies to its result, or "".
        plain: tensors that an operator on the host CPU reads or writes.
        cores: of the array, that share a layer's outputs.
        chains: the accelerator chains operators to layers, as Ethos-U85 does.

    """

    graph: Graph
    op: Op
    micro_depth: int
    fused: str = ""
    plain: frozenset[str] = frozenset()
    cores: int = 1
    chains: bool = False

    def shape(self, name: str) -> Shape:
        """Rows, columns and channels of a tensor; what lies before them is rows too."""
        sizes = self.graph.tensors[name].shape
        if len(sizes) == 4 and self.graph.layout != "torch":
            return sizes[0] * sizes[1], sizes[2], sizes[3]
        if len(sizes) == 4:
            sizes = (sizes[0], sizes[2], sizes[3], sizes[1])
        *rows, columns, channels = (1, 1, *sizes) if len(sizes) < 3 else sizes
        return math.prod(rows), columns, channels

    def channels(self, name: str) -> int:
        """Channels of a tensor."""
        sizes = self.graph.tensors[name].shape
        torch_layout = len(sizes) == 4 and self.graph.layout == "torch"
        return sizes[1 if torch_layout else -1] if sizes else 1

    @property
    def ifm(self) -> Shape:
        """The first input's shape."""
        return self.shape(self.op.inputs[0])

    @property
    def ofm(self) -> Shape:
        """The output's shape."""
        return self.shape(self.op.outputs[0])

    @property
    def activation(self) -> str:
        """What is applied to each output: the key of `Array.activation_cycles`."""
        if self.fused:
            return "table"
        return "relu" if self.op.attributes.get("activation") else "none"

    def bricks(self, name: str) -> bool:
        """Whether a tensor lies in bricks of 16 channels.

        Inputs and outputs of the graph do not, what the host CPU touches, what is joined or cut
        within a brick, what has fewer than 8 channels, and what an operator with one number makes:
        it works on any shape.
        """
        graph = self.graph
        if name in self.plain or name in graph.inputs or name in graph.outputs:
            return False
        channels = self.channels(name)
        if channels < FEW:
            return False
        maker = graph.producers.get(name)
        if maker is not None and maker.kind in NUMBERS and channels % 16:
            second = maker.inputs[1:] and graph.tensors[maker.inputs[1]].elements
            if not second or second == 1:
                return self.bricks(maker.inputs[0])
        near = [op for op in graph.consumers.get(name, ()) if op.kind in JOINTS]
        if maker is not None and maker.kind in JOINTS:
            near.append(maker)
        return all(
            self.channels(part) % 16 == 0
            for op in near
            for part in (op.inputs[:-1] if op.kind == "concat" else op.outputs[:-1] or op.outputs)
        )

    def laid(self, job: Pass) -> Pass:
        """Return a pass that reads and writes where the operator does."""
        return replace(
            job,
            reads_bricks=self.bricks(self.op.inputs[0]),
            bricks=self.bricks(self.op.outputs[0]),
        )


def copy_of(ifm: Shape, ofm: Shape, activation: str = "none") -> Pass:
    """Return a copy: a pool of one element."""
    table = TABLE_BYTES if activation == "table" else 0
    return Pass(unit="pool", ifm=ifm, ofm=ofm, activation=activation, table_bytes=table)


def apart(job: Pass) -> list[Pass]:
    """Return a layer's pass, with the activation in one of its own where channels are few."""
    if job.ofm[2] >= FEW or job.activation != "relu":
        return [job]
    after = replace(copy_of(_line(job.ofm), _line(job.ofm), "relu"), reads_bricks=False)
    return [replace(job, activation="none"), replace(after, bricks=False)]


def _line(shape: Shape) -> Shape:
    """Return how the compiler lays out what it may: 16 channels, rows and columns alike.

    Prime factors go to the shorter side, the largest first. What is not whole sixteens keeps its
    rows, and a row is one long line.
    """
    rest, over = divmod(math.prod(shape), 16)
    if over:
        return shape[0], 1, shape[1] * shape[2]
    rows = columns = 1
    for factor in reversed(_primes(rest)):
        if rows <= columns:
            rows *= factor
        else:
            columns *= factor
    return rows, columns, 16


def _primes(number: int) -> list[int]:
    """Return the prime factors of a number, the smallest first."""
    found, factor = [], 2
    while factor * factor <= number:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found + [number] * (number > 1)


def pair(site: Site, key: str) -> tuple[int, int]:
    """Return an attribute of two numbers, rows and columns; 1 and 1 by default."""
    first, second = site.op.attributes.get(key, (1, 1))
    return first, second


def stride(site: Site) -> tuple[int, int]:
    """Return the stride; a single output has none."""
    return (1, 1) if site.ofm[:2] == (1, 1) else pair(site, "stride")
