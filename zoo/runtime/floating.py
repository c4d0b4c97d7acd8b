"""`FloatNetwork`: a channels-last float graph as a module; what calibration observes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.fuse import LIMITS
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import is_batched
from zoo.runtime.integer_base import check_inputs
from zoo.runtime.kernels import FLOAT

Observer = Callable[[str, Tensor], None]


class FloatNetwork(nn.Module):
    """Runs a float graph in the layout "channels_last", on the CPU.

    It takes any batch of samples, if no operator mixes them: see `batched`.

    Args:
        graph: a graph with values, from `zoo.graph.lower` or from a float `.tflite` file.

    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        for op in graph.ops:
            FLOAT.of(op)
        wrong = [t.name for t in graph.tensors.values() if t.dtype != "float32"]
        if wrong or graph.layout != "channels_last":
            raise MismatchError(f"a float network needs float32 tensors; {wrong[:1]} is not")
        if graph.states:
            raise MismatchError("a network with states between calls is an IntegerNetwork")
        self.batched = is_batched(graph)
        self._values = {name: torch.from_numpy(v.copy()) for name, v in graph.values.items()}

    @torch.inference_mode()
    def forward(
        self, *inputs: Tensor, observe: Observer | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """Return the output (a tuple if there are several).

        `observe` is called with the name and value of every activation.
        """
        check_inputs(self.graph, inputs, batched=True)
        values = dict(self._values)
        for name, value in zip(self.graph.inputs, inputs, strict=True):
            values[name] = value
            if observe:
                observe(name, value)
        for op in self.graph.ops:
            made = FLOAT[op.kind](self.graph, op, *(values[name] for name in op.inputs))
            several = made if isinstance(made, tuple) else (activated(op, made),)
            for name, result in zip(op.outputs, several, strict=True):
                values[name] = result
                if observe:
                    observe(name, result)
        results = tuple(values[name] for name in self.graph.outputs)
        return results[0] if len(results) == 1 else results


def activated(op: Op, x: Tensor) -> Tensor:
    """Apply the activation that is fused into an op."""
    activation = op.attributes.get("activation")
    if activation is None:
        return x
    low, high = LIMITS.get(activation) or op.attributes["activation_limits"]
    return x.clamp(low, high)
