"""Averages and maxima of windows, and means, in files."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy.operators.contract import (
    Emit,
    OperatorCall,
    Parsed,
    Parts,
    TfliteOp,
    onnx_window,
    window,
    window_options,
)
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write_pool(name: str) -> Callable[[Graph, Op], Parts]:
    def write(graph: Graph, op: Op) -> Parts:
        height, width = op.attributes["kernel"]
        options = {**window_options(graph, op), "filter_height": height, "filter_width": width}
        return name, options, []

    return write


def _read_pool(call: OperatorCall) -> Parsed:
    call.expect(1)
    call.rank4(0)
    kernel = (call.option("filter_height"), call.option("filter_width"))
    return call.inputs, {**window(call, kernel), "count_padding": False}


def _write_mean(graph: Graph, op: Op) -> Parts:
    axes = np.array(op.attributes["dim"], np.int32)
    return "MEAN", {"keep_dims": op.attributes["keepdim"]}, [axes]


def _read_mean(call: OperatorCall) -> Parsed:
    call.expect(2)
    dims = tuple(sorted(set(call.axes())))
    return call.inputs[:1], {"dim": dims, "keepdim": bool(call.option("keep_dims"))}


def _onnx_pool(node: str) -> Emit:
    def emit(model: "Model", op: Op) -> None:
        model.emit(op, node, [model.real(op.inputs[0])], **onnx_window(op))

    return emit


def _onnx_mean(model: "Model", op: Op) -> None:
    axes = np.array([model.axis(op, dim) for dim in op.attributes["dim"]], np.int64)
    inputs = [model.real(op.inputs[0]), model.constant(f"{op.name}.axes", axes)]
    model.emit(op, "ReduceMean", inputs, keepdims=int(op.attributes["keepdim"]))


TFLITE = {
    "avg_pool2d": TfliteOp(
        names=("AVERAGE_POOL_2D",), write=_write_pool("AVERAGE_POOL_2D"), read=_read_pool
    ),
    "max_pool2d": TfliteOp(
        names=("MAX_POOL_2D",), write=_write_pool("MAX_POOL_2D"), read=_read_pool
    ),
    "mean": TfliteOp(names=("MEAN",), write=_write_mean, read=_read_mean),
}
ONNX: dict[str, Emit] = {
    "avg_pool2d": _onnx_pool("AveragePool"),
    "max_pool2d": _onnx_pool("MaxPool"),
    "mean": _onnx_mean,
}
