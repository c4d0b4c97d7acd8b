"""Convolutions and fully connected layers in files."""

from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy import tflite_schema
from zoo.deploy.operators.contract import (
    Emit,
    OperatorCall,
    Parsed,
    Parts,
    TfliteOp,
    activation_code,
    onnx_window,
    window,
    window_options,
)
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW, NHWC
from zoo.graph.windows import same_padding

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write_conv2d(graph: Graph, op: Op) -> Parts:
    dilation = op.attributes["dilation"]
    options = {**window_options(graph, op), "dilation_h": dilation[0], "dilation_w": dilation[1]}
    if op.kind == "conv2d":
        return "CONV_2D", options, []
    channels = graph.tensors[op.inputs[0]].shape[3]
    options["depth_multiplier"] = graph.tensors[op.inputs[1]].shape[3] // channels
    return "DEPTHWISE_CONV_2D", options, []


def _read_conv2d(call: OperatorCall) -> Parsed:
    call.expect(2, 3)
    call.rank4(0, 1)
    weight, channels = call.shape(1), call.shape(0)[3]
    depthwise = call.name == "DEPTHWISE_CONV_2D"
    attributes = window(call, (weight[1], weight[2]))
    attributes["groups"] = channels if depthwise else max(1, channels // weight[3])
    return call.inputs, attributes


def _read_transpose_conv(call: OperatorCall) -> Parsed:
    call.expect(3, 4)
    call.rank4(1, 2)
    # The size of the output stands first; it may be computed, and the output says it anyway.
    _, kernel_height, kernel_width, _ = call.shape(1)
    output = call.tensors[call.output].shape
    if len(output) != 4:
        raise MismatchError(f"{call.name} at {call.output} makes {output}; expected 4 dimensions")
    size, kernel = output[1:3], (kernel_height, kernel_width)
    attributes = window(call, kernel, size)
    del attributes["dilation"]
    inputs = (call.inputs[2], call.inputs[1], *call.inputs[3:])
    return inputs, {**attributes, "size": size}


def _write_transpose_conv(graph: Graph, op: Op) -> Parts:
    a, size = op.attributes, np.array(graph.tensors[op.outputs[0]].shape, np.int32)
    if any(a["padding"]) and a["padding"] != same_padding(
        a["size"], a["kernel"], a["stride"], (1, 1)
    ):
        raise MismatchError(f"{op.label} has padding {a['padding']}, which is not TFLite's SAME")
    options = {
        "padding": tflite_schema.SAME if any(a["padding"]) else tflite_schema.VALID,
        "stride_h": a["stride"][0],
        "stride_w": a["stride"][1],
        "activation": activation_code(op),
    }
    return "TRANSPOSE_CONV", options, [size]


def _write_fully_connected(graph: Graph, op: Op) -> Parts:
    keep = len(graph.tensors[op.outputs[0]].shape) > 2
    return "FULLY_CONNECTED", {"activation": activation_code(op), "keep_num_dims": keep}, []


def _read_fully_connected(call: OperatorCall) -> Parsed:
    call.expect(2, 3)
    if call.option("weights_format"):
        raise MismatchError(f"FULLY_CONNECTED at {call.output} has shuffled weights")
    attributes = call.activation()
    if call.option("asymmetric_quantize_inputs", False):
        attributes["asymmetric_inputs"] = True  # of floats, on int8 weights
    return call.inputs, attributes


def _onnx_conv2d(model: "Model", op: Op) -> None:
    weight = model.graph.values[op.inputs[1]]
    order = (3, 0, 1, 2) if op.kind == "depthwise_conv2d" else NCHW
    inputs = [model.real(op.inputs[0]), model.parameter(op.inputs[1], weight.transpose(order))]
    inputs += [model.parameter(name, model.graph.values[name]) for name in op.inputs[2:]]
    options = {"dilations": list(op.attributes["dilation"]), "group": op.attributes["groups"]}
    model.emit(op, "Conv", inputs, **onnx_window(op), **options)


def _onnx_transpose_conv(model: "Model", op: Op) -> None:
    a, weight = op.attributes, model.graph.values[op.inputs[1]]
    inputs = [model.real(op.inputs[0])]
    inputs.append(model.parameter(op.inputs[1], weight.transpose(3, 0, 1, 2), axis=1))
    inputs += [model.parameter(name, model.graph.values[name]) for name in op.inputs[2:]]
    pads, before = a["padding"], model.shape(op.inputs[0])[1:3]
    more = [
        size - ((n - 1) * s + k - pads[2 * side] - pads[2 * side + 1])
        for side, (size, n, s, k) in enumerate(
            zip(a["size"], before, a["stride"], a["kernel"], strict=True)
        )
    ]
    model.emit(op, "ConvTranspose", inputs, **onnx_window(op), output_padding=more)


def _onnx_fully_connected(model: "Model", op: Op) -> None:
    ranks = [len(model.shape(name)) for name in (op.inputs[0], op.outputs[0])]
    weight, *bias = (model.graph.values[name] for name in op.inputs[1:])
    if ranks == [2, 2]:
        names = zip(op.inputs[1:], (weight, *bias), strict=True)
        inputs = [model.real(op.inputs[0]), *(model.parameter(n, value) for n, value in names)]
        model.emit(op, "Gemm", inputs, transB=1)
        return
    if ranks[0] != ranks[1]:
        raise MismatchError(f"{op.label} changes the number of dimensions in an ONNX file: flatten")
    value = model.real(op.inputs[0])
    if ranks[0] == 4:
        value = model.node("Transpose", [value], f"{op.name}.last", perm=list(NHWC))
    matrix = model.parameter(op.inputs[1], weight.T, axis=1)
    value = model.node("MatMul", [value, matrix], f"{op.name}.product")
    if bias:
        added = model.parameter(op.inputs[2], bias[0])
        value = model.node("Add", [value, added], f"{op.name}.sum")
    if ranks[0] == 4:
        model.emit(op, "Transpose", [value], perm=list(NCHW))
    else:
        model.emit(op, "Identity", [value])


TFLITE = {
    "conv2d": TfliteOp(names=("CONV_2D",), write=_write_conv2d, read=_read_conv2d),
    "depthwise_conv2d": TfliteOp(
        names=("DEPTHWISE_CONV_2D",), write=_write_conv2d, read=_read_conv2d
    ),
    "transpose_conv2d": TfliteOp(
        names=("TRANSPOSE_CONV",),
        write=_write_transpose_conv,
        read=_read_transpose_conv,
        order=(-1, 1, 0),
    ),
    "fully_connected": TfliteOp(
        names=("FULLY_CONNECTED",), write=_write_fully_connected, read=_read_fully_connected
    ),
}
ONNX: dict[str, Emit] = {
    "conv2d": _onnx_conv2d,
    "depthwise_conv2d": _onnx_conv2d,
    "transpose_conv2d": _onnx_transpose_conv,
    "fully_connected": _onnx_fully_connected,
}
