"""What kernels are: functions of a graph, an op of it and values, channels last."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from zoo.graph.ir import Graph, Op
from zoo.runtime.integer_base import Results

# (graph, op, operands, constants among them) -> the result; a tuple, of several outputs
FloatKernel = Callable[..., Any]
# The kernel takes only the computed operands.
IntegerMaker = Callable[[Graph, Op], Callable[..., Results]]


def pad_image(x: Tensor, padding: tuple[int, int, int, int], value: float = 0.0) -> Tensor:
    """Pad `(N, C, H, W)` by (top, bottom, left, right) pixels of `value`."""
    top, bottom, left, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x
