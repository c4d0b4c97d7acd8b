"""What devices have no single operator for, as several ops in a row."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import Shape

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer

Value = Any  # an fx.Node, or the name of a tensor that was made
JOINED = 10  # tensors at a time: what TFLite Micro's CONCATENATION takes


class Chain:
    """Ops that together make what a node stands for; shapes are torch's.

    Args:
        tracer: collects the ops.
        node: stands for the result; `end` says which.

    """

    def __init__(self, tracer: "Tracer", node: "fx.Node") -> None:
        self.tracer, self.node, self.count = tracer, node, 0

    def shape(self, x: Value) -> Shape:
        """Return the shape of a node's tensor, or of one that was made."""
        if isinstance(x, str):
            return self.tracer.tensors[x].shape
        return tuple(int(size) for size in x.meta["val"].shape)

    def stored(self, x: Value) -> bool:
        """Whether a tensor is a parameter, or follows from parameters alone."""
        return (x if isinstance(x, str) else self.tracer.names[x]) in self.tracer.sources

    def op(
        self,
        kind: str,
        operands: Sequence[Value],
        shape: Shape,
        attributes: dict[str, Any] | None = None,
    ) -> str:
        """Append an op with a result of this shape; return its name."""
        self.count += 1
        part = f"{kind}{self.count}"
        return self.tracer.step(self.node, part, kind, operands, attributes, shape=shape)

    def end(self, x: Value) -> None:
        """Let the node stand for a tensor."""
        self.tracer.names[self.node] = x if isinstance(x, str) else self.tracer.names[x]

    def reshape(self, x: Value, shape: Shape) -> Value:
        """Append a reshape, unless nothing changes; a parameter is reshaped beforehand."""
        if self.shape(x) == shape:
            return x
        if self.stored(x):
            return self.tracer.weight(x, shape, lambda v: v.reshape(shape), "constant", "as")
        return self.op("reshape", [x], shape)

    def permute(self, x: Value, dims: Sequence[int]) -> Value:
        """Append a transposition, unless nothing changes."""
        shape = self.shape(x)
        if list(dims) == list(range(len(shape))):
            return x
        turned = tuple(shape[dim] for dim in dims)
        if self.stored(x):
            form = "".join(map(str, dims))
            return self.tracer.weight(x, turned, lambda v: v.permute(*dims), "constant", form)
        return self.op("transpose", [x], turned, {"dims": list(dims)})

    def swap(self, x: Value) -> Value:
        """Append the transposition of matrices, the last two dimensions."""
        *rest, before, last = range(len(self.shape(x)))
        return self.permute(x, [*rest, last, before])

    def cut(self, x: Value, dim: int, start: int, stop: int) -> Value:
        """Append a slice along one dimension, unless all of it stays."""
        shape = self.shape(x)
        if (start, stop) == (0, shape[dim]):
            return x
        slices = [(0, size, 1) for size in shape]
        slices[dim] = (start, stop, 1)
        attributes = {"slices": tuple(slices), "squeeze": ()}
        return self.op(
            "strided_slice", [x], (*shape[:dim], stop - start, *shape[dim + 1 :]), attributes
        )

    def join(self, parts: Sequence[Value], dim: int) -> Value:
        """Append concatenations of as many tensors as runtimes take."""
        parts = list(parts)
        while len(parts) > 1:
            groups = [parts[start : start + JOINED] for start in range(0, len(parts), JOINED)]
            parts = [group[0] if len(group) == 1 else self._joined(group, dim) for group in groups]
        return parts[0]

    def _joined(self, parts: list[Value], dim: int) -> str:
        shape = self.shape(parts[0])
        size = sum(self.shape(part)[dim] for part in parts)
        return self.op("concat", parts, (*shape[:dim], size, *shape[dim + 1 :]), {"dim": dim})

    def repeat(self, x: Value, dim: int, times: int) -> Value:
        """Append what puts copies of a tensor behind each other."""
        if self.stored(x):
            shape = self.shape(x)
            longer = (*shape[:dim], shape[dim] * times, *shape[dim + 1 :])
            many = [times if place == dim else 1 for place in range(len(shape))]
            return self.tracer.weight(x, longer, lambda v: v.repeat(many), "constant", "copies")
        return self.join([x] * times, dim)

    def expand(self, x: Value, shape: Shape) -> Value:
        """Append what repeats a tensor along dimensions of size 1, also new ones in front."""
        old = self.shape(x)
        if self.stored(x):
            return self.tracer.weight(x, shape, lambda v: v.expand(shape), "constant", "to")
        x = self.reshape(x, (1,) * (len(shape) - len(old)) + old)
        for dim, size in enumerate(self.shape(x)):
            if size != shape[dim]:
                x = self.repeat(x, dim, shape[dim])
        return x

    def scaled(self, x: Value, factor: float) -> Value:
        """Append a product with a number, unless that is 1."""
        return x if factor == 1 else self.op("mul", [x], self.shape(x), {"constant": factor})

    def mean(self, x: Value, dims: Sequence[int], *, keepdim: bool = True) -> Value:
        """Append a mean; what it leaves of an image is in torch's order."""
        shape = self.shape(x)
        one = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
        along = {"dim": tuple(dims), "keepdim": True}
        made = self.op("mean", [x], one, along)
        # Where nothing is left, a number: devices have it as (1,).
        left = tuple(size for dim, size in enumerate(shape) if dim not in dims) or (1,)
        return made if keepdim else self.reshape(made, left)

    def extreme(self, x: Value, dims: Sequence[int], *, keepdim: bool) -> Value:
        """Append a maximum along dimensions other than the first, as a pool of rows."""
        shape = self.shape(x)
        kept = [dim for dim in range(len(shape)) if dim not in dims]
        count = math.prod(shape[dim] for dim in dims)
        left = tuple(1 if dim in dims else size for dim, size in enumerate(shape))
        rows = math.prod(left[1:])
        image = self.reshape(self.permute(x, [*kept, *dims]), (shape[0], 1, rows, count))
        window = {"kernel": (1, count), "stride": (1, count), "padding": (0, 0, 0, 0)}
        attributes = {**window, "dilation": (1, 1), "count_padding": False}
        pooled = self.op("max_pool2d", [image], (shape[0], 1, rows, 1), attributes)
        return self.reshape(pooled, left if keepdim else tuple(shape[dim] for dim in kept))

    def matmul(self, x: Value, y: Value) -> Value:
        """Append a product of matrices; one with a single stored matrix is a layer."""
        if self.stored(y) and len(self.shape(y)) == 2 and not self.stored(x):
            columns = self.shape(y)[1]
            turned = self.tracer.weight(y, (columns, self.shape(y)[0]), lambda m: m.t(), form="t")
            return self.op("fully_connected", [x, turned], (*self.shape(x)[:-1], columns))
        if self.stored(x) and len(self.shape(x)) == 2:  # y = W x is y' = x' W'
            turned = self.swap(y)
            shape = (*self.shape(turned)[:-1], self.shape(x)[0])
            return self.swap(self.op("fully_connected", [turned, x], shape))
        return self.product(x, y)

    def product(self, x: Value, y: Value) -> Value:
        """Append a product of matrices; a batch of 1 serves for all of the other's."""
        rank = max(len(self.shape(x)), len(self.shape(y)))
        x, y = (self.reshape(m, (1,) * (rank - len(self.shape(m))) + self.shape(m)) for m in (x, y))
        (*first, rows, depth), (*second, _, columns) = self.shape(x), self.shape(y)
        if first != second and math.prod(second) == 1:  # one matrix for all: more rows
            whole = (1, math.prod(first) * rows, depth)
            if first[0] == second[0]:
                whole = (first[0], math.prod(first[1:]) * rows, depth)
            pair = self.reshape(x, whole), self.reshape(y, (whole[0], depth, columns))
            return self.reshape(self.product(*pair), (*first, rows, columns))
        if first != second and math.prod(first) == 1:
            return self.swap(self.product(self.swap(y), self.swap(x)))
        if first != second:
            batch = [max(pair) for pair in zip(first, second, strict=True)]
            x, y = self.expand(x, (*batch, rows, depth)), self.expand(y, (*batch, depth, columns))
            first = batch
        return self.op(
            "batch_matmul", [x, y], (*first, rows, columns), {"adj_x": False, "adj_y": False}
        )
