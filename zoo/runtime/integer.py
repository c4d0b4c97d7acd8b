"""`IntegerNetwork`: a quantized graph as a module that computes the device's integers."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import KINDS
from zoo.runtime.integer_base import TYPES, Kernel
from zoo.runtime.kernels import INTEGER

_CHUNK = 2**21  # elements of the largest activation that are processed at once


class IntegerNetwork(nn.Module):
    """Runs a quantized graph with the arithmetic of TFLite Micro's reference kernels, on the CPU.

    LiteRT's kernels give the same integers except for fully connected layers, which round once
    there and so differ by one step (rarely in int8), and for int16 softmax, see `zoo.runtime.lut`.

    It takes and returns the integers of the graph's inputs and outputs, channels last, as the
    runtime does: int8 `(N, H, W, C)`. A graph that was made for one sample takes any batch size,
    unless an operation mixes samples.

    How it is both exact and fast is explained in `zoo.runtime.integer_products` (sums),
    `zoo.runtime.rescale` (rounding) and `zoo.runtime.integer_tables` (tables).

    Args:
        graph: a graph in the layout "channels_last", with values.

    Raises:
        MismatchError: an operator or type has no integer semantics here, or constants are
            inconsistent; the message names the operator.

    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if graph.layout != "channels_last":
            raise MismatchError("an integer network needs the layout channels_last")
        self.graph = graph
        self._steps: list[tuple[Kernel, tuple[str, ...], str]] = []
        for op in graph.ops:
            make = INTEGER.of(op)
            inputs = tuple(name for name in op.inputs if not graph.tensors[name].is_parameter)
            try:
                kernel = make(graph, op)
            except MismatchError as error:
                raise MismatchError(f"{op.label}: {error}") from error
            self._steps.append((kernel, inputs, op.outputs[0]))
        self.batched = _is_batched(graph)
        last = {name: step for step, (_, names, _) in enumerate(self._steps) for name in names}
        self._dead = [
            [n for n, at in last.items() if at == step and n not in graph.outputs]
            for step in range(len(self._steps))
        ]
        computed = [t for t in graph.tensors.values() if not t.is_parameter]
        largest = max((t.elements for t in computed), default=1)
        self._chunk = max(1, _CHUNK // max(largest, 1))

    @torch.inference_mode()
    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the output integers (a tuple if there are several) for the input integers."""
        for name, given in zip(self.graph.inputs, inputs, strict=True):
            self._check_input(name, given)
        count = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
        with _full_precision():
            if not self.batched or count <= self._chunk:
                results = self._run(inputs)
            else:
                parts = [
                    self._run(tuple(x[i : i + self._chunk] for x in inputs))
                    for i in range(0, count, self._chunk)
                ]
                results = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        return results[0] if len(results) == 1 else results

    def _check_input(self, name: str, given: Tensor) -> None:
        tensor = self.graph.tensors[name]
        wanted = tensor.shape
        sample = self.batched and given.ndim == len(wanted)
        fits = given.shape[1:] == wanted[1:] if sample else given.shape == wanted
        if not fits or given.dtype is not TYPES[tensor.dtype]:
            shape = ("N", *wanted[1:]) if self.batched else wanted
            raise MismatchError(
                f"input {name!r} is {given.dtype} {tuple(given.shape)}; expected {tensor.dtype} "
                f"({', '.join(map(str, shape))}), channels last"
            )

    def _run(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        for (kernel, names, output), dead in zip(self._steps, self._dead, strict=True):
            values[output] = kernel(*(values[name] for name in names))
            for name in dead:
                values.pop(name, None)
        return tuple(values[name].contiguous() for name in self.graph.outputs)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Keep float32 products exact, whatever precision the user has allowed elsewhere."""
    modules: list[Any] = [getattr(torch.backends.mkldnn, name) for name in ("conv", "matmul")]
    before = [module.fp32_precision for module in modules]
    try:
        for module in modules:
            module.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        for module, precision in zip(modules, before, strict=True):
            module.fp32_precision = precision


def _is_batched(graph: Graph) -> bool:
    """Whether every operation treats all samples of a batch the same, so that N may replace 1."""
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
