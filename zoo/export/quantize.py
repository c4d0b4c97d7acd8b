"""Post-training quantization to int8, after TFLite's rules.

Weights are symmetric, int8 in [-127, 127], with a scale per output channel (one for a fully
connected layer, which older runtimes require); activations asymmetric with one scale and zero
point; biases int32 with the scale of the products they are added to. Ranges of activations are
observed on calibration inputs.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array
from torch import nn

from zoo.errors import MismatchError
from zoo.export.floating import FloatNetwork
from zoo.export.graph import MAC_KINDS, Graph, Op, Quantization, Tensor
from zoo.export.lower import lower

Range = tuple[float, float]
# Runtimes do not rescale in these: output and inputs share one quantization.
_SHARED = frozenset({"reshape", "transpose", "depth_to_space", "concat", "pad"})
_SHARED |= {"max_pool2d", "avg_pool2d", "relu6"}
_BINS_KEPT = 2**16  # values of one batch that percentiles are taken of


@dataclass(frozen=True, kw_only=True)
class Options:
    """How ranges are chosen.

    Attributes:
        observer: "minmax" (everything seen fits), "percentile" (the largest values are cut) or
            "moving_average" (of each batch's extremes).
        percentile: per cent of the values of a batch inside the range on either side.
        momentum: weight of the past in the moving average.

    """

    observer: Literal["minmax", "percentile", "moving_average"] = "minmax"
    percentile: float = 99.99
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.observer not in ("minmax", "percentile", "moving_average"):
            raise MismatchError(
                f"observer is {self.observer!r}; expected minmax, percentile or moving_average"
            )
        if not 50 < self.percentile <= 100 or not 0 <= self.momentum < 1:
            raise MismatchError(
                f"percentile is {self.percentile} (50 to 100), momentum {self.momentum} (0 to 1)"
            )


def quantize(
    module: nn.Module,
    calibration: Iterable[Array],
    input_shape: tuple[int, ...],
    options: Options = Options(),  # frozen
) -> Graph:
    """Return the int8 graph, channels last, of a module in eval mode.

    Args:
        module: on the CPU.
        calibration: batches like those the network will see, `(N, C, H, W)` or whatever it takes.
        input_shape: of one inference, e.g. (1, C, H, W); its sizes may differ from the batches'
            where the network takes any size.
        options: how ranges are chosen.

    Raises:
        MismatchError: the module or the calibration inputs cannot be used; says why.

    """
    ranges = calibrate(module, calibration, options)
    return quantize_graph(lower(module, input_shape), ranges)


def calibrate(
    module: nn.Module,
    calibration: Iterable[Array],
    options: Options = Options(),  # frozen
) -> dict[str, Range]:
    """Return the range of every activation of the lowered module, by tensor name."""
    ranges: dict[str, Range] = {}
    network: FloatNetwork | None = None
    shape: tuple[int, ...] = ()
    for number, batch in enumerate(calibration):
        _check_batch(batch, number)
        if network is None or tuple(batch.shape[1:]) != shape:
            shape = tuple(batch.shape[1:])
            network = FloatNetwork(lower(module, (1, *shape)))
        seen: dict[str, Range] = {}

        def observe(name: str, value: Array, seen: dict[str, Range] = seen) -> None:
            seen[name] = _extremes(name, value, options)

        network(batch.permute(0, 2, 3, 1) if batch.ndim == 4 else batch, observe=observe)
        for name, found in seen.items():
            ranges[name] = _merged(ranges.get(name), found, options)
    if network is None:
        raise MismatchError("there are no calibration inputs; give at least one batch")
    return ranges


def _check_batch(batch: Array, number: int) -> None:
    if not isinstance(batch, Array) or not batch.is_floating_point() or batch.ndim < 2:
        what = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Array) else type(batch)
        raise MismatchError(f"calibration batch {number} is {what}; expected floats (N, ...)")
    if not batch.numel() or not bool(torch.isfinite(batch).all()):
        raise MismatchError(f"calibration batch {number} is empty or not finite")
    if float(batch.amax()) == float(batch.amin()):
        raise MismatchError(
            f"calibration batch {number} is constant ({float(batch.amax()):g}): ranges cannot be "
            "learned from it; give real inputs"
        )


def _extremes(name: str, value: Array, options: Options) -> Range:
    low, high = (float(limit) for limit in torch.aminmax(value))
    if low == -math.inf and math.isfinite(high):  # the padding of a max pool
        value = value[torch.isfinite(value)]
        low = float(value.amin())
    if not math.isfinite(low) or not math.isfinite(high):
        raise MismatchError(f"{name} is not finite on the calibration inputs")
    if options.observer != "percentile":
        return low, high
    flat = value.flatten()
    step = max(1, flat.numel() // _BINS_KEPT)  # evenly, so that the result is the same each time
    top = options.percentile / 100
    cuts = torch.quantile(flat[::step].double(), torch.tensor([1 - top, top]).double())
    return float(cuts[0]), float(cuts[1])


def _merged(old: Range | None, new: Range, options: Options) -> Range:
    if old is None:
        return new
    if options.observer == "moving_average":
        m = options.momentum
        return m * old[0] + (1 - m) * new[0], m * old[1] + (1 - m) * new[1]
    return min(old[0], new[0]), max(old[1], new[1])


def quantize_graph(graph: Graph, ranges: Mapping[str, Range]) -> Graph:
    """Return a float graph, channels last, quantized with these ranges of its activations."""
    meanings = _activations(graph, ranges)
    tensors: dict[str, Tensor] = {}
    values: dict[str, NDArray[Any]] = {}
    for name, tensor in graph.tensors.items():
        if not tensor.is_parameter:
            tensors[name] = dataclasses.replace(tensor, dtype="int8", quantization=meanings[name])
    ops = []
    for op in graph.ops:
        for name in op.inputs:
            if graph.tensors[name].is_parameter and graph.tensors[name].kind != "bias":
                tensors[name], values[name] = _parameter(graph, op, name)
        if op.kind in MAC_KINDS:
            _mac(graph, op, meanings, tensors, values)
        ops.append(_finished(op, meanings))
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=values)


def _activations(graph: Graph, ranges: Mapping[str, Range]) -> dict[str, Quantization]:
    """Return the quantization of each activation; shared ones get one."""
    owner = {name: name for name, tensor in graph.tensors.items() if not tensor.is_parameter}

    def find(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for op in graph.ops:
        if op.kind in _SHARED:
            for name in op.inputs:
                owner[find(name)] = find(op.outputs[0])
    wide: dict[str, Range] = {}
    for name in owner:
        if name not in ranges:
            raise MismatchError(f"no range of {name!r} was observed; calibrate the same module")
        low, high = ranges[name]
        old = wide.get(find(name), (0.0, 0.0))  # every range holds 0, which padding needs
        wide[find(name)] = min(old[0], low), max(old[1], high)
    for op in graph.ops:
        if op.attributes.get("activation") == "clamp":
            wide[find(op.outputs[0])] = _clamped(op, wide[find(op.outputs[0])])
    meanings = {name: _affine(*wide[find(name)]) for name in owner}
    for op in graph.ops:
        if op.kind == "softmax":
            meanings[op.outputs[0]] = Quantization(scales=(1 / 256,), zero_points=(-128,))
        if op.kind in ("add", "sub") and op.inputs[-1] in graph.values:
            _align(graph, op, meanings, {n for n in owner if find(n) == find(op.inputs[0])})
    return meanings


def _clamped(op: Op, seen: Range) -> Range:
    """Return the range that makes saturation do the work of a clamp."""
    low, high = op.attributes["activation_limits"]
    low, high = seen[0] if low is None else low, seen[1] if high is None else high
    if not low <= 0 <= high or low == high:
        raise MismatchError(f"{op.label}: a clamp to ({low}, {high}) does not hold 0")
    return float(low), float(high)


def _affine(low: float, high: float) -> Quantization:
    scale = float(np.float32(max(high - low, 1e-8) / 255))
    zero = int(np.clip(round(-128 - low / scale), -128, 127))
    return Quantization(scales=(scale,), zero_points=(zero,))


def _align(graph: Graph, op: Op, meanings: dict[str, Quantization], shared: set[str]) -> None:
    """Make `x + scalar` exact: the scalar a whole number of steps, the output shifted by it.

    SESR begins with y - 0.5: with y in 254 steps instead of 255, 0.5 is 127 of them.
    """
    constant = graph.values[op.inputs[-1]]
    source = meanings[op.inputs[0]]
    if constant.size != 1 or op.inputs[0] in graph.values or "activation" in op.attributes:
        return
    added = float(constant.flat[0]) * (1 if op.kind == "add" else -1)
    steps = math.floor(abs(added) / source.scale + 1e-6)
    if not steps:
        return
    scale = float(np.float32(abs(added) / steps))
    zero = source.zero_point - int(math.copysign(steps, added))
    if not -128 <= zero <= 127:
        return
    for name in shared:
        meanings[name] = Quantization(scales=(scale,), zero_points=(source.zero_point,))
    meanings[op.outputs[0]] = Quantization(scales=(scale,), zero_points=(zero,))


def _parameter(graph: Graph, op: Op, name: str) -> tuple[Tensor, NDArray[np.int8]]:
    """Quantize weights, slopes and constants symmetrically."""
    tensor, value = graph.tensors[name], graph.values[name].astype(np.float64)
    axis = None
    if op.kind in ("conv2d", "depthwise_conv2d"):
        axis = 3 if op.kind == "depthwise_conv2d" else 0
    others = tuple(i for i in range(value.ndim) if i != axis) if axis is not None else None
    largest = np.abs(value).max(axis=others)
    largest = np.where(largest > 0, largest, largest.max() or 1.0)  # a dead channel
    scales = np.float32(largest / 127).reshape(-1)
    shape = [1] * value.ndim
    if axis is not None:
        shape[axis] = -1
    integers = np.clip(np.rint(value / scales.reshape(shape).astype(np.float64)), -127, 127)
    meaning = Quantization(
        scales=tuple(map(float, scales)),
        zero_points=(0,) * scales.size,
        axis=axis if scales.size > 1 else None,
    )
    changed = dataclasses.replace(tensor, dtype="int8", quantization=meaning)
    return changed, integers.astype(np.int8)


def _mac(
    graph: Graph,
    op: Op,
    meanings: Mapping[str, Quantization],
    tensors: dict[str, Tensor],
    values: dict[str, NDArray[Any]],
) -> None:
    """Quantize the bias of a layer, with the scale of its products."""
    if len(op.inputs) < 3:
        return
    bias, weight = op.inputs[2], tensors[op.inputs[1]].quantization
    assert weight is not None
    scales = np.array(weight.scales, np.float64) * meanings[op.inputs[0]].scale
    integers = np.rint(graph.values[bias].astype(np.float64) / scales)
    if np.any(np.abs(integers) >= 2**30):
        raise MismatchError(
            f"{op.label}: a bias of {np.abs(graph.values[bias]).max():g} is too large for its "
            f"inputs of scale {meanings[op.inputs[0]].scale:g}; calibrate with real inputs"
        )
    values[bias] = integers.astype(np.int32)
    meaning = Quantization(
        scales=tuple(float(np.float32(scale)) for scale in scales),
        zero_points=(0,) * scales.size,
        axis=0 if scales.size > 1 else None,
    )
    tensors[bias] = dataclasses.replace(graph.tensors[bias], dtype="int32", quantization=meaning)


def _finished(op: Op, meanings: Mapping[str, Quantization]) -> Op:
    attributes = dict(op.attributes)
    if attributes.get("activation") == "clamp":  # the output's range saturates there
        del attributes["activation"], attributes["activation_limits"]
    if op.kind == "pad":
        meaning, value = meanings[op.outputs[0]], attributes["value"]
        lowest = -128 - meaning.zero_point
        steps = lowest if value == -math.inf else round(value / meaning.scale)
        attributes["value"] = int(np.clip(steps, lowest, 127 - meaning.zero_point))
    return dataclasses.replace(op, attributes=attributes)
