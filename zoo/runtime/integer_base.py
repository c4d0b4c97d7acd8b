"""What the integer kernels share: quantization of operands, ranges of results, constants.

Between operators a tensor holds the stored integers, in the type the graph gives it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.fuse import LIMITS as FUSED_LIMITS
from zoo.graph.ir import LIMITS, Graph, Op, Quantization

Results = Tensor | tuple[Tensor, ...]  # of one output, or of several
Kernel = Callable[..., Tensor]
_FREE = ("quantize", "softmax")  # make int16 with a zero point
AT_ONCE = 2**18  # elements that are computed at once, so that intermediate results stay in caches
TYPES = {
    name: getattr(torch, name) for name in (*LIMITS, "int32", "int64", "float16", "float32", "bool")
}


def check_inputs(graph: Graph, inputs: tuple[Tensor, ...], *, batched: bool) -> None:
    """Raise a MismatchError unless these are a graph's inputs, or with `batched` any number."""
    if len(inputs) != len(graph.inputs):
        raise MismatchError(
            f"the network takes {len(graph.inputs)} inputs, {', '.join(graph.inputs)}; "
            f"{len(inputs)} were given"
        )
    for name, given in zip(graph.inputs, inputs, strict=True):
        tensor = graph.tensors[name]
        wanted = tensor.shape
        sample = batched and given.ndim == len(wanted)
        fits = given.shape[1:] == wanted[1:] if sample else given.shape == wanted
        if not fits or given.dtype is not TYPES[tensor.dtype]:
            shape = ("N", *wanted[1:]) if batched else wanted
            raise MismatchError(
                f"input {name!r} is {given.dtype} {tuple(given.shape)}; expected {tensor.dtype} "
                f"({', '.join(map(str, shape))}), channels last"
            )


def quantization_of(graph: Graph, name: str) -> Quantization:
    """Return the quantization of an integer tensor; only weights may have several scales."""
    tensor = graph.tensors[name]
    if tensor.quantization is None or tensor.dtype not in LIMITS:
        raise MismatchError(
            f"tensor {name!r} is {tensor.dtype}; expected quantized int8, uint8 or int16"
        )
    maker = graph.producers.get(name)
    free = maker is not None and maker.kind in _FREE
    if tensor.dtype == "int16" and any(tensor.quantization.zero_points) and not free:
        raise MismatchError(f"tensor {name!r} is int16 with a zero point, unsupported by runtimes")
    if tensor.kind != "weight" and len(tensor.quantization.scales) != 1:
        raise MismatchError(f"tensor {name!r} has {len(tensor.quantization.scales)} scales, not 1")
    return tensor.quantization


def extent(graph: Graph, name: str) -> tuple[int, int]:
    """Return the smallest and largest integer - zero point that a tensor's type holds."""
    zero = quantization_of(graph, name).zero_point
    low, high = LIMITS[graph.tensors[name].dtype]
    return low - zero, high - zero


def reach(graph: Graph, name: str) -> int:
    """Return the largest |integer - zero point| of a tensor."""
    low, high = extent(graph, name)
    return max(high, -low)


def limits(graph: Graph, op: Op) -> tuple[int, int]:
    """Return the smallest and largest output integer - zero point, fused activation included."""
    low, high = extent(graph, op.outputs[0])
    activation = op.attributes.get("activation")
    scale = np.float32(quantization_of(graph, op.outputs[0]).scale)  # a division of float32, too
    if activation is None:
        return low, high
    if activation not in FUSED_LIMITS:
        raise MismatchError(f"fused activation {activation!r} has no integer semantics")
    least, most = FUSED_LIMITS[activation]
    if least is not None:
        low = max(low, rounded(least / scale))
    if most is not None:
        high = min(high, rounded(most / scale))
    return low, high


def rounded(value: "float | np.floating[Any]") -> int:
    """Round halves away from zero, as `roundf`."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))


def centered(graph: Graph, name: str) -> Tensor:
    """Return a constant as float64 integers minus zero points."""
    tensor, values = graph.tensors[name], graph.values[name].astype(np.float64)
    quantization = tensor.quantization
    if quantization is None:
        return torch.from_numpy(values)
    zero = np.array(quantization.zero_points, np.float64)
    if quantization.axis is not None:
        shape = [1] * values.ndim
        shape[quantization.axis] = -1
        zero = zero.reshape(shape)
    return torch.from_numpy(values - zero)


def stored(graph: Graph, name: str) -> Tensor:
    """Return a constant as the integers it is stored as."""
    return torch.from_numpy(graph.values[name].copy())


def operands(graph: Graph, op: Op, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return all stored operands of an elementwise op: the given computed ones, and constants."""
    computed = iter(inputs)
    return [
        stored(graph, name) if graph.tensors[name].is_parameter else next(computed)
        for name in op.inputs
    ]


def stored_limits(graph: Graph, op: Op) -> tuple[int, int]:
    """Return the smallest and largest stored output, fused activation included."""
    zero = quantization_of(graph, op.outputs[0]).zero_point
    low, high = limits(graph, op)
    return low + zero, high + zero


def same_quantization(graph: Graph, op: Op) -> Quantization:
    """Return the one quantization of all tensors of an op that does no arithmetic."""
    output = quantization_of(graph, op.outputs[0])
    for name in op.inputs:
        if quantization_of(graph, name) != output:
            raise MismatchError(
                f"its input {name!r} and output differ in scale or zero point; "
                "runtimes do not rescale here"
            )
    return output


def in_groups(graph: Graph, op: Op, kernel: Kernel) -> Kernel:
    """Return a kernel that processes large batches a few samples at a time."""
    samples = max(1, AT_ONCE // max(1, math.prod(graph.tensors[op.outputs[0]].shape[1:])))

    def run(*inputs: Tensor) -> Tensor:
        sizes = {len(x) for x in inputs}
        if len(sizes) > 1 or max(sizes) <= samples:
            return kernel(*inputs)
        groups = zip(*(x.split(samples) for x in inputs), strict=True)
        return torch.cat([kernel(*group) for group in groups])

    return run
