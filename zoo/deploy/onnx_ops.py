"""The operators of integer ONNX files: each between QuantizeLinear and DequantizeLinear."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op, Quantization

OPSET = 20
_NCHW, _NHWC = (0, 3, 1, 2), (0, 2, 3, 1)
_PLACE = {0: 0, 1: 2, 2: 3, 3: 1}  # of a channels-last dimension among (N, C, H, W)


class Model:
    """An `onnx.ModelProto` in the making."""

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.onnx = graph, onnx
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def model(self) -> Any:
        """Return the whole."""
        helper, graph = self.onnx.helper, self.graph
        several = len(graph.inputs) > 1, len(graph.outputs) > 1
        inputs, outputs = [], []
        for place, name in enumerate(graph.inputs):
            outer = f"input{place}" if several[0] else "input"
            inputs.append(self.value(outer, name))
            self.quantize(outer, name)
        for op in graph.ops:
            handler = HANDLERS.get(op.kind)
            if handler is None:
                raise MismatchError(f"{op.label} has no ONNX operator here")
            handler(self, op)
        for place, name in enumerate(graph.outputs):
            outer = f"output{place}" if several[1] else "output"
            outputs.append(self.value(outer, name))
            self.node("Identity", [self.real(name)], outer)
        values = [self.onnx.numpy_helper.from_array(v, n) for n, v in self.constants.items()]
        body = helper.make_graph(self.nodes, "main", inputs, outputs, values)
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(body, opset_imports=opsets, ir_version=9, producer_name="edge-zoo")

    def value(self, outer: str, name: str) -> Any:
        """Return the type of an input or output: any batch of a tensor's shape."""
        _, *rest = _moved(self.graph.tensors[name].shape)
        return self.onnx.helper.make_tensor_value_info(
            outer, self.onnx.TensorProto.FLOAT, ["batch", *rest]
        )

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append a node; return its output."""
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        """Store an initializer; return its name."""
        self.constants[name] = np.asarray(value, order="C")
        return name

    def meaning(self, name: str, dtype: type[Any], own: str = "") -> list[str]:
        """Return the names, beginning with `own`, of a tensor's scale and zero point."""
        own = own or name
        meaning = self.graph.tensors[name].quantization
        if meaning is None:
            raise MismatchError(f"tensor {name!r} is not quantized")
        shape = () if meaning.axis is None else (-1,)
        scales = np.array(meaning.scales, np.float32).reshape(shape)
        zeros = np.array(meaning.zero_points).astype(dtype).reshape(shape)
        return [self.constant(f"{own}.scale", scales), self.constant(f"{own}.zero", zeros)]

    def quantize(self, real: str, name: str) -> None:
        """Round a real value to the integers of tensor `name`, and give them back as reals."""
        meaning = self.meaning(name, np.int8)
        integers = self.node("QuantizeLinear", [real, *meaning], f"{name}.integers")
        self.node("DequantizeLinear", [integers, *meaning], f"{name}.real")

    def real(self, name: str) -> str:
        """Return the name of a tensor's real value."""
        return f"{name}.real"

    def parameter(self, name: str, value: NDArray[Any], axis: int = 0) -> str:
        """Store integers of a weight, bias or constant, in ONNX's order; return their reals.

        Each op has its own: ONNX Runtime makes its form of a weight under a name that follows from
        the weight's, and fails at the second ("Attempt to replace the existing tensor").
        """
        own = name
        while f"{own}.integers" in self.constants:
            own += "+"
        meaning = self.meaning(name, value.dtype.type, own)
        stored = self.constant(f"{own}.integers", value)
        return self.node("DequantizeLinear", [stored, *meaning], self.real(own), axis=axis)

    def operand(self, name: str, rank: int) -> str:
        """Return the real value of an operand of an elementwise op."""
        if name not in self.graph.values:
            return self.real(name)
        value = self.graph.values[name]
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        return self.parameter(name, value.transpose(_NCHW) if rank == 4 else value)

    def emit(self, op: Op, kind: str, inputs: list[str], **attributes: Any) -> None:
        """Add an op, its fused activation, and the rounding of its result."""
        output = op.outputs[0]
        value = self.node(kind, inputs, f"{output}.exact", **attributes)
        activation = op.attributes.get("activation")
        if activation == "relu":
            value = self.node("Relu", [value], f"{output}.relu")
        elif activation == "relu6":
            low, high = (
                self.constant(f"{output}.{key}", np.float32(limit))
                for key, limit in (("low", 0), ("high", 6))
            )
            value = self.node("Clip", [value, low, high], f"{output}.relu6")
        elif activation is not None:
            raise MismatchError(f"{op.label} has the fused activation {activation!r}")
        self.quantize(value, output)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, channels last."""
        return self.graph.tensors[name].shape

    def scale(self, op: Op) -> Quantization:
        """Return the quantization of an op's output."""
        meaning = self.graph.tensors[op.outputs[0]].quantization
        assert meaning is not None
        return meaning


