"""Post-training quantization to int8, or to int16 activations with int8 weights (int16x8).

The rules are TFLite's.
Weights are symmetric, int8 in [-127, 127], with a scale per output channel (one for a fully
connected layer, which older runtimes require); activations asymmetric with one scale and zero
point; biases int32 with the scale of the products they are added to. int16 activations are
symmetric, and their biases int64. Ranges of activations are observed on calibration inputs.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array
from torch import nn

from zoo.errors import MismatchError
from zoo.export.floating import FloatNetwork
from zoo.export.graph import BIAS_DTYPE, LIMITS, MAC_KINDS, Graph, Op, Quantization, Tensor
from zoo.export.lower import lower
from zoo.export.rewrite import for_int16

Range = tuple[float, float]
# Runtimes do not rescale in these: output and inputs share one quantization.
_SHARED = frozenset({"reshape", "transpose", "depth_to_space", "concat", "pad"})
_SHARED |= {"max_pool2d", "avg_pool2d", "relu6", "maximum", "minimum"}
_SHARED |= {"resize_nearest", "resize_bilinear"}
_BINS_KEPT = 2**16  # values of one batch that percentiles are taken of


@dataclass(frozen=True, kw_only=True)
class Options:
    """How ranges are chosen, and what activations become.

    Attributes:
        activations: "int8", or "int16" for twice the memory and 256 times the resolution.
        observer: "minmax" (everything seen fits), "percentile" (the largest values are cut) or
            "moving_average" (of each batch's extremes).
        percentile: per cent of the values of a batch inside the range on either side.
        momentum: weight of the past in the moving average.

    """

    activations: Literal["int8", "int16"] = "int8"
    observer: Literal["minmax", "percentile", "moving_average"] = "minmax"
    percentile: float = 99.99
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.activations not in LIMITS:
            raise MismatchError(f"activations are {self.activations!r}; expected int8 or int16")
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
    """Return the integer graph, channels last, of a module in eval mode.

    Args:
        module: on the CPU.
        calibration: batches like those the network will see, `(N, C, H, W)` or whatever it takes.
        input_shape: of one inference, e.g. (1, C, H, W); its sizes may differ from the batches'
            where the network takes any size.
        options: how ranges are chosen.

    Raises:
        MismatchError: the module or the calibration inputs cannot be used; says why.

    """
    (graph,) = quantize_at(module, calibration, [input_shape], options)
    return graph


def quantize_at(
    module: nn.Module,
    calibration: Iterable[Array],
    input_shapes: Iterable[tuple[int, ...]],
    options: Options = Options(),  # frozen
) -> list[Graph]:
    """Return the integer graph for each of several input shapes; see `quantize`."""
    at = functools.cache(functools.partial(prepared, module, options=options))  # a trace is slow
    ranges = _observed(at, calibration, options)
    return [quantize_graph(at(shape), ranges, options.activations) for shape in input_shapes]


def prepared(
    module: nn.Module,
    input_shape: tuple[int, ...],
    options: Options = Options(),  # frozen
) -> Graph:
    """Return the float graph that ranges are observed on and that is quantized with them."""
    graph = lower(module, input_shape)
    return for_int16(graph) if options.activations == "int16" else graph


def calibrate(
    module: nn.Module,
    calibration: Iterable[Array],
    options: Options = Options(),  # frozen
) -> dict[str, Range]:
    """Return the range of every activation of the lowered module, by tensor name."""
    return _observed(functools.partial(prepared, module, options=options), calibration, options)


def _observed(
    at: Callable[[tuple[int, ...]], Graph], calibration: Iterable[Array], options: Options
) -> dict[str, Range]:
    ranges: dict[str, Range] = {}
    network: FloatNetwork | None = None
    shape: tuple[int, ...] = ()
    for number, batch in enumerate(calibration):
        _check_batch(batch, number)
        if network is None or tuple(batch.shape[1:]) != shape:
            shape = tuple(batch.shape[1:])
            network = FloatNetwork(at((1, *shape)))
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


def quantize_graph(
    graph: Graph,
    ranges: Mapping[str, Range],
    activations: Literal["int8", "int16"] = "int8",
    *,
    weight_bits: int = 8,
) -> Graph:
    """Return a float graph, channels last, quantized with these ranges of its activations.

    With fewer than 8 `weight_bits` the weights of convolutions and fully connected layers take
    fewer of int8's values: 4 bits are -7 to 7.
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
        for name in op.inputs:
            if graph.tensors[name].is_parameter and graph.tensors[name].kind != "bias":
                tensors[name], values[name] = _parameter(
                    graph, op, name, meanings, activations, weight_bits
                )
        if op.kind in MAC_KINDS:
            _mac(graph, op, meanings, tensors, values)
        ops.append(_finished(op, meanings, activations))
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=values)


