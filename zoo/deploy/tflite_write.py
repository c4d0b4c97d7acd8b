"""From a channels-last graph to a `.tflite` file: int8 with its quantization, or float."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import flatbuffer, tflite_schema
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.check import check
from zoo.graph.ir import LIMITS, Graph, Op, Quantization, Tensor
from zoo.graph.rewrite import on_npu

MAX_BYTES = 2**31
_ACTIVATIONS = tflite_schema.ACTIVATIONS
# The first version of an operator that takes int8 (tensorflow/lite/tools/versioning); else 1.
_INT8_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "PRELU": 1}
_INT8_VERSIONS |= {"RESHAPE": 1, "QUANTIZE": 1, "DEPTH_TO_SPACE": 1}
_INT16_VERSIONS = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 7, "RESHAPE": 1}
_INT16_VERSIONS |= {"MUL": 4, "SUB": 5, "TRANSPOSE": 4, "DEPTH_TO_SPACE": 1, "QUANTIZE": 2}
_INT16_VERSIONS |= {"RESIZE_BILINEAR": 4, "RESIZE_NEAREST_NEIGHBOR": 4, "RELU": 3, "PRELU": 1}

Options = dict[str, Any]
Parts = tuple[str, Options, list[NDArray[Any]]]  # operator, options, constant operands to append


def write_tflite(graph: Graph, path: Path) -> Path:
    """Write a graph as one file, which is replaced in one step or not at all."""
    write_bytes(path, serialize_tflite(graph))
    return path


def serialize_tflite(graph: Graph) -> bytes:
    """Return the bytes of a `.tflite` file.

    Raises:
        MismatchError: the graph is not channels last, or holds what the format cannot say; the
            message names the operator.

    """
    if graph.layout != "channels_last":
        raise MismatchError("a .tflite file is channels last; use zoo.graph.lower first")
    if graph.tensors[graph.inputs[0]].dtype == "int16":
        graph = on_npu(graph)  # no runtime has an int16 DEPTH_TO_SPACE
    check(graph)
    for tensor in graph.tensors.values():
        if tensor.bytes() >= MAX_BYTES:
            users = [op for op in graph.ops if tensor.name in (*op.outputs, *op.inputs)]
            raise MismatchError(
                f"{users[0].label if users else tensor.name} has a tensor of {tensor.bytes()} "
                f"bytes, {tensor.dtype} {tensor.shape}; TFLite has sizes below 2 GiB: export for a "
                "smaller input and run the device on tiles"
            )
    model = _Writer(graph).model()
    return flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER)


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.buffers: list[dict[str, Any]] = [{}]  # the first one means: no data
        self.tables: list[dict[str, Any]] = []
        self.places: dict[str, int] = {}
        self.codes: dict[tuple[str, int], int] = {}
        for name, tensor in graph.tensors.items():
            self.places[name] = self.add(tensor, graph.values.get(name))

    def model(self) -> dict[str, Any]:
        operators = [self.operator(op) for op in self.graph.ops]
        codes = []
        for name, version in self.codes:
            number = tflite_schema.OPERATORS[name][0]
            codes.append(
                {
                    "deprecated_builtin_code": min(number, 127),
                    "builtin_code": number,
                    "version": version,
                }
            )
        subgraph = {
            "tensors": self.tables,
            "inputs": self.indices(self.graph.inputs),
            "outputs": self.indices(self.graph.outputs),
            "operators": operators,
            "name": "main",
        }
        return {
            "version": 3,
            "operator_codes": codes,
            "subgraphs": [subgraph],
            "description": "edge-zoo",
            "buffers": self.buffers,
        }

    def indices(self, names: tuple[str, ...]) -> NDArray[np.int32]:
        return np.array([self.places[name] for name in names], np.int32)

    def add(self, tensor: Tensor, value: NDArray[Any] | None) -> int:
        buffer = 0
        if value is not None:
            buffer = len(self.buffers)
            data = np.ascontiguousarray(value, np.dtype(tensor.dtype).newbyteorder("<"))
            self.buffers.append({"data": np.frombuffer(data.tobytes(), np.uint8)})
        table = {
            "shape": np.array(tensor.shape, np.int32),
            "type": tflite_schema.TENSOR_TYPES[tensor.dtype],
            "buffer": buffer,
            "name": tensor.name,
            "quantization": _quantization(tensor.quantization),
        }
        self.tables.append(table)
        return len(self.tables) - 1

    def operator(self, op: Op) -> dict[str, Any]:
        handler = _HANDLERS.get(op.kind)
        if handler is None:
            raise MismatchError(f"{op.label} has no TFLite operator here")
        name, options, extra = handler(self.graph, op)
        inputs = [int(index) for index in self.indices(op.inputs)]
        for number, value in enumerate(extra):
            tensor = Tensor(
                name=f"{op.name}/{number}",
                shape=value.shape,
                dtype=value.dtype.name,
                kind="constant",
                # The value a PADV2 pads with is an integer of its input's kind.
                quantization=self.graph.tensors[op.inputs[0]].quantization
                if value.dtype.name in LIMITS
                else None,
            )
            inputs.append(self.add(tensor, value))
        dtype = self.graph.tensors[op.inputs[0]].dtype
        version = {"int8": _INT8_VERSIONS.get(name, 2), "int16": _INT16_VERSIONS.get(name, 3)}.get(
            dtype, 1
        )
        index = self.codes.setdefault((name, version), len(self.codes))
        number = tflite_schema.OPERATORS[name][1]
        result = {
            "opcode_index": index,
            "inputs": np.array(inputs, np.int32),
            "outputs": self.indices(op.outputs),
        }
        if number:
            result |= {"builtin_options_type": number, "builtin_options": options}
        return result


def _quantization(meaning: Quantization | None) -> dict[str, Any] | None:
    if meaning is None:
        return None
    return {
        "scale": np.array(meaning.scales, np.float32),
        "zero_point": np.array(meaning.zero_points, np.int64),
        "quantized_dimension": meaning.axis or 0,
    }


def _activation(op: Op) -> int:
    activation = op.attributes.get("activation")
    if activation not in _ACTIVATIONS:
        raise MismatchError(
            f"{op.label} has the fused activation {activation!r}, which TFLite has not; for clamps "
            "use zoo.graph.rewrite.without_clamps"
        )
    return _ACTIVATIONS[activation]


def _window(graph: Graph, op: Op) -> Options:
    a = op.attributes
    size = graph.tensors[op.inputs[0]].shape[1:3]
    same: list[int] = []
    for n, k, s, d in zip(size, a["kernel"], a["stride"], a["dilation"], strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        same += [total // 2, total - total // 2]
    if any(a["padding"]) and a["padding"] != tuple(same):
        raise MismatchError(f"{op.label} has padding {a['padding']}, which is not TFLite's SAME")
    return {
        "padding": tflite_schema.SAME if any(a["padding"]) else tflite_schema.VALID,
        "stride_h": a["stride"][0],
        "stride_w": a["stride"][1],
        "activation": _activation(op),
    }


def _conv(graph: Graph, op: Op) -> Parts:
    dilation = op.attributes["dilation"]
    options = {**_window(graph, op), "dilation_h": dilation[0], "dilation_w": dilation[1]}
    if op.kind == "conv2d":
        return "CONV_2D", options, []
    channels = graph.tensors[op.inputs[0]].shape[3]
    options["depth_multiplier"] = graph.tensors[op.inputs[1]].shape[3] // channels
    return "DEPTHWISE_CONV_2D", options, []


def _fully_connected(graph: Graph, op: Op) -> Parts:
    keep = len(graph.tensors[op.outputs[0]].shape) > 2
    return "FULLY_CONNECTED", {"activation": _activation(op), "keep_num_dims": keep}, []


def _pool(graph: Graph, op: Op) -> Parts:
    height, width = op.attributes["kernel"]
    options = {**_window(graph, op), "filter_height": height, "filter_width": width}
    return ("AVERAGE_POOL_2D" if op.kind == "avg_pool2d" else "MAX_POOL_2D"), options, []


def _with_activation(graph: Graph, op: Op) -> Parts:
    options: Options = {"activation": _activation(op)}
    if op.kind != "mul" and graph.tensors[op.outputs[0]].dtype == "int16":
        options["pot_scale_int16"] = False
    return op.kind.upper(), options, []


def _plain(graph: Graph, op: Op) -> Parts:
    return op.kind.upper(), {}, []


def _softmax(graph: Graph, op: Op) -> Parts:
    return "SOFTMAX", {"beta": op.attributes["beta"]}, []


def _concat(graph: Graph, op: Op) -> Parts:
    options = {"axis": op.attributes["dim"], "activation": _activation(op)}
    return "CONCATENATION", options, []


def _pad(graph: Graph, op: Op) -> Parts:
    padding, value = op.attributes["padding"], op.attributes["value"]
    flat = [0] * (2 * len(graph.tensors[op.inputs[0]].shape) - len(padding))
    pairs = np.array([*padding, *flat], np.int32).reshape(-1, 2)[::-1]
    if not value:
        return "PAD", {}, [pairs]
    meaning = graph.tensors[op.inputs[0]].quantization
    if meaning is None:
        return "PADV2", {}, [pairs, np.array([value], np.float32)]
    dtype = graph.tensors[op.inputs[0]].dtype
    return "PADV2", {}, [pairs, np.array([value + meaning.zero_point], dtype)]


def _reshape(graph: Graph, op: Op) -> Parts:
    shape = np.array(graph.tensors[op.outputs[0]].shape, np.int32)
    return "RESHAPE", {"new_shape": shape}, [shape]


def _transpose(graph: Graph, op: Op) -> Parts:
    return "TRANSPOSE", {}, [np.array(op.attributes["dims"], np.int32)]


def _mean(graph: Graph, op: Op) -> Parts:
    axes = np.array(op.attributes["dim"], np.int32)
    return "MEAN", {"keep_dims": op.attributes["keepdim"]}, [axes]


def _depth_to_space(graph: Graph, op: Op) -> Parts:
    return "DEPTH_TO_SPACE", {"block_size": op.attributes["block"]}, []


def _resize(graph: Graph, op: Op) -> Parts:
    options = {key: op.attributes[key] for key in ("align_corners", "half_pixel_centers")}
    name = "RESIZE_BILINEAR" if op.kind == "resize_bilinear" else "RESIZE_NEAREST_NEIGHBOR"
    return name, options, [np.array(op.attributes["size"], np.int32)]


_HANDLERS: Mapping[str, Callable[[Graph, Op], Parts]] = {
    "conv2d": _conv,
    "depthwise_conv2d": _conv,
    "fully_connected": _fully_connected,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "add": _with_activation,
    "sub": _with_activation,
    "mul": _with_activation,
    "prelu": _plain,
    "maximum": _plain,
    "minimum": _plain,
    "relu": _plain,
    "relu6": _plain,
    "quantize": _plain,
    "dequantize": _plain,
    "softmax": _softmax,
    "concat": _concat,
    "pad": _pad,
    "reshape": _reshape,
    "transpose": _transpose,
    "mean": _mean,
    "depth_to_space": _depth_to_space,
    "resize_bilinear": _resize,
    "resize_nearest": _resize,
}