def _moved(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in _NCHW) if len(shape) == 4 else shape


def _axis(model: Model, op: Op, dim: int) -> int:
    return _PLACE[dim] if len(model.shape(op.inputs[0])) == 4 else dim


def _window(op: Op) -> dict[str, Any]:
    top, bottom, left, right = op.attributes["padding"]
    return {
        "kernel_shape": list(op.attributes["kernel"]),
        "strides": list(op.attributes["stride"]),
        "pads": [top, left, bottom, right],
    }


def _conv2d(model: Model, op: Op) -> None:
    weight = model.graph.values[op.inputs[1]]
    order = (3, 0, 1, 2) if op.kind == "depthwise_conv2d" else _NCHW
    inputs = [model.real(op.inputs[0]), model.parameter(op.inputs[1], weight.transpose(order))]
    inputs += [model.parameter(name, model.graph.values[name]) for name in op.inputs[2:]]
    options = {"dilations": list(op.attributes["dilation"]), "group": op.attributes["groups"]}
    model.emit(op, "Conv", inputs, **_window(op), **options)


def _fully_connected(model: Model, op: Op) -> None:
    if len(model.shape(op.inputs[0])) != 2 or len(model.shape(op.outputs[0])) != 2:
        raise MismatchError(f"{op.label} takes rows (N, features) in an ONNX file; flatten first")
    inputs = [model.real(op.inputs[0])]
    inputs += [model.parameter(name, model.graph.values[name]) for name in op.inputs[1:]]
    model.emit(op, "Gemm", inputs, transB=1)


