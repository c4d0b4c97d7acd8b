"""What a module computes from its parameters alone: done once, before it is deployed.

Weight norm, reparametrized kernels, means given as lists and bent to (1, C, 1, 1), tables of
positions: none of it depends on the input, so a device stores the results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree

from zoo.graph.ir import Graph


@dataclass(frozen=True)
class Ref:
    """A parameter or a derived value among the arguments of a `Derived`."""

    name: str
    source: str
    dtype: torch.dtype | None


@dataclass(frozen=True)
class Derived:
    """One step of such a computation.

    Attributes:
        name: of the result, in the graph.
        source: what `Tensor.source` calls the result: no name of a state dict.
        call: a pure function of torch.
        arguments: its positional and named arguments, with a `Ref` for each tensor.

    """

    name: str
    source: str
    call: Callable[..., Any]
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]]


def with_derived(
    graph: Graph, state: Mapping[str, NDArray[np.float32]]
) -> Mapping[str, NDArray[np.float32]]:
    """Return a state, if it is not empty, with what the graph derives from it, in float32."""
    if not state or not graph.derived:
        return state
    results: dict[str, Any] = {}

    def value(item: Any) -> Any:
        if not isinstance(item, Ref):
            return item
        if item.name in results:
            return results[item.name]
        return torch.from_numpy(state[item.source]).to(item.dtype)

    with torch.no_grad():
        for step in graph.derived:
            positional, named = _pytree.tree_map(value, step.arguments)
            results[step.name] = step.call(*positional, **named)
    return {
        **state,
        **{
            step.source: results[step.name].to("cpu", torch.float32).numpy()
            for step in graph.derived
            if isinstance(results[step.name], torch.Tensor)
        },
    }
