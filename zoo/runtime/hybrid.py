"""Layers on floats whose weights are int8: what TFLite calls hybrid, or dynamic range.

At run time each sample is quantized by its own range, products are summed as integers, and the sums
become floats again: tensorflow/lite/kernels/internal/reference/portable_tensor_utils. What follows
is in float64 where integers are meant, and in float32 where the kernels have float32.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op

Sums = Callable[[Tensor, Tensor], Tensor]  # (inputs, weights), float64 -> their products' sums


KINDS = ("conv2d", "depthwise_conv2d", "fully_connected")  # that runtimes have in this form


def is_hybrid(graph: Graph, op: Op) -> bool:
    """Whether an op has a float input and int8 weights."""
    kinds = [graph.tensors[name].dtype for name in op.inputs[:2]]
    return kinds == ["float32", "int8"]


def _symmetric(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (N, ...) as integers, scales and zero points; halves away from zero."""
    most = rows.abs().amax(1, keepdim=True)
    inverse = torch.where(most > 0, 127 / most, 0.0)
    steps = _rounded(rows * inverse).clamp(-127, 127)
    return steps, torch.where(most > 0, most / 127, 1.0), torch.zeros_like(most)


def _asymmetric(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = (x.double() for x in (rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)))
    low, high = low.clamp(max=0), high.clamp(min=0)
    least, most = LIMITS["int8"]
    wide = (high - low) / (most - least)
    some = wide > 0
    wide = torch.where(some, wide, 1.0)
    from_low, from_high = least - low / wide, most - high / wide
    nearer = (least * -1 + (low / wide).abs()) < (most + (high / wide).abs())
    zero = torch.where(nearer, from_low, from_high)
    zero = _rounded(zero).clamp(least, most).float() * some
    scale = wide.float()
    steps = _rounded(zero + rows * (1 / scale)).clamp(least, most)
    return torch.where(some, steps, 0.0), scale, zero


def _rounded(x: Tensor) -> Tensor:
    return x.sign() * (x.abs() + 0.5).floor()


def product(graph: Graph, op: Op, x: Tensor, *weights: Tensor, sums: Sums) -> Tensor:
    """Return a layer's float output, before its activation.

    Args:
        graph: has the scales of the weights.
        op: the layer.
        x: float inputs, (N, ...); each of N is quantized by itself.
        weights: the int8 weights, and the float bias if there is one.
        sums: sums the products.

    Raises:
        MismatchError: the weights are not symmetric.

    """
    meaning = graph.tensors[op.inputs[1]].quantization
    if meaning is None or any(meaning.zero_points):
        raise MismatchError(f"{op.label} has float inputs and int8 weights that are not symmetric")
    # Scales that are all the same count as one, but in depthwise convolutions.
    one = op.kind != "depthwise_conv2d" and len(set(meaning.scales)) == 1
    wide = op.attributes.get("asymmetric_inputs", False)
    symmetric = (op.kind == "fully_connected" or one) and not wide
    steps, scale, zero = (_symmetric if symmetric else _asymmetric)(x.flatten(1))
    centred = (steps.double() - zero).reshape(x.shape)  # borders are the real 0
    made = sums(centred, weights[0].double())
    shape = (-1, *(1,) * (made.ndim - 1))
    factors = torch.from_numpy(np.array(meaning.scales, np.float32)) * scale.reshape(shape)
    result = made.float() * factors
    return result + weights[1] if len(weights) > 1 else result
