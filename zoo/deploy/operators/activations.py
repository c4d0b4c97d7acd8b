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
from zoo.errors import UnsafeFileError
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


def _write_leaky_relu(graph: Graph, op: Op) -> Parts:
    return "LEAKY_RELU", {"alpha": op.attributes["negative_slope"]}, []


def _read_leaky_relu(call: OperatorCall) -> Parsed:
    call.expect(1)
    alpha = call.option("alpha", 0.0)
    if not -math.inf < alpha < math.inf:
        raise UnsafeFileError(f"LEAKY_RELU at {call.output} has alpha {alpha}")
    return call.inputs, {"negative_slope": alpha}


def _write_sigmoid(graph: Graph, op: Op) -> Parts:
    return "LOGISTIC", {}, []


def _onnx_plain(node: str) -> Emit:
    def emit(model: "Model", op: Op) -> None:
        model.emit(op, node, [model.real(op.inputs[0])])

    return emit


def _onnx_leaky_relu(model: "Model", op: Op) -> None:
    slope = float(op.attributes.get("negative_slope", 0.01))
    model.emit(op, "LeakyRelu", [model.real(op.inputs[0])], alpha=slope)


def _write_gelu(graph: Graph, op: Op) -> Parts:
    return "GELU", {"approximate": op.attributes["approximate"] == "tanh"}, []


def _read_gelu(call: OperatorCall) -> Parsed:
    call.expect(1)
    return call.inputs, {"approximate": "tanh" if call.option("approximate", False) else "none"}


def _onnx_gelu(model: "Model", op: Op) -> None:
    how = op.attributes["approximate"]
    model.emit(op, "Gelu", [model.real(op.inputs[0])], approximate=how)


def _onnx_relu(model: "Model", op: Op) -> None:
    model.emit(op, "Relu", [model.real(op.inputs[0])])


def _onnx_relu6(model: "Model", op: Op) -> None:
    limits = [model.constant(f"{op.name}.{x}", np.float32(x)) for x in (0, 6)]
    model.emit(op, "Clip", [model.real(op.inputs[0]), *limits])


def _onnx_prelu(model: "Model", op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    model.emit(op, "PRelu", [model.operand(name, rank) for name in op.inputs])


def _onnx_softmax(model: "Model", op: Op) -> None:
    beta, value = op.attributes.get("beta", 1.0), model.real(op.inputs[0])
    if beta != 1.0:
        factor = model.constant(f"{op.name}.beta", np.float32(beta))
        value = model.node("Mul", [value, factor], f"{op.name}.scaled")
    model.emit(op, "Softmax", [value], axis=model.axis(op, len(model.shape(op.inputs[0])) - 1))


TFLITE = {
    "relu": TfliteOp(names=("RELU",), write=alone, read=without_options(1)),
    "relu6": TfliteOp(names=("RELU6",), write=alone, read=without_options(1)),
    "prelu": TfliteOp(names=("PRELU",), write=alone, read=without_options(2)),
    "sigmoid": TfliteOp(names=("LOGISTIC",), write=_write_sigmoid, read=without_options(1)),
    "hard_swish": TfliteOp(names=("HARD_SWISH",), write=alone, read=without_options(1)),
    "tanh": TfliteOp(names=("TANH",), write=alone, read=without_options(1)),
    "gelu": TfliteOp(names=("GELU",), write=_write_gelu, read=_read_gelu),
    "elu": TfliteOp(names=("ELU",), write=alone, read=without_options(1)),
    "leaky_relu": TfliteOp(names=("LEAKY_RELU",), write=_write_leaky_relu, read=_read_leaky_relu),
    "softmax": TfliteOp(names=("SOFTMAX",), write=_write_softmax, read=_read_softmax),
}
ONNX: dict[str, Emit] = {
    "relu": _onnx_relu,
    "relu6": _onnx_relu6,
    "prelu": _onnx_prelu,
    "softmax": _onnx_softmax,
    "sigmoid": _onnx_plain("Sigmoid"),
    "tanh": _onnx_plain("Tanh"),
    "hard_swish": _onnx_plain("HardSwish"),
    "leaky_relu": _onnx_leaky_relu,
    "gelu": _onnx_gelu,
    "elu": _onnx_plain("Elu"),
}
