"""Post-training quantization to int8, or to int16 activations with int8 weights (int16x8).

The rules are TFLite's.
Weights are symmetric, int8 in [-127, 127], with a scale per output channel (one for a fully
connected layer, which older runtimes require); activations as in
`zoo.quantization.int8.scales`; biases int32 (int64 with int16 activations) with the scale of the
products they are added to.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from zoo.errors import MismatchError
from zoo.graph.inputs import Inputs, Shapes
from zoo.graph.ir import BIAS_DTYPE, LIMITS, Graph, Op, Quantization, Tensor
from zoo.graph.kinds import MAC_KINDS, SHARED
from zoo.graph.lower import lower
from zoo.graph.rewrite import for_int16, without_gelu
from zoo.quantization.int8.calibration import Options, Range, observed
from zoo.quantization.int8.masks import with_small_masks
from zoo.quantization.int8.rules import RULES
from zoo.quantization.int8.scales import quantizations, short, symmetric

Values = Mapping[str, NDArray[Any]]  # of a graph's parameters, by tensor name


def quantize(
    module: nn.Module,
    calibration: Iterable[Inputs],
    input_shape: Shapes,
    options: Options = Options(),  # noqa: B008  # frozen
) -> Graph:
    """Return the integer graph, channels last, of a module in eval mode.

    Args:
        module: in eval mode, on the CPU.
        calibration: batches like those the network will see, `(N, C, H, W)` or whatever it takes.
        input_shape: shape of one inference, e.g. (1, C, H, W); its sizes may differ from the
            batches' if the network takes any size.
        options: how ranges are chosen.

    Returns:
        A graph of int8 (or int16) activations, int8 weights and int32 (int64) biases.

    Raises:
        MismatchError: the module or the calibration inputs cannot be used; the message says why.

    ```python
    import torch

    import zoo
    from zoo.quantization.int8.post_training import quantize

    calibration = [torch.rand(1, 1, 32, 32) for _ in range(4)]  # use real inputs
    graph = quantize(zoo.load("sesr-m5-x2"), calibration, (1, 1, 32, 32))
    print(graph.tensors[graph.outputs[0]].dtype)  # int8
    ```
    """
    (graph,) = quantize_at(module, calibration, [input_shape], options)
    return graph


def quantize_at(
    module: nn.Module,
    calibration: Iterable[Inputs],
    input_shapes: Iterable[Shapes],
    options: Options = Options(),  # noqa: B008  # frozen
) -> list[Graph]:
    """Return the integer graph for each of several input shapes; see `quantize`."""
    shapes, known = list(input_shapes), list[tuple[Shapes, Graph]]()

    def at(shape: Shapes) -> Graph:
        for seen, graph in known:  # a trace is slow
            if seen == shape:
                return graph
        known.append((shape, prepared(module, shape, options)))
        return known[-1][1]

    ranges = observed(at, calibration, options, like=shapes[-1])
    return [quantize_graph(at(shape), ranges, options.activations) for shape in shapes]


def prepared(
    module: nn.Module,
    input_shape: Shapes,
    options: Options = Options(),  # noqa: B008  # frozen
) -> Graph:
    """Return the float graph on which ranges are observed, and which is quantized with them."""
    graph = lower(module, input_shape)
    if options.npu:
        graph = without_gelu(graph)
    return with_small_masks(for_int16(graph) if options.activations == "int16" else graph)


def calibrate(
    module: nn.Module,
    calibration: Iterable[Inputs],
    options: Options = Options(),  # noqa: B008  # frozen
) -> dict[str, Range]:
    """Return the range (low, high) of every activation of the lowered module, by tensor name.

    Args:
        module: in eval mode, on the CPU.
        calibration: batches of inputs, `(N, C, H, W)` or whatever the module takes.
        options: how ranges are chosen.

    Raises:
        MismatchError: the module or the calibration inputs cannot be used; the message says why.

    """
    return observed(lambda shape: prepared(module, shape, options), calibration, options)


def quantize_graph(
    graph: Graph,
    ranges: Mapping[str, Range],
    activations: Literal["int8", "int16"] = "int8",
    *,
    weight_bits: int = 8,
    held: Sequence[Values] = (),
) -> Graph:
    """Return a float graph, channels last, quantized with these ranges of its activations.

    An integer q means scale * (q - zero_point). A weight's scale is its largest magnitude over
    2^(weight_bits - 1) - 1, a bias's the input's scale times the weight's.

    Args:
        graph: a lowered graph with values.
        ranges: (low, high) by tensor name; each holds 0.
        activations: type of the activations.
        weight_bits: with fewer than 8, the weights of convolutions and fully connected layers use
            fewer of int8's values: 4 bits are -7 to 7.
        held: sets of values that the same network has at one time or another: a parameter's scale
            is the one that holds all of them, not the graph's own; what lies beyond is clipped.

    Raises:
        MismatchError: an activation has no range, an operator has no integer form, or a bias is
            too large; the message names it.

    """
    meanings = quantizations(graph, ranges, activations)
    tensors: dict[str, Tensor] = {}
    values: dict[str, NDArray[Any]] = {}
    for name, tensor in graph.tensors.items():
        if not tensor.is_parameter:
            tensors[name] = dataclasses.replace(
                tensor, dtype=activations, quantization=meanings[name]
            )
    ops = []
    for op in graph.ops:
        inputs, weight = [], None
        for place, name in enumerate(op.inputs):
            if graph.tensors[name].is_parameter:
                if weight is not None and op.kind in MAC_KINDS:
                    made = _bias(graph, op, weight, meanings[op.inputs[0]], activations)
                else:
                    largest = _largest(op, name, held or [graph.values])
                    made = _parameter(graph, op, name, meanings, activations, weight_bits, largest)
                    weight = made[0]
                # What integers mean depends on the layer: a layer used twice has two biases.
                if name in tensors and tensors[name] != made[0]:
                    name = f"{op.name}.{place}"
                tensors[name], values[name] = dataclasses.replace(made[0], name=name), made[1]
            inputs.append(name)
        op = _finished(dataclasses.replace(op, inputs=tuple(inputs)), meanings, activations)
        ops += _rescaled(op, tensors, meanings, activations)
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=values)


def _rescaled(
    op: Op, tensors: dict[str, Tensor], meanings: Mapping[str, Quantization], activations: str
) -> list[Op]:
    """Return an op, and a rescaling where runtimes fix its output, and others share that tensor."""
    fixed, output = RULES.of(op).fixed.get(activations), op.outputs[0]
    if fixed is None or meanings[output] == fixed:
        return [op]
    exact = f"{output}.exact"
    tensors[exact] = dataclasses.replace(
        tensors[output], name=exact, kind="activation", quantization=fixed
    )
    rescaling = Op(
        name=output, kind="quantize", inputs=(exact,), outputs=(output,), attributes={}, macs=0,
        module=op.module,
    )  # fmt: skip
    return [dataclasses.replace(op, outputs=(exact,)), rescaling]


def _largest(op: Op, name: str, states: Iterable[Values]) -> NDArray[np.float64]:
    """Return the largest magnitude that a parameter has in any state, per scale."""
    axis = RULES.of(op).axis
    found = []
    for values in states:
        value = np.abs(values[name].astype(np.float64))
        others = tuple(i for i in range(value.ndim) if i != axis) if axis is not None else None
        found.append(np.asarray(value.max(axis=others)))
    return np.asarray(np.maximum.reduce(found), np.float64)


def _parameter(
    graph: Graph,
    op: Op,
    name: str,
    meanings: Mapping[str, Quantization],
    activations: str,
    weight_bits: int,
    largest: NDArray[np.float64],
) -> tuple[Tensor, NDArray[Any]]:
    """Quantize weights, slopes and constants symmetrically.

    The constant of a maximum or minimum has the quantization of its operands.
    """
    tensor, value = graph.tensors[name], graph.values[name].astype(np.float64)
    if op.kind in SHARED or (op.kind not in MAC_KINDS and activations == "int16"):
        meaning = symmetric(float(largest.max()), 8)
        if op.kind in SHARED:
            meaning = meanings[op.outputs[0]]
        steps = np.rint(value / meaning.scale) + meaning.zero_point
        changed = dataclasses.replace(tensor, dtype=activations, quantization=meaning)
        return changed, np.clip(steps, *LIMITS[activations]).astype(activations)
    rule = RULES.of(op)
    axis, most = rule.axis, 127
    if tensor.kind == "weight":
        most = 2 ** (weight_bits - 1) - 1
    largest = np.where(largest > 0, largest, largest.max() or 1.0)  # a dead channel
    scales = np.float32(largest / most).reshape(-1)
    if rule.exact and activations == "int16":
        scales = np.array([short(float(scales[0]), 7)], np.float32)
    shape = [1] * value.ndim
    if axis is not None:
        shape[axis] = -1
    integers = np.clip(np.rint(value / scales.reshape(shape).astype(np.float64)), -most, most)
    meaning = Quantization(
        scales=tuple(map(float, scales)),
        zero_points=(0,) * scales.size,
        axis=axis if scales.size > 1 else None,
    )
    changed = dataclasses.replace(tensor, dtype="int8", quantization=meaning)
    return changed, integers.astype(np.int8)


def _bias(
    graph: Graph, op: Op, weight: Tensor, source: Quantization, activations: str
) -> tuple[Tensor, NDArray[Any]]:
    """Quantize the bias of a layer on inputs `source`, with the scale of its products."""
    bias = op.inputs[2]
    assert weight.quantization is not None
    scales = np.array(weight.quantization.scales, np.float64) * source.scale
    integers = np.rint(graph.values[bias].astype(np.float64) / scales)
    dtype = BIAS_DTYPE[activations]
    if np.any(np.abs(integers) >= (2**30 if dtype == "int32" else 2**36)):
        raise MismatchError(
            f"{op.label}: a bias of {np.abs(graph.values[bias]).max():g} is too large for its "
            f"inputs of scale {source.scale:g}; calibrate with real inputs"
        )
    meaning = Quantization(
        scales=tuple(float(np.float32(scale)) for scale in scales),
        zero_points=(0,) * scales.size,
        axis=0 if scales.size > 1 else None,
    )
    changed = dataclasses.replace(graph.tensors[bias], dtype=dtype, quantization=meaning)
    return changed, integers.astype(dtype)


def _finished(op: Op, meanings: Mapping[str, Quantization], activations: str) -> Op:
    attributes = dict(op.attributes)
    if attributes.get("activation") == "clamp":  # the output's range saturates there
        low, _ = attributes.pop("activation_limits")
        del attributes["activation"]
        if low == 0 and activations == "int16":  # whose ranges are symmetric
            attributes["activation"] = "relu"
    attributes |= RULES.of(op).integer(attributes, meanings[op.outputs[0]], activations)
    return dataclasses.replace(op, attributes=attributes)
