"""What kernels are: functions of a graph, an op of it and values, channels last."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Kernel

FloatKernel = Callable[..., Tensor]  # (graph, op, operands, constants among them) -> result
IntegerMaker = Callable[[Graph, Op], Kernel]  # the kernel takes only the computed operands


def pad_image(x: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad `(N, C, H, W)` by (top, bottom, left, right) pixels of `value`."""
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x
