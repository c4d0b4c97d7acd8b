"""`IntegerNetwork`: a quantized graph as a module that computes the device's integers."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import KINDS, is_batched
from zoo.runtime import hybrid
from zoo.runtime.floating import activated
from zoo.runtime.integer_base import TYPES, Results, check_inputs
from zoo.runtime.kernels import FLOAT, INTEGER

Kernel = Callable[..., Results]
_CHUNK = 2**21  # elements of the largest activation that are processed at once


class IntegerNetwork(nn.Module):
    """Runs a quantized graph with the arithmetic of TFLite Micro's reference kernels, on the CPU.

    LiteRT's kernels give the same integers except for fully connected layers, which round once
    there and so differ by one step (rarely in int8), for int16 softmax, see `zoo.runtime.lut`, and
    for LSTMs. uint8, which TFLite Micro does not have, is as in LiteRT.

    It takes and returns the integers of the graph's inputs and outputs, channels last, as the
    runtime does: int8 `(N, H, W, C)`. A graph that was made for one sample takes any batch size,
    unless an operation mixes samples or the graph keeps a state. What a graph computes in floats,
    before, between or after its integers, is computed in floats.

    States go from one call to the next, as in the runtimes; `reset` begins anew.

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
        for tensor in graph.tensors.values():
            if tensor.dtype not in TYPES:
                raise MismatchError(
                    f"tensor {tensor.name!r} holds {tensor.dtype}, which nothing here computes with"
                )
        self.graph = graph
        self._steps: list[tuple[Kernel, tuple[str, ...], tuple[str, ...]]] = []
        for op in graph.ops:
            inputs = tuple(name for name in op.inputs if not graph.tensors[name].is_parameter)
            try:
                kernel = _kernel(graph, op)
            except MismatchError as error:
                if str(error).startswith(op.label):
                    raise
                raise MismatchError(f"{op.label}: {error}") from error
            self._steps.append((kernel, inputs, op.outputs))
        self.batched = is_batched(graph)
        self.reset()
        last = {name: step for step, (_, names, _) in enumerate(self._steps) for name in names}
        kept = {*graph.outputs, *(state.next for state in graph.states)}
        # Files may return a constant, or keep one.
        self._fixed = {n: torch.from_numpy(graph.values[n].copy()) for n in kept & {*graph.values}}
        self._dead = [
            [n for n, at in last.items() if at == step and n not in kept]
            for step in range(len(self._steps))
        ]
        computed = [t for t in graph.tensors.values() if not t.is_parameter]
        largest = max((t.elements for t in computed), default=1)
        self._chunk = max(1, _CHUNK // max(largest, 1))

    def reset(self) -> None:
        """Forget what earlier calls left: the next one starts from the initial states."""
        self._states = {s.name: torch.from_numpy(s.initial.copy()) for s in self.graph.states}

    @torch.inference_mode()
    def record(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Return the input and every computed tensor by name, of one call.

        Raises:
            MismatchError: the inputs do not fit, or the network keeps a state between calls.

        """
        check_inputs(self.graph, inputs, batched=self.batched)
        self._refuse_states()
        values = {**self._fixed, **dict(zip(self.graph.inputs, inputs, strict=True))}
        with _full_precision():
            for kernel, names, outputs in self._steps:
                made = kernel(*(values[name] for name in names))
                values |= zip(outputs, made if isinstance(made, tuple) else (made,), strict=True)
        return values

    def live(self, step: int) -> list[str]:
        """Return the tensors that operators from `step` on, or the outputs, need of earlier ones.

        A step is the place of an operator in `graph.ops`.
        """
        made = {name for _, _, outputs in self._steps[step:] for name in outputs}
        read = [name for _, names, _ in self._steps[step:] for name in names]
        needed = dict.fromkeys([*read, *self.graph.outputs])
        return [name for name in needed if name not in made and name not in self._fixed]

    @torch.inference_mode()
    def run_from(self, step: int, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the outputs that follow from tensors at hand, by the operators from `step` on.

        Args:
            step: the place of the first operator to run in `graph.ops`.
            values: at least the tensors that `live(step)` names, of as many samples each, unless
                the graph mixes samples.

        Raises:
            MismatchError: a tensor is missing, or the network keeps a state between calls.

        """
        self._refuse_states()
        if missing := [name for name in self.live(step) if name not in values]:
            raise MismatchError(f"running from step {step} needs the tensor {missing[0]!r}")
        held = {**self._fixed, **values}
        with _full_precision():
            for (kernel, names, outputs), dead in zip(
                self._steps[step:], self._dead[step:], strict=True
            ):
                made = kernel(*(held[name] for name in names))
                held |= zip(outputs, made if isinstance(made, tuple) else (made,), strict=True)
                for name in dead:
                    held.pop(name, None)
        return tuple(held[name].contiguous() for name in self.graph.outputs)

    def _refuse_states(self) -> None:
        if self.graph.states:
            raise MismatchError("a network that keeps a state between calls is run as a whole")

    @torch.inference_mode()
    def forward(self, *inputs: Tensor) -> Results:
        """Return the output integers (a tuple if there are several) for the input integers."""
        check_inputs(self.graph, inputs, batched=self.batched)
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

    def _run(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = {
            **self._fixed,
            **dict(zip(self.graph.inputs, inputs, strict=True)),
            **self._states,
        }
        for (kernel, names, outputs), dead in zip(self._steps, self._dead, strict=True):
            made = kernel(*(values[name] for name in names))
            values |= zip(outputs, made if isinstance(made, tuple) else (made,), strict=True)
            for name in dead:
                values.pop(name, None)
        self._states = {state.name: values[state.next] for state in self.graph.states}
        return tuple(values[name].contiguous() for name in self.graph.outputs)


def _kernel(graph: Graph, op: Op) -> Kernel:
    """Return the function of an op's computed operands: of integers, or of floats and the like."""
    operands = [name for name in op.inputs if not graph.tensors[name].is_parameter]
    tensors = [graph.tensors[name] for name in (*operands, *op.outputs)]
    numbers = all(tensor.quantization is None for tensor in tensors)
    real = all(tensor.dtype == "float32" for tensor in tensors)
    if not numbers or not (real or KINDS[op.kind].plain):
        return INTEGER.of(op)(graph, op)
    compute = FLOAT.of(op)
    for name in op.inputs:
        tensor = graph.tensors[name]
        fits = tensor.quantization is None and (tensor.dtype == "float32" or not real)
        if not fits and op.kind not in hybrid.KINDS:
            raise MismatchError(f"its operand {name!r} is {tensor.dtype}; expected float32")
    constants = {
        name: torch.from_numpy(graph.values[name].copy())
        for name in op.inputs
        if graph.tensors[name].is_parameter
    }

    def run(*given: Tensor) -> Results:
        values = constants | dict(zip(operands, given, strict=True))
        made = compute(graph, op, *(values[name] for name in op.inputs))
        return made if isinstance(made, tuple) else activated(op, made)

    return run


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