def _elementwise(model: Model, op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    kind = {"maximum": "Max", "minimum": "Min"}.get(op.kind, op.kind.capitalize())
    model.emit(op, kind, [model.operand(name, rank) for name in op.inputs])


def _prelu(model: Model, op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    model.emit(op, "PRelu", [model.operand(name, rank) for name in op.inputs])


def _relu(model: Model, op: Op) -> None:
    if op.kind == "relu":
        model.emit(op, "Relu", [model.real(op.inputs[0])])
        return
    limits = [model.constant(f"{op.name}.{x}", np.float32(x)) for x in (0, 6)]
    model.emit(op, "Clip", [model.real(op.inputs[0]), *limits])


def _pool(model: Model, op: Op) -> None:
    kind = "AveragePool" if op.kind == "avg_pool2d" else "MaxPool"
    model.emit(op, kind, [model.real(op.inputs[0])], **_window(op))


def _mean(model: Model, op: Op) -> None:
    axes = np.array([_axis(model, op, dim) for dim in op.attributes["dim"]], np.int64)
    inputs = [model.real(op.inputs[0]), model.constant(f"{op.name}.axes", axes)]
    model.emit(op, "ReduceMean", inputs, keepdims=int(op.attributes["keepdim"]))


def _softmax(model: Model, op: Op) -> None:
    if op.attributes.get("beta", 1.0) != 1.0:
        raise MismatchError(f"{op.label} has a beta other than 1, which ONNX has not")
    axis = _axis(model, op, len(model.shape(op.inputs[0])) - 1)
    model.emit(op, "Softmax", [model.real(op.inputs[0])], axis=axis)


def _concat(model: Model, op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    inputs = [model.operand(name, rank) for name in op.inputs]
    model.emit(op, "Concat", inputs, axis=_axis(model, op, op.attributes["dim"]))


def _pad(model: Model, op: Op) -> None:
    pairs = list(zip(op.attributes["padding"][::2], op.attributes["padding"][1::2], strict=True))[
        ::-1
    ]
    if len(pairs) == 4:
        pairs = [pairs[i] for i in _NCHW]
    pads = np.array([side for column in zip(*pairs, strict=True) for side in column], np.int64)
    value = np.float32(op.attributes["value"] * np.float32(model.scale(op).scale))
    inputs = [model.real(op.inputs[0]), model.constant(f"{op.name}.pads", pads)]
    model.emit(op, "Pad", [*inputs, model.constant(f"{op.name}.value", value)])


def _transposed(model: Model, name: str, value: str, dims: tuple[int, ...]) -> str:
    return model.node("Transpose", [value], name, perm=list(dims))


def _reshape(model: Model, op: Op) -> None:
    before, after = model.shape(op.inputs[0]), model.shape(op.outputs[0])
    value = model.real(op.inputs[0])
    if len(before) == 4 and before[3] > 1 and before[1] * before[2] > 1:
        value = _transposed(model, f"{op.name}.last", value, _NHWC)
    # 0 keeps the batch, whatever its size.
    sizes = [0 if before[0] == after[0] else after[0], *after[1:]]
    if len(after) == 4 and not (after[3] > 1 and after[1] * after[2] > 1):
        sizes = [sizes[i] for i in _NCHW]
    shape = model.constant(f"{op.name}.shape", np.array(sizes, np.int64))
    if len(after) == 4 and after[3] > 1 and after[1] * after[2] > 1:
        value = model.node("Reshape", [value, shape], f"{op.name}.rows")
        model.emit(op, "Transpose", [value], perm=list(_NCHW))
        return
    model.emit(op, "Reshape", [value, shape])


def _requantize(model: Model, op: Op) -> None:
    model.emit(op, "Identity", [model.real(op.inputs[0])])


def _transpose(model: Model, op: Op) -> None:
    dims = op.attributes["dims"]
    if len(dims) == 4:
        dims = tuple(_PLACE[dims[i]] for i in _NCHW)
    model.emit(op, "Transpose", [model.real(op.inputs[0])], perm=list(dims))


def _depth_to_space(model: Model, op: Op) -> None:
    block = op.attributes["block"]
    model.emit(op, "DepthToSpace", [model.real(op.inputs[0])], blocksize=block, mode="DCR")


def _factor(before: int, after: int) -> np.float32:
    """Return the factor of sizes that ONNX's floor(before * factor) brings back to `after`."""
    factor = np.float32(after / before)
    if before * float(factor) < after:
        factor = np.nextafter(factor, np.float32(np.inf))
    return factor


def _resize(model: Model, op: Op) -> None:
    mode = "half_pixel" if op.attributes["half_pixel_centers"] else "asymmetric"
    mode = "align_corners" if op.attributes["align_corners"] else mode
    before = model.shape(op.inputs[0])[1:3]
    # All four factors: ONNX Runtime loses sizes, and mixes up factors of some axes, where it moves
    # the channels last for the convolutions around.
    factors = [_factor(*pair) for pair in zip(before, op.attributes["size"], strict=True)]
    scales = model.constant(f"{op.name}.scales", np.array([1, 1, *factors], np.float32))
    inputs = [model.real(op.inputs[0]), "", scales]
    linear = op.kind == "resize_bilinear"
    model.emit(
        op,
        "Resize",
        inputs,
        mode="linear" if linear else "nearest",
        coordinate_transformation_mode=mode,
        nearest_mode="floor" if mode == "asymmetric" else "round_prefer_ceil",
    )


HANDLERS: dict[str, Callable[[Model, Op], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": _fully_connected,
    "add": _elementwise,
    "sub": _elementwise,
    "mul": _elementwise,
    "maximum": _elementwise,
    "minimum": _elementwise,
    "prelu": _prelu,
    "relu": _relu,
    "relu6": _relu,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "mean": _mean,
    "softmax": _softmax,
    "concat": _concat,
    "pad": _pad,
    "reshape": _reshape,
    "quantize": _requantize,
    "transpose": _transpose,
    "depth_to_space": _depth_to_space,
    "resize_nearest": _resize,
    "resize_bilinear": _resize,
}
