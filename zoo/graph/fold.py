"""Work that moves into a layer: the batch norm after it, the zero padding before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Kind, Op, Tensor
from zoo.graph.kinds import LAYERS


def fold_batch_norm(graph: Graph, state: Mapping[str, NDArray[Any]]) -> Graph:
    """Return the graph, in the layout "torch", without batch normalisations.

    y = (conv(x) - mean) / sqrt(variance + epsilon) * gamma + beta is a convolution with the kernel
    and bias times gamma / sqrt(...), plus beta - mean * gamma / sqrt(...). Each use of a shared
    layer gets its own copy. A norm without a layer to take it becomes the depthwise 1x1 convolution
    that it is. A `state` (by the sources' names) makes the graph's values; with an empty one only
    the structure is folded.

    Raises:
        MismatchError: a norm of volumes (N, C, D, H, W) has no layer to take it.

    """
    folding = _Folding(graph, state)
    for op in graph.ops:
        folding.add(op)
    return folding.result()


class _Folding:
    """A graph without batch norms, under construction."""

    def __init__(self, graph: Graph, state: Mapping[str, NDArray[Any]]) -> None:
        self.graph = graph
        self.ops: dict[str, Op] = {}  # by their outputs
        self.tensors = dict(graph.tensors)
        self.known = bool(state)
        self.values: dict[str, NDArray[Any]] = {
            t.name: state[t.source] for t in graph.tensors.values() if t.source and state
        }
        # A repeated norm, after the same layer or on its own, shares one set of parameters.
        self.made: dict[tuple[str, ...], tuple[str, str]] = {}

    def add(self, op: Op) -> None:
        if op.kind != "batch_norm":
            self.ops[op.outputs[0]] = op
        elif (signal := self.signal(op)) is not None:  # norm, then reshape: the layer can take it
            del self.ops[op.inputs[0]]
            image = signal.inputs[0]
            inner = self.ops.pop(image)
            inputs = (inner.inputs[0], *self.parameters(op, inner.inputs[1:], f"{inner.name}.bias"))
            self.ops[image] = dataclasses.replace(inner, inputs=inputs)
            self.ops[op.outputs[0]] = dataclasses.replace(signal, outputs=op.outputs)
        elif (layer := self.layer(op)) is None:
            self.stay(op)
        else:
            del self.ops[op.inputs[0]]
            inputs = (layer.inputs[0], *self.parameters(op, layer.inputs[1:], f"{layer.name}.bias"))
            self.ops[op.outputs[0]] = dataclasses.replace(layer, inputs=inputs, outputs=op.outputs)

    def result(self) -> Graph:
        ops = tuple(self.ops.values())
        used = {name for op in ops for name in (*op.inputs, *op.outputs)}
        used |= {*self.graph.inputs, *self.graph.outputs}
        return dataclasses.replace(
            self.graph,
            ops=ops,
            tensors={name: tensor for name, tensor in self.tensors.items() if name in used},
            values={n: np.ascontiguousarray(v) for n, v in self.values.items() if n in used},
        )

    def signal(self, norm: Op) -> Op | None:
        """Return the reshape from (N, C, 1, L) to (N, C, L) between a layer and its norm."""
        after = self.ops.get(norm.inputs[0])
        if after is None or after.kind != "reshape" or not self.alone(norm.inputs[0]):
            return None
        before, shape = (self.tensors[n].shape for n in (after.inputs[0], norm.inputs[0]))
        if len(shape) != 3 or before != (*shape[:2], 1, shape[2]):
            return None
        inner = dataclasses.replace(norm, inputs=(after.inputs[0], *norm.inputs[1:]))
        return after if self.layer(inner) is not None else None

    def alone(self, name: str) -> bool:
        """Whether one op reads a tensor, and nobody outside."""
        return len(self.graph.consumers[name]) == 1 and name not in self.graph.outputs

    def layer(self, norm: Op) -> Op | None:
        """Return the layer that can take a norm: only the norm reads it, channel by channel."""
        inner = norm.inputs[0]
        layer = self.ops.get(inner)
        if layer is None or layer.kind not in LAYERS or not self.alone(inner):
            return None
        if layer.kind == "fully_connected" and len(self.tensors[inner].shape) != 2:
            return None  # its channels are the last dimension, the norm's the second
        constant = all(self.tensors[name].is_parameter for name in layer.inputs[1:])
        return layer if constant else None

    def stay(self, norm: Op) -> None:
        """Turn a norm into a layer: y = gamma / sqrt(...) * x + shift, channel by channel."""
        x, y = norm.inputs[0], norm.outputs[0]
        shape = self.tensors[x].shape
        if len(shape) > 4:
            raise MismatchError(
                f"{norm.label} does not directly follow a convolution or linear layer that only "
                f"it reads, and no operator normalises {len(shape)} dimensions: put it there"
            )
        image = (*shape, *[1] * (4 - len(shape)))
        if image != shape:  # rows of features: images of one pixel
            x = self.emit(norm, "reshape", (x,), f"{norm.name}.image", image)
            y = f"{norm.name}.normed"
        inputs = (x, *self.parameters(norm, (), f"{norm.name}.bias"))
        self.emit(norm, "depthwise_conv2d", inputs, y, image)
        if image != shape:
            self.emit(norm, "reshape", (y,), norm.outputs[0], shape)

    def emit(
        self, norm: Op, kind: str, inputs: tuple[str, ...], output: str, shape: tuple[int, ...]
    ) -> str:
        attributes: dict[str, Any] = {}
        if kind == "depthwise_conv2d":
            attributes = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0, 0, 0)}
            attributes |= {"dilation": (1, 1), "groups": shape[1]}
        self.ops[output] = dataclasses.replace(
            norm,
            name=output,
            kind=kind,
            inputs=inputs,
            outputs=(output,),
            attributes=attributes,
        )
        if output not in self.tensors:
            like = self.tensors[norm.outputs[0]]
            self.tensors[output] = dataclasses.replace(
                like, name=output, shape=shape, kind="activation"
            )
        return output

    def parameters(self, norm: Op, layer: tuple[str, ...], bias: str) -> tuple[str, str]:
        """Return the names of the weight and bias of a layer with a norm folded in.

        Args:
            norm: the norm.
            layer: names of the layer's weight and, if it has one, bias; empty for a norm alone.
            bias: the name for a bias if the layer has none.

        """
        key = (*layer, *norm.inputs[1:], str(norm.attributes))
        if key in self.made:
            return self.made[key]
        own = dict(zip(norm.attributes["parameters"], norm.inputs[1:], strict=True))
        channels = self.tensors[own["running_mean"]].shape
        weight, shape = f"{norm.name}.weight", (*channels, 1, 1, 1)
        if layer:
            weight, shape = self.mine(layer[0], norm), self.tensors[layer[0]].shape
        if layer[1:]:
            bias = self.mine(layer[1], norm)
        if self.known:
            values = {name: self.values[tensor] for name, tensor in own.items()}
            factor, shift = _affine(values, norm.attributes["epsilon"])
            kernel = self.values[layer[0]] if layer else np.ones(shape)
            before = self.values[layer[1]] if layer[1:] else 0.0
            column = factor.reshape(-1, *[1] * (len(shape) - 1))
            self.values[weight] = (kernel.astype(np.float64) * column).astype(np.float32)
            self.values[bias] = (before * factor + shift).astype(np.float32)
        # Where the layer has no parameter, the new one takes the source of the norm's own.
        self.store(weight, "weight", shape, layer[0] if layer else own.get("weight"))
        self.store(bias, "bias", channels, layer[1] if layer[1:] else own.get("bias"))
        self.made[key] = weight, bias
        return weight, bias

    def mine(self, name: str, norm: Op) -> str:
        """Return the name under which a parameter is changed: a new one if others read it."""
        return name if len(self.graph.consumers.get(name, ())) == 1 else f"{name}.{norm.name}"

    def store(self, name: str, kind: Kind, shape: tuple[int, ...], like: str | None) -> None:
        """Add a parameter in place of `like`, or one that the module does not have."""
        old = self.tensors[like or self.graph.inputs[0]]
        self.tensors[name] = Tensor(
            name=name, shape=shape, dtype=old.dtype, kind=kind, source=old.source if like else ""
        )


def _affine(
    values: Mapping[str, NDArray[Any]], epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a norm's factor and shift by channel; 1 and 0 for a norm that learned neither."""
    mean, variance = (values[f"running_{name}"].astype(np.float64) for name in ("mean", "var"))
    factor = values.get("weight", np.ones(1)).astype(np.float64) / np.sqrt(variance + epsilon)
    return factor, values.get("bias", np.zeros(1)).astype(np.float64) - mean * factor


def absorb_padding(graph: Graph) -> Graph:
    """Return the graph, in the layout "torch", with zero padding moved into the convolutions.

    TensorFlow's "same" with a stride of 2 pads only below and at the right, which PyTorch writes as
    a separate operator; a convolution's padding here has four sides.
    """
    ops, tensors = list(graph.ops), dict(graph.tensors)
    for pad in [op for op in graph.ops if op.kind == "pad"]:
        padding: tuple[int, ...] = pad.attributes["padding"]
        output = pad.outputs[0]
        readers = [op for op in ops if output in op.inputs]
        left, right, top, bottom, *others = (*padding, *(0,) * (4 - len(padding)))
        if (
            pad.attributes["value"]
            or any(others)
            or min(padding) < 0
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
