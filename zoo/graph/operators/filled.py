"""Tensors of one value that take only their shape from another, as a state that starts at zero.

They are no kind of operator: a graph has one size of input, so they are constants of it.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

from zoo.graph.operators.contract import Trace

if TYPE_CHECKING:
    from torch import fx

    from zoo.graph.trace import Tracer


def _reader(usual: float) -> Trace:
    def read(tracer: "Tracer", node: "fx.Node", a: dict[str, Any]) -> None:
        import torch

        value = node.meta["val"]
        shape = tuple(int(size) for size in value.shape)
        call = partial(torch.full, shape, a.get("fill_value", usual), dtype=value.dtype)
        tracer.constant(node, call)

    return read


READERS: dict[str, Trace] = {
    "new_zeros": _reader(0), "zeros_like": _reader(0),
    "new_ones": _reader(1), "ones_like": _reader(1),
    "new_full": _reader(0), "full_like": _reader(0),
}  # fmt: skip
