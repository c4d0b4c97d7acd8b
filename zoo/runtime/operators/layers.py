"""Convolutions and fully connected layers; on integers see `zoo.runtime.integer_products`."""

import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime import hybrid
from zoo.runtime.integer_products import PRODUCTS as INTEGER
from zoo.runtime.integer_products import spread
from zoo.runtime.operators.contract import FloatKernel, pad_image

__all__ = ["FLOAT", "INTEGER"]


def _conv2d(graph: Graph, op: Op, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    order = (3, 0, 1, 2) if op.kind == "depthwise_conv2d" else (0, 3, 1, 2)
    stride, dilation = op.attributes["stride"], op.attributes["dilation"]

    def convolved(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        image = pad_image(x.permute(0, 3, 1, 2), op.attributes["padding"])
        kernel = weight.permute(order)
        groups = image.shape[1] // kernel.shape[1]
        y = F.conv2d(image, kernel, bias, stride, 0, dilation, groups)
        return y.permute(0, 2, 3, 1)

    if hybrid.is_hybrid(graph, op):
        return hybrid.product(graph, op, x, weight, *bias, sums=convolved)
    return convolved(x, weight, *bias)


def _transpose_conv2d(
    graph: Graph, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    y = spread(op, x, weight)
    return y if bias is None else y + bias


def _fully_connected(graph: Graph, op: Op, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
    rows = x.reshape(-1, weight.shape[1])
    if hybrid.is_hybrid(graph, op):
        y = hybrid.product(graph, op, rows, weight, *bias, sums=F.linear)
    else:
        y = F.linear(rows, weight, *bias)
    return y.reshape(-1, *graph.tensors[op.outputs[0]].shape[1:])


FLOAT: dict[str, FloatKernel] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "transpose_conv2d": _transpose_conv2d,
    "fully_connected": _fully_connected,
}
