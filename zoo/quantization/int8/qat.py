"""Quantization-aware training, for any recipe: `zoo train NAME --set quant=int8`.

The lowered graph, the one that is exported, is trained: channels last, batch norms folded
into the layers before them (so their statistics are frozen), activations fused. Its forward pass
rounds weights, biases and activations where the device rounds; see `zoo.quantization.int8.fake` for
the gradients. Activations that the device keeps in one quantization share one range here too,
because scales and zero points come from the function the exporter calls. The deployed form, a
`QuantizedNetwork`, is what is evaluated and kept: the integers themselves.

The forward pass differs from the device's by at most one step of an activation, and only where
float32 rounds a sum across the midpoint of two steps, or the device rounds twice.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op, Quantization
from zoo.graph.kinds import MAC_KINDS
from zoo.graph.lower import lower
from zoo.quantization.int8.calibration import Options, Range
from zoo.quantization.int8.fake import (
    fake_quantize,
    round_bias,
    round_weight,
    weight_steps,
)
from zoo.quantization.int8.network import QuantizedNetwork, by_label, labels
from zoo.quantization.int8.post_training import calibrate
from zoo.quantization.int8.rules import RULES
from zoo.quantization.int8.scales import groups, quantizations
from zoo.registry.recipe import WEIGHT_BITS
from zoo.runtime.floating import activated
from zoo.runtime.kernels import FLOAT

_LARGEST_INDEX = 2**24  # whole numbers that float32 holds
_LEAST = 1e-12
_SMALLEST = 1e-3  # share of a limit's first value: a range never turns around
_RANGE_RATE = 10  # Adam's steps are as long as the learning rate, too short for numbers near 1


def training_form(
    network: nn.Module,
    batches: Sequence[Tensor],
    scheme: str,
    options: Options | None = None,
    form: "type[QatNetwork] | None" = None,
) -> "QatNetwork":
    """Return the training form of a deployed network, with ranges learned from some batches.

    Args:
        network: with the weights to start from, in eval mode; it is left alone.
        batches: inputs `(N, C, H, W)`, or whatever the network takes, all of one size.
        scheme: "int8" or "int8-w4", as in `Train.quant`.
        options: how the ranges to start from are chosen.
        form: a class with the parameters of `QatNetwork`, which is the default.

    Raises:
        MismatchError: the network has no lowered form (the operator is named), or the batches
            cannot be used.

    """
    if isinstance(network, QuantizedNetwork):
        network = network.network
    shape = (1, *batches[0].shape[1:])
    graph = lower(network, shape)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise MismatchError(f"{type(network).__name__} does not have one input and one output")
    ranges = calibrate(network, batches, options or Options())
    return (form or QatNetwork)(network, shape, by_label(graph, ranges), scheme)


class QatNetwork(nn.Module):
    """The training form: same inputs and outputs as the deployed network, rounded as in int8.

    Args:
        network: the deployed float network.
        input_shape: shape of one training input, (1, C, H, W).
        ranges: ranges to start from, by label, see `zoo.quantization.int8.network`.
        scheme: "int8" or "int8-w4".

    """

    limits: Tensor
    free: Tensor

    def __init__(
        self,
        network: nn.Module,
        input_shape: tuple[int, ...],
        ranges: Mapping[str, Range],
        scheme: str,
    ) -> None:
        super().__init__()
        graph = lower(network, input_shape)
        self.scheme, self.bits = scheme, WEIGHT_BITS[scheme]
        self._graph, self._groups, self._labels = graph, groups(graph), labels(graph)
        self._rows = {name: row for row, name in enumerate(self._labels)}
        self._shell = [_neutral(network)]  # in a list: a plain value, not a part to be trained
        self._places = _places(network, graph, input_shape)
        self.weights = nn.ParameterDict()
        self._names: dict[str, str] = {}  # tensor -> key, which holds no dots
        for name, value in graph.values.items():
            kept = torch.from_numpy(value.copy())
            self._names[name] = key = name.replace(".", "_")
            if name in self._places:
                self.weights[key] = nn.Parameter(kept)
            else:
                self.register_buffer(f"constant_{key}", kept, persistent=False)
        start = [ranges[self._labels[name]] for name in self._rows]
        self.register_buffer("limits", torch.tensor(start, dtype=torch.float32))
        # Ranges are trained relative to what they were, so that one learning rate serves them all.
        self.gains = nn.Parameter(torch.zeros_like(self.limits))
        self.register_buffer("free", self._trainable(), persistent=False)

    def _trainable(self) -> Tensor:
        """Return which limits `(groups, 2)` are free: the others follow from something else."""
        graph, free = self._graph, torch.ones_like(self.limits)
        meanings = self._meanings(self.limits)
        for op in graph.ops:
            row = self._rows[self._groups[op.outputs[0]]]
            rule = RULES.of(op)
            if rule.fixed:
                free[row] = 0
            elif op.attributes.get("activation") == "clamp":
                for side, limit in enumerate(op.attributes["activation_limits"]):
                    free[row, side] = float(limit is None)
            elif rule.sign and op.inputs[-1] in graph.values:
                aligned = meanings[op.outputs[0]].scale == meanings[op.inputs[0]].scale
                free[row] = float(not aligned)
        return free

    def ranges(self) -> Tensor:
        """Return (low, high) of each group of quantizations, `(groups, 2)`."""
        return self.limits * (1 + self.free * (_RANGE_RATE * self.gains).clamp_min(_SMALLEST - 1))

    def _meanings(self, ranges: Tensor) -> dict[str, Quantization]:
        pairs = ranges.tolist()
        return quantizations(
            self._graph, {n: tuple(pairs[self._rows[group]]) for n, group in self._groups.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for `(N, C, H, W)`, or whatever the network takes."""
        with torch.autocast(x.device.type, enabled=False):
            return self._run(x.float())

    def _run(self, x: Tensor) -> Tensor:
        graph, ranges = self._graph, self.ranges()
        meanings = self._meanings(ranges.detach())

        def on_grid(name: str, value: Tensor, nudge: Tensor | None = None) -> Tensor:
            row = self._rows[self._groups[name]]
            return fake_quantize(value, ranges[row], meanings[name], nudge)

        name = graph.inputs[0]
        values = {name: on_grid(name, x.permute(0, 2, 3, 1) if x.ndim == 4 else x)}
        for op in graph.ops:
            parameters, scales = self._rounded(op, meanings)
            operands = [parameters[n] if n in parameters else values[n] for n in op.inputs]
            if op.kind == "rsqrt":  # a variance may round to 0, where the slope is infinite
                operands = [operands[0].clamp_min(_LEAST)]
            result = activated(op, FLOAT[op.kind](graph, op, *operands))
            rule = RULES.of(op)
            if not rule.on_grid(op):
                nudge = rule.nudge(op, operands[0], result, scales, meanings)
                result = on_grid(op.outputs[0], result, nudge)
            values[op.outputs[0]] = result
        y = values[graph.outputs[0]]
        return y.permute(0, 3, 1, 2) if y.ndim == 4 else y

    def _value(self, name: str) -> Tensor:
        key = self._names[name]
        value = self.weights[key] if key in self.weights else getattr(self, f"constant_{key}")
        assert isinstance(value, Tensor)
        return value

    def _rounded(
        self, op: Op, meanings: Mapping[str, Quantization]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return an op's constants, rounded as the exporter rounds them, and their scales."""
        constants: dict[str, Tensor] = {}
        scales = torch.ones(1, dtype=torch.float64)
        for name in op.inputs:
            if name not in self._graph.values:
                continue
            value, kind = self._value(name), self._graph.tensors[name].kind
            if kind == "bias" and op.kind in MAC_KINDS:
                products = scales * meanings[op.inputs[0]].scale
                constants[name] = round_bias(value, products)
            else:
                constants[name], scales = self._parameter(op, name, value)
        return constants, scales

    def _parameter(self, op: Op, name: str, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return a weight, slope or constant as the device has it, and its scales."""
        bits = self.bits if self._graph.tensors[name].kind == "weight" else 8
        steps = weight_steps(value, RULES.of(op).axis, bits)
        return round_weight(value, steps, bits), steps.flatten()

    def _stored(self, name: str) -> Tensor:
        """Return what a checkpoint keeps of a constant that was trained."""
        return self._value(name)

    @torch.no_grad()
    def deployed(self) -> QuantizedNetwork:
        """Return the float network with the trained weights, and its ranges, on the CPU."""
        network = copy.deepcopy(self._shell[0])
        parameters = dict(network.named_parameters(remove_duplicate=False))
        for name, (source, index) in self._places.items():
            parameter = parameters[source]
            flat = parameter.clone().flatten()
            flat[torch.from_numpy(index).flatten()] = self._stored(name).cpu().flatten()
            parameter.copy_(flat.view(parameter.shape))
        pairs = self.ranges().cpu().tolist()
        named = {label: tuple(pairs[self._rows[name]]) for name, label in self._labels.items()}
        return QuantizedNetwork(network.eval(), named, self.scheme)


def _neutral(network: nn.Module) -> nn.Module:
    """Return a copy on the CPU whose batch norms do nothing: they are folded into the weights."""
    shell = copy.deepcopy(network).to("cpu", torch.float32).eval()
    for module in shell.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_parameters()
            assert module.running_var is not None
            module.running_var.fill_(1 - module.eps)
    return shell


def _others(shell: nn.Module, trained: set[str]) -> list[nn.Parameter]:
    """Return the parameters that are neither trained as they are nor folded into those."""
    named = dict(shell.named_parameters(remove_duplicate=False))
    known = {id(named[name]) for name in trained}
    known |= {
        id(parameter)
        for part in shell.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        for parameter in part.parameters()
    }
    return [parameter for parameter in shell.parameters() if id(parameter) not in known]


def _places(
    network: nn.Module, graph: Graph, input_shape: tuple[int, ...]
) -> dict[str, tuple[str, NDArray[np.int64]]]:
    """Return, for each constant that is trained, its parameter and where each element goes.

    Lowering moves elements about (transposes, reshapes). A network that holds each element's
    place as its value, lowered too, shows where they went.
    """
    shell = _neutral(network)
    parameters = dict(shell.named_parameters(remove_duplicate=False))
    sources = {name: graph.tensors[name].source for name in graph.values}
    trained = {name: source for name, source in sources.items() if source in parameters}
    if twice := [s for s, uses in Counter(trained.values()).items() if uses > 1]:
        raise MismatchError(
            f"{twice[0]} is used in several forms (with different norms, or on images flattened "
            "differently), which cannot be trained as one; give each use a layer of its own"
        )
    with torch.no_grad():
        for source in set(trained.values()):
            parameter = parameters[source]
            if parameter.numel() > _LARGEST_INDEX:
                raise MismatchError(
                    f"{source} has {parameter.numel()} elements; quantization-aware training "
                    f"takes up to {_LARGEST_INDEX}"
                )
            places = torch.arange(parameter.numel(), dtype=torch.float32)
            parameter.copy_(places.view(parameter.shape))
        for parameter in _others(shell, set(trained.values())):
            parameter.add_(1)  # what is derived from it shows as lost
    moved = lower(shell, input_shape).values
    lost = [
        n for n in sources if n not in trained and not np.array_equal(moved[n], graph.values[n])
    ]
    derived = [sources[n] for n in lost if sources[n].startswith("(")]
    if derived:
        raise MismatchError(
            f"{type(network).__name__} has a weight {derived[0]} that is made of parameters before "
            "it is deployed (layers of signals, transposed ones, weight norms), and such weights "
            "cannot be trained quantized; quantize the trained network: zoo compress --method int8"
        )
    if lost:
        raise MismatchError(
            f"{type(network).__name__} has a batch norm without scale and shift, so that what it "
            f"does ({lost[0]}) cannot be kept; quantization-aware training needs affine=True"
        )
    return {
        name: (source, np.rint(moved[name]).astype(np.int64)) for name, source in trained.items()
    }
