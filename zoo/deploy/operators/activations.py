"""Stand-alone activations, and the softmax, in files."""

import math
from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy.operators.contract import (
    Emit,
    OperatorCall,
    Parsed,
    Parts,
    TfliteOp,
    alone,
    without_options,
)
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write_softmax(graph: Graph, op: Op) -> Parts:
    return "SOFTMAX", {"beta": op.attributes["beta"]}, []


def _read_softmax(call: OperatorCall) -> Parsed:
    call.expect(1)
    beta = call.option("beta", 0.0)
    if not 0 < beta < math.inf:
        raise UnsafeFileError(f"SOFTMAX at {call.output} has beta {beta}")
    return call.inputs, {"dim": len(call.shape(0)) - 1, "beta": beta}


def _onnx_relu(model: "Model", op: Op) -> None:
    model.emit(op, "Relu", [model.real(op.inputs[0])])


def _onnx_relu6(model: "Model", op: Op) -> None:
    limits = [model.constant(f"{op.name}.{x}", np.float32(x)) for x in (0, 6)]
    model.emit(op, "Clip", [model.real(op.inputs[0]), *limits])


def _onnx_prelu(model: "Model", op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    model.emit(op, "PRelu", [model.operand(name, rank) for name in op.inputs])


def _onnx_softmax(model: "Model", op: Op) -> None:
    if op.attributes.get("beta", 1.0) != 1.0:
        raise MismatchError(f"{op.label} has a beta other than 1, which ONNX cannot express")
    axis = model.axis(op, len(model.shape(op.inputs[0])) - 1)
    model.emit(op, "Softmax", [model.real(op.inputs[0])], axis=axis)


TFLITE = {
    "relu": TfliteOp(names=("RELU",), write=alone, read=without_options(1)),
    "relu6": TfliteOp(names=("RELU6",), write=alone, read=without_options(1)),
    "prelu": TfliteOp(names=("PRELU",), write=alone, read=without_options(2)),
    "softmax": TfliteOp(names=("SOFTMAX",), write=_write_softmax, read=_read_softmax),
}
ONNX: dict[str, Emit] = {
    "relu": _onnx_relu,
    "relu6": _onnx_relu6,
    "prelu": _onnx_prelu,
    "softmax": _onnx_softmax,
}
