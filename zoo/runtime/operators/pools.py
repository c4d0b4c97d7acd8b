"""Averages and maxima of windows, and means along dimensions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime import fixedpoint
from zoo.runtime.integer_base import (
    TYPES,
    Kernel,
    limits,
    quantization_of,
    reach,
    same_quantization,
    stored_limits,
)
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker, pad_image
from zoo.runtime.rescale import Rescale


def _float_avg(graph: Graph, op: Op, x: Tensor) -> Tensor:
    kernel, stride, padding = (op.attributes[key] for key in ("kernel", "stride", "padding"))

    def sums(image: Tensor) -> Tensor:
        return F.avg_pool2d(pad_image(image, padding), kernel, stride, divisor_override=1)

    count = sums(x.new_ones(1, 1, *x.shape[1:3]))
    return (sums(x.permute(0, 3, 1, 2)) / count).permute(0, 2, 3, 1)


def _float_max(graph: Graph, op: Op, x: Tensor) -> Tensor:
    image = pad_image(x.permute(0, 3, 1, 2), op.attributes["padding"], -math.inf)
    return F.max_pool2d(image, op.attributes["kernel"], op.attributes["stride"]).permute(0, 2, 3, 1)


def _float_mean(graph: Graph, op: Op, x: Tensor) -> Tensor:
    return x.mean(tuple(op.attributes["dim"]), keepdim=bool(op.attributes["keepdim"]))


def _integer_avg(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    low, high = stored_limits(graph, op)
    kernel, stride, padding = (op.attributes[key] for key in ("kernel", "stride", "padding"))
    most = max(map(abs, LIMITS[graph.tensors[op.inputs[0]].dtype]))
    dtype = torch.float32 if most * math.prod(kernel) < 2**24 else torch.float64

    def sums(x: Tensor) -> Tensor:
        return F.avg_pool2d(pad_image(x, padding), kernel, stride, divisor_override=1)

    def run(x: Tensor) -> Tensor:
        # Of stored integers: halves are rounded away from the integer 0, not the real 0.
        total = sums(x.permute(0, 3, 1, 2).to(dtype)).permute(0, 2, 3, 1).double()
        count = sums(torch.ones(1, 1, *x.shape[1:3], dtype=dtype)).permute(0, 2, 3, 1).double()
        half = torch.floor(count / 2)
        total += torch.where(total > 0, half, -half)
        return (total / count).trunc_().clamp_(low, high).to(x.dtype)

    return run


def _integer_max(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    low, high = stored_limits(graph, op)
    kernel, stride, padding = (op.attributes[key] for key in ("kernel", "stride", "padding"))
    least = LIMITS[graph.tensors[op.inputs[0]].dtype][0]

    def run(x: Tensor) -> Tensor:
        # In float: torch's kernel for integers counts pixels in their type.
        image = pad_image(x.permute(0, 3, 1, 2).to(torch.float32), padding, least)
        y = F.max_pool2d(image, kernel, stride).permute(0, 2, 3, 1)
        return y.clamp_(low, high).to(x.dtype)

    return run


def _integer_mean(graph: Graph, op: Op) -> Kernel:
    source, output = (quantization_of(graph, n) for n in (op.inputs[0], op.outputs[0]))
    shape, dims = graph.tensors[op.inputs[0]].shape, tuple(op.attributes["dim"])
    count = math.prod(shape[dim] for dim in dims)
    pair = fixedpoint.mean_multiplier(source.scale / output.scale, count)
    rescale = Rescale(
        0.0,
        count * reach(graph, op.inputs[0]),
        *limits(graph, op),
        multipliers=[pair],
        zero_point=output.zero_point,
        dtype=TYPES[graph.tensors[op.outputs[0]].dtype],
    )
    keep = bool(op.attributes["keepdim"])
    offset = count * source.zero_point
    return lambda x: rescale(x.double().sum(dims, keepdim=keep) - offset)


FLOAT: dict[str, FloatKernel] = {
    "avg_pool2d": _float_avg,
    "max_pool2d": _float_max,
    "mean": _float_mean,
}
INTEGER: dict[str, IntegerMaker] = {
    "avg_pool2d": _integer_avg,
    "max_pool2d": _integer_max,
    "mean": _integer_mean,
}
