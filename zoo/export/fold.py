"""What a layer does along with its own work: the batch norm after it, the zeros before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.export.graph import MAC_KINDS, Graph, Op, Tensor


def fold_batch_norm(graph: Graph, state: Mapping[str, NDArray[Any]]) -> Graph:
    """Return the graph, in the layout "torch", without batch normalisations.

    y = (conv(x) - mean) / sqrt(variance + epsilon) * gamma + beta is a convolution with the kernel
    and bias times gamma / sqrt(...), plus beta - mean * gamma / sqrt(...). A `state` (by the
    sources' names) makes the graph's values; with an empty one only the structure is folded.

    Raises:
        MismatchError: a batch normalisation does not follow a layer that can take it.

    """
    values = {t.name: state[t.source] for t in graph.tensors.values() if t.source and state}
    tensors, ops = dict(graph.tensors), list(graph.ops)
    for norm in [op for op in graph.ops if op.kind == "batch_norm"]:
        inner = norm.inputs[0]
        layer = next((op for op in ops if inner in op.outputs), None)
        readers = sum(inner in op.inputs for op in ops)
        if layer is None or layer.kind not in MAC_KINDS or readers > 1 or inner in graph.outputs:
            raise MismatchError(
                f"{norm.label} does not directly follow a convolution or linear layer that only "
                "it reads; put it there, or replace it by that layer's own bias"
            )
        bias = layer.inputs[2] if len(layer.inputs) > 2 else f"{layer.name}.bias"
        weight = layer.inputs[1]
        if sum(weight in op.inputs for op in ops) > 1:
            raise MismatchError(f"{norm.label} follows a layer whose weights another one shares")
        shape = (tensors[weight].shape[0],)
        # The norm's shift is the parameter that a bias folded from nothing else can be written to.
        source = tensors[bias if bias in tensors else norm.inputs[2]].source
        tensors[bias] = Tensor(
            name=bias, shape=shape, dtype=tensors[weight].dtype, kind="bias", source=source
        )
        if values:
            values[weight], values[bias] = _folded(norm, values, weight, bias)
        ops[ops.index(layer)] = dataclasses.replace(
            layer, inputs=(layer.inputs[0], weight, bias), outputs=norm.outputs
        )
        ops.remove(norm)
        for name in (inner, *norm.inputs[1:]):
            del tensors[name]
            values.pop(name, None)
    kept = {name: np.ascontiguousarray(value) for name, value in values.items() if name in tensors}
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=kept)


def _folded(
    norm: Op, values: Mapping[str, NDArray[Any]], weight: str, bias: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    gamma, beta, mean, variance = (values[name].astype(np.float64) for name in norm.inputs[1:])
    factor = gamma / np.sqrt(variance + norm.attributes["epsilon"])
    kernel = values[weight].astype(np.float64)
    kernel = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
    shift = (values[bias].astype(np.float64) if bias in values else 0.0) - mean
    return kernel.astype(np.float32), (shift * factor + beta).astype(np.float32)


def absorb_padding(graph: Graph) -> Graph:
    """Return the graph, in the layout "torch", with zeros around images padded by convolutions.

    TensorFlow's "same" with a stride of 2 pads below and at the right alone, which PyTorch writes
    as an operator of its own; a convolution's padding here has four sides.
    """
    ops, tensors = list(graph.ops), dict(graph.tensors)
    for pad in [op for op in graph.ops if op.kind == "pad"]:
        given: tuple[int, ...] = pad.attributes["padding"]
        output = pad.outputs[0]
        readers = [op for op in ops if output in op.inputs]
        left, right, top, bottom, *others = (*given, *(0,) * (4 - len(given)))
        if (
            pad.attributes["value"]
            or any(others)
            or min(given) < 0
            or output in graph.outputs
            or not all(op.kind in ("conv2d", "depthwise_conv2d") for op in readers)
        ):
            continue
        for op in readers:
            sides = zip(op.attributes["padding"], (top, bottom, left, right), strict=True)
            attributes = {**op.attributes, "padding": tuple(a + b for a, b in sides)}
            inputs = (pad.inputs[0], *op.inputs[1:])
            ops[ops.index(op)] = dataclasses.replace(op, inputs=inputs, attributes=attributes)
        ops.remove(pad)
        del tensors[output]
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors)