def groups(graph: Graph) -> dict[str, str]:
    """Return, for each activation, the first one (in the graph's order) whose quantization it has.

    Operators that move or choose integers leave them as they are, so that all they read and
    write has one scale and zero point.
    """
    owner = {name: name for name, tensor in graph.tensors.items() if not tensor.is_parameter}

    def find(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for op in graph.ops:
        if op.kind in _SHARED:
            for name in op.inputs:
                if name in owner:
                    owner[find(name)] = find(op.outputs[0])
    first: dict[str, str] = {}
    order = [*graph.inputs, *(name for op in graph.ops for name in op.outputs)]
    return {name: first.setdefault(find(name), name) for name in order}


def quantizations(
    graph: Graph, ranges: Mapping[str, Range], dtype: str = "int8"
) -> dict[str, Quantization]:
    """Return the quantization of each activation; those of a group (see `groups`) share one."""
    owner = groups(graph)
    wide: dict[str, Range] = {}
    for name in owner:
        if name not in ranges:
            raise MismatchError(f"no range of {name!r} was observed; calibrate the same module")
        low, high = ranges[name]
        old = wide.get(owner[name], (0.0, 0.0))  # every range holds 0, which padding needs
        wide[owner[name]] = min(old[0], low), max(old[1], high)
    for op in graph.ops:
        if op.attributes.get("activation") == "clamp":
            group = owner[op.outputs[0]]
            wide[group] = _clamped(op, wide[group])
    if dtype == "int16":
        return _symmetric_activations(graph, {name: wide[owner[name]] for name in owner}, owner)
    meanings = {name: _affine(*wide[group]) for name, group in owner.items()}
    for op in graph.ops:
        if op.kind == "softmax":
            meanings[op.outputs[0]] = Quantization(scales=(1 / 256,), zero_points=(-128,))
        if op.kind in ("add", "sub") and op.inputs[-1] in graph.values:
            _align(graph, op, meanings, {n for n in owner if owner[n] == owner[op.inputs[0]]})
    return meanings


def _symmetric_activations(
    graph: Graph, wide: Mapping[str, Range], owner: Mapping[str, str]
) -> dict[str, Quantization]:
    """Return the int16 quantizations of activations with these ranges.

    LiteRT computes the factor of a MUL in float32, TFLite Micro in float64; in a fully connected
    layer TFLite Micro keeps 15 bits of the factor, LiteRT all. The factors are the same, and
    exact, when the scales of inputs have 8 bits, those of weights 7, and the output's is a power
    of two; of 16 bits of range that costs less than one.
    """
    exact = ("mul", "fully_connected")
    products = {owner[op.outputs[0]] for op in graph.ops if op.kind in exact}
    meanings = {
        name: _symmetric(max(-low, high), 1 if owner[name] in products else 8)
        for name, (low, high) in wide.items()
    }
    for op in graph.ops:
        if op.kind == "softmax":
            meanings[op.outputs[0]] = Quantization(scales=(1 / 32768,), zero_points=(0,))
    return meanings


def _symmetric(largest: float, bits: int) -> Quantization:
    """Return the int16 quantization whose scale has so many bits."""
    scale = _short(max(largest, 1e-6) / LIMITS["int16"][1], bits)
    return Quantization(scales=(scale,), zero_points=(0,))


def _short(scale: float, bits: int) -> float:
    """Return a scale rounded up to so many significant bits."""
    fraction, exponent = math.frexp(scale)
    return math.ldexp(math.ceil(fraction * 2**bits), exponent - bits)


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


def channel_axis(op: Op) -> int | None:
    """Return the dimension of an op's weights that has a scale per index, None where one serves."""
    return {"conv2d": 0, "depthwise_conv2d": 3}.get(op.kind)


def _parameter(
    graph: Graph,
    op: Op,
    name: str,
    meanings: Mapping[str, Quantization],
    activations: str,
    weight_bits: int,
) -> tuple[Tensor, NDArray[Any]]:
    """Quantize weights, slopes and constants symmetrically.

    The constant of a maximum or minimum has the quantization of its operands.
    """
    tensor, value = graph.tensors[name], graph.values[name].astype(np.float64)
    if op.kind in _SHARED or (op.kind not in MAC_KINDS and activations == "int16"):
        meaning = _symmetric(float(np.abs(value).max()), 8)
        if op.kind in _SHARED:
            meaning = meanings[op.outputs[0]]
        steps = np.rint(value / meaning.scale) + meaning.zero_point
        changed = dataclasses.replace(tensor, dtype=activations, quantization=meaning)
        return changed, np.clip(steps, *LIMITS[activations]).astype(activations)
    axis, most = channel_axis(op), 127
    if tensor.kind == "weight":
        most = 2 ** (weight_bits - 1) - 1
    others = tuple(i for i in range(value.ndim) if i != axis) if axis is not None else None
    largest = np.abs(value).max(axis=others)
    largest = np.where(largest > 0, largest, largest.max() or 1.0)  # a dead channel
    scales = np.float32(largest / most).reshape(-1)
    if op.kind == "fully_connected" and activations == "int16":
        scales = np.array([_short(float(scales[0]), 7)], np.float32)
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
    dtype = BIAS_DTYPE[tensors[op.inputs[0]].dtype]
    if np.any(np.abs(integers) >= (2**30 if dtype == "int32" else 2**36)):
        raise MismatchError(
            f"{op.label}: a bias of {np.abs(graph.values[bias]).max():g} is too large for its "
            f"inputs of scale {meanings[op.inputs[0]].scale:g}; calibrate with real inputs"
        )
    values[bias] = integers.astype(dtype)
    meaning = Quantization(
        scales=tuple(float(np.float32(scale)) for scale in scales),
        zero_points=(0,) * scales.size,
        axis=0 if scales.size > 1 else None,
    )
    tensors[bias] = dataclasses.replace(graph.tensors[bias], dtype=dtype, quantization=meaning)


def _finished(op: Op, meanings: Mapping[str, Quantization], activations: str) -> Op:
    attributes = dict(op.attributes)
    if attributes.get("activation") == "clamp":  # the output's range saturates there
        low, _ = attributes.pop("activation_limits")
        del attributes["activation"]
        if low == 0 and activations == "int16":  # whose ranges are symmetric
            attributes["activation"] = "relu"
    if op.kind == "pad":
        meaning, value = meanings[op.outputs[0]], attributes["value"]
        low, high = (limit - meaning.zero_point for limit in LIMITS[activations])
        steps = low if value == -math.inf else round(value / meaning.scale)
        attributes["value"] = int(np.clip(steps, low, high))
    return dataclasses.replace(op, attributes=attributes)
