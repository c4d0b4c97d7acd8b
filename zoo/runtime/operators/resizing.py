"""Images made larger or smaller, see `zoo.runtime.resize`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime import resize
from zoo.runtime.integer_base import Kernel, same_quantization
from zoo.runtime.operators.contract import FloatKernel, IntegerMaker


def _pixels(graph: Graph, op: Op) -> tuple[list[int], list[int]]:
    """Return the rows and columns that nearest-pixel enlargement reads."""
    _, height, width, _ = graph.tensors[op.inputs[0]].shape
    rows, columns = (
        resize.nearest(
            size,
            count,
            align_corners=op.attributes["align_corners"],
            half_pixel=op.attributes["half_pixel_centers"],
        )
        for size, count in zip((height, width), op.attributes["size"], strict=True)
    )
    return rows, columns


def _float_nearest(graph: Graph, op: Op, x: Tensor) -> Tensor:
    rows, columns = _pixels(graph, op)
    return x[:, rows][:, :, columns]


def _float_bilinear(graph: Graph, op: Op, x: Tensor) -> Tensor:
    corners = op.attributes["align_corners"]
    if not corners and not op.attributes["half_pixel_centers"]:
        return resize.real_bilinear(x, dict(op.attributes))
    image, size = x.permute(0, 3, 1, 2), op.attributes["size"]
    return F.interpolate(image, size, mode="bilinear", align_corners=corners).permute(0, 2, 3, 1)


def _integer_nearest(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    rows, columns = _pixels(graph, op)
    return lambda x: x[:, rows][:, :, columns]


def _integer_bilinear(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    if graph.tensors[op.outputs[0]].dtype == "uint8":  # for which no runtime has integer weights

        def from_pixels(x: Tensor) -> Tensor:
            return (resize.real_bilinear(x.float(), dict(op.attributes)) + 0.5).to(x.dtype)

        return from_pixels
    return lambda x: resize.bilinear(x.to(torch.int64), dict(op.attributes)).to(x.dtype)


FLOAT: dict[str, FloatKernel] = {
    "resize_nearest": _float_nearest,
    "resize_bilinear": _float_bilinear,
}
INTEGER: dict[str, IntegerMaker] = {
    "resize_nearest": _integer_nearest,
    "resize_bilinear": _integer_bilinear,
}
