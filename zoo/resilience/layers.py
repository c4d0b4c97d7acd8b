"""The layers of an integer graph whose sums an array of multipliers makes, as matrix products."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.kinds import MAC_KINDS
from zoo.resilience.faults import Integers, ProductShape
from zoo.runtime.integer_base import quantization_of

KINDS = ("conv2d", "depthwise_conv2d", "fully_connected")


@dataclass(frozen=True, eq=False)
class MacLayer:
    """A convolution or fully connected layer.

    Attributes:
        step: its place in the graph's operators.
        op: the operator.
        name: for people.
        shape: its products, for one sample.
        rows: where the first operand of each position lies in a padded sample, (positions,).
        places: how far the operands of a sum lie behind it, (depth,).
        group: how far the operands of one product lie behind those of the one before.
        stored: weights as stored, (products, depth, channels).
        weight_zero: their zero points, (products, channels).
        bias: (products, channels).
        zero: zero point of the input.
        signed: whether inputs and weights are signed bytes.
        padding: of a sample, as `torch.nn.functional.pad` takes it; () for none.

    """

    step: int
    op: Op
    name: str
    shape: ProductShape
    rows: Integers
    places: Integers
    group: int
    stored: Integers
    weight_zero: Integers
    bias: Integers
    zero: int
    signed: tuple[bool, bool]
    padding: tuple[int, ...]

    @cached_property
    def range(self) -> tuple[Integers, Integers]:
        """The smallest and largest sum that any input can bring about, (products, channels)."""
        low, high = (-128, 127) if self.signed[0] else (0, 255)
        weight = self.stored - self.weight_zero[:, None]
        ends = np.stack([weight * (low - self.zero), weight * (high - self.zero)])
        return ends.min(0).sum(1) + self.bias, ends.max(0).sum(1) + self.bias

    def padded(self, x: Tensor) -> Integers:
        """Return stored inputs (N, ...) as rows of bytes, (N, bytes of a padded sample)."""
        image = F.pad(x, self.padding, value=self.zero) if self.padding else x
        return image.reshape(len(x), -1).numpy()

    def operands(self, bytes_: Integers, sample: Integers, product: Integers, m: Integers,
                 k: Integers) -> Integers:  # fmt: skip
        """Return stored inputs; the last four are broadcast against each other."""
        place = self.rows[m] + self.places[k] + product * self.group
        return bytes_[sample, place].astype(np.int64)


def layers(graph: Graph) -> list[MacLayer]:
    """Return the layers of a graph, in order.

    Raises:
        MismatchError: the graph is not of bytes, a layer has no such products, or there is none.

    """
    found = []
    for step, op in enumerate(graph.ops):
        if op.kind not in MAC_KINDS:
            continue
        kinds = [graph.tensors[name].dtype for name in (*op.inputs[:2], *op.outputs)]
        if op.kind not in KINDS or set(kinds) > {"int8", "uint8"} or "int16" in kinds:
            what = f"computes on {kinds[0]}" if op.kind in KINDS else "is neither"
            raise MismatchError(
                f"{op.label} {what}: reliability takes convolutions and fully connected layers of "
                "int8, since there is no model of registers for others yet"
            )
        found.append(_layer(graph, step, op))
    if not found:
        raise MismatchError("the network has no convolution or fully connected layer to hit")
    return found


def _layer(graph: Graph, step: int, op: Op) -> MacLayer:
    weights = graph.values[op.inputs[1]].astype(np.int64)
    convolves = op.kind != "fully_connected"
    if op.kind == "depthwise_conv2d":
        weights = weights.transpose(3, 1, 2, 0)  # (O, kH, kW, I), as for other convolutions
    outputs, depth = len(weights), math.prod(weights.shape[1:])
    output = graph.tensors[op.outputs[0]]
    if convolves:
        rows, places, group, products, padding = _convolution(graph, op, weights.shape)
    else:
        count = output.elements // outputs // output.shape[0]
        rows, places = np.arange(count) * depth, np.arange(depth)
        group, products, padding = 0, 1, ()
    shape = ProductShape(
        products=products, positions=len(rows), depth=depth, channels=outputs // products
    )
    bias = np.zeros(outputs, np.int64)
    if len(op.inputs) > 2:
        bias = graph.values[op.inputs[2]].astype(np.int64)
    meaning = quantization_of(graph, op.inputs[1])
    zeros = np.broadcast_to(np.array(meaning.zero_points, np.int64), outputs)
    by_product = (products, outputs // products)
    return MacLayer(
        step=step,
        op=op,
        name=op.module or op.label,
        shape=shape,
        rows=rows,
        places=places,
        group=group,
        stored=weights.reshape(*by_product, depth).transpose(0, 2, 1),
        weight_zero=zeros.reshape(by_product),
        bias=bias.reshape(by_product),
        zero=quantization_of(graph, op.inputs[0]).zero_point,
        signed=(
            graph.tensors[op.inputs[0]].dtype == "int8",
            graph.tensors[op.inputs[1]].dtype == "int8",
        ),
        padding=padding,
    )


def _convolution(
    graph: Graph, op: Op, shape: tuple[int, ...]
) -> tuple[Integers, Integers, int, int, tuple[int, ...]]:
    """Return rows, places, group, products and padding of a convolution (see `MacLayer`)."""
    _, height, width, inputs = shape
    _, _, columns, channels = graph.tensors[op.inputs[0]].shape
    top, bottom, left, right = op.attributes["padding"]
    wide = columns + left + right
    stride, dilation = op.attributes["stride"], op.attributes["dilation"]
    _, down, across, _ = graph.tensors[op.outputs[0]].shape
    y, x = np.arange(down) * stride[0], np.arange(across) * stride[1]
    rows = (y[:, None] * wide + x).ravel() * channels
    ky, kx = np.arange(height) * dilation[0], np.arange(width) * dilation[1]
    first = (ky[:, None] * wide + kx).ravel() * channels
    places = (first[:, None] + np.arange(inputs)).ravel()
    padding = (0, 0, left, right, top, bottom) if any(op.attributes["padding"]) else ()
    return rows, places, inputs, channels // inputs, padding
