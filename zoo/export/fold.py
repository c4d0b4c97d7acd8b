"""Batch normalisation, which at run time is a scale and a shift, moved into the layer before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.export.graph import MAC_KINDS, Graph, Op


def fold_batch_norm(graph: Graph, state: Mapping[str, NDArray[Any]]) -> Graph:
    """Return the graph, in the layout "torch", without batch normalisations.

    y = (conv(x) - mean) / sqrt(variance + epsilon) * gamma + beta is a convolution with the kernel
    and bias times gamma / sqrt(...), plus beta - mean * gamma / sqrt(...). A `state` (by the
    sources' names) makes the graph's values; with an empty one only the structure is folded.

    Raises:
        MismatchError: a batch normalisation does not follow a layer that can take it.

    """
    values = {t.name: state[t.source] for t in graph.tensors.values() if t.source and state}
    tensors, ops, given = dict(graph.tensors), list(graph.ops), dict(values)
    folded: dict[tuple[Any, ...], tuple[str, str]] = {}
    # Layers may share weights: those without a norm keep them, each other norm makes its own.
    taken = {name for op in ops for name in op.inputs[1:] if not _normed(graph, op)}
    for norm in [op for op in graph.ops if op.kind == "batch_norm"]:
        layer = _before(graph, ops, norm)
        weight, *biases = layer.inputs[1:]
        key = (*layer.inputs[1:], *norm.inputs[1:], norm.attributes["epsilon"])
        if key not in folded:
            bias = biases[0] if biases else f"{layer.name}.bias"
            names = (
                weight if weight not in taken else f"{layer.name}.weight",
                bias if bias not in taken else f"{layer.name}.bias",
            )
            folded[key] = names
            taken |= {*names}
            # The norm's shift is the parameter that a bias folded from nothing is written to.
            source = graph.tensors[biases[0] if biases else norm.inputs[2]].source
            like = graph.tensors[weight]
            tensors[names[0]] = dataclasses.replace(like, name=names[0])
            tensors[names[1]] = dataclasses.replace(
                like, name=names[1], shape=like.shape[:1], kind="bias", source=source
            )
            if values:
                values |= zip(names, _folded(norm, given, weight, *biases), strict=True)
        ops[ops.index(layer)] = dataclasses.replace(
            layer, inputs=(layer.inputs[0], *folded[key]), outputs=norm.outputs
        )
        ops.remove(norm)
    used = {name for op in ops for name in (*op.inputs, *op.outputs)} | {*graph.inputs}
    tensors = {name: t for name, t in tensors.items() if name in used or name in graph.outputs}
    kept = {name: np.ascontiguousarray(value) for name, value in values.items() if name in tensors}
    return dataclasses.replace(graph, ops=tuple(ops), tensors=tensors, values=kept)


def _before(graph: Graph, ops: list[Op], norm: Op) -> Op:
    inner = norm.inputs[0]
    layer = next((op for op in ops if inner in op.outputs), None)
    readers = sum(inner in op.inputs for op in ops)
    if layer is None or layer.kind not in MAC_KINDS or readers > 1 or inner in graph.outputs:
        raise MismatchError(
            f"{norm.label} does not directly follow a convolution or linear layer that only "
            "it reads; put it there, or replace it by that layer's own bias"
        )
    return layer


def _normed(graph: Graph, op: Op) -> bool:
    readers = graph.consumers.get(op.outputs[0], [])
    return op.kind == "batch_norm" or any(reader.kind == "batch_norm" for reader in readers)


def _folded(
    norm: Op, values: Mapping[str, NDArray[Any]], weight: str, bias: str = ""
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    gamma, beta, mean, variance = (values[name].astype(np.float64) for name in norm.inputs[1:])
    factor = gamma / np.sqrt(variance + norm.attributes["epsilon"])
    kernel = values[weight].astype(np.float64)
    kernel = kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))
    shift = (values[bias].astype(np.float64) if bias in values else 0.0) - mean
    return kernel.astype(np.float32), (shift * factor + beta).astype(np.float32)
