"""Convolutions and fully connected layers; on integers see `zoo.runtime.integer_products`."""

import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_products import PRODUCTS as INTEGER
from zoo.runtime.operators.contract import FloatKernel, pad_image

__all__ = ["FLOAT", "INTEGER"]


def _conv2d(graph: Graph, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    order = (3, 0, 1, 2) if op.kind == "depthwise_conv2d" else (0, 3, 1, 2)
    image = pad_image(x.permute(0, 3, 1, 2), op.attributes["padding"])
    kernel = weight.permute(order)
    groups = image.shape[1] // kernel.shape[1]
    stride, dilation = op.attributes["stride"], op.attributes["dilation"]
    return F.conv2d(image, kernel, bias, stride, 0, dilation, groups).permute(0, 2, 3, 1)


def _fully_connected(
    graph: Graph, op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    rows = F.linear(x.reshape(-1, weight.shape[1]), weight, bias)
    return rows.reshape(-1, *graph.tensors[op.outputs[0]].shape[1:])


FLOAT: dict[str, FloatKernel] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
}
