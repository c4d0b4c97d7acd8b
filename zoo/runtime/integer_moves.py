"""Integer kernels that choose or move integers rather than compute: pools, joins, resizing."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op
from zoo.runtime import resize
from zoo.runtime.integer_base import Kernel, operands, same_quantization, stored_limits


def pad_image(x: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad `(N, C, H, W)` by (top, bottom, left, right)."""
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def _avg_pool2d(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    low, high = stored_limits(graph, op)
    kernel, stride, padding = (op.attributes[key] for key in ("kernel", "stride", "padding"))
    most = LIMITS[graph.tensors[op.inputs[0]].dtype][1] + 1
    dtype = torch.float32 if most * math.prod(kernel) < 2**24 else torch.float64

    def sums(x: Tensor) -> Tensor:
        return F.avg_pool2d(pad_image(x, padding), kernel, stride, divisor_override=1)

    def run(x: Tensor) -> Tensor:
        # Of stored integers: halves are rounded away from the integer 0, not the real one.
        total = sums(x.permute(0, 3, 1, 2).to(dtype)).permute(0, 2, 3, 1).double()
        count = sums(torch.ones(1, 1, *x.shape[1:3], dtype=dtype)).permute(0, 2, 3, 1).double()
        half = torch.floor(count / 2)
        total += torch.where(total > 0, half, -half)
        return (total / count).trunc_().clamp_(low, high).to(x.dtype)

    return run


def _max_pool2d(graph: Graph, op: Op) -> Kernel:
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


def _concat(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    dim = op.attributes["dim"]

    def run(*inputs: Tensor) -> Tensor:
        tensors = operands(graph, op, inputs)
        batch = max(operand.shape[0] for operand in tensors)
        same = [x.expand(batch, *x.shape[1:]) if dim % x.ndim else x for x in tensors]
        return torch.cat(same, dim)

    return run


def _extreme(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    choose = torch.maximum if op.kind == "maximum" else torch.minimum
    return lambda *inputs: choose(*operands(graph, op, inputs))


def _pad(graph: Graph, op: Op) -> Kernel:
    value = op.attributes["value"] + same_quantization(graph, op).zero_point
    low, high = LIMITS[graph.tensors[op.inputs[0]].dtype]
    if not low <= value <= high:
        raise MismatchError(f"it pads with the integer {value}, which its type does not hold")
    return lambda x: F.pad(x, op.attributes["padding"], value=value)


def _reshape(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    before, after = (graph.tensors[n].shape for n in (op.inputs[0], op.outputs[0]))
    free = before[:1] == (1,) and after[:1] == (1,)
    return lambda x: x.reshape(x.shape[0] if free else after[0], *after[1:])


def _transpose(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: x.permute(op.attributes["dims"]).contiguous()


def depth_to_space(x: Tensor, block: int) -> Tensor:
    """Move `(N, H, W, b*b*C)`, the cell's place first, to `(N, bH, bW, C)`."""
    n, height, width, channels = x.shape
    cells = x.reshape(n, height, width, block, block, channels // block**2)
    return cells.permute(0, 1, 3, 2, 4, 5).reshape(n, height * block, width * block, -1)


def _depth_to_space(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: depth_to_space(x, op.attributes["block"])


def nearest_pixels(graph: Graph, op: Op) -> tuple[list[int], list[int]]:
    """Return the rows and columns that an enlargement by nearest pixels takes."""
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


def _resize_nearest(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    rows, columns = nearest_pixels(graph, op)
    return lambda x: x[:, rows][:, :, columns]


def _resize_bilinear(graph: Graph, op: Op) -> Kernel:
    same_quantization(graph, op)
    return lambda x: resize.bilinear(x.to(torch.int64), dict(op.attributes)).to(x.dtype)


MOVES: dict[str, Callable[[Graph, Op], Kernel]] = {
    "avg_pool2d": _avg_pool2d,
    "max_pool2d": _max_pool2d,
    "concat": _concat,
    "maximum": _extreme,
    "minimum": _extreme,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "resize_nearest": _resize_nearest,
    "resize_bilinear": _resize_bilinear,
    "depth_to_space": _depth_to_space,
}
