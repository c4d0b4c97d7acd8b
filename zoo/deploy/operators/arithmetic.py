"""Sums, products and extremes in files."""

import math
from typing import TYPE_CHECKING

from zoo.deploy.operators.contract import (
    Emit,
    OperatorCall,
    Options,
    Parsed,
    Parts,
    TfliteOp,
    activation_code,
    alone,
)
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op, Quantization

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write(graph: Graph, op: Op) -> Parts:
    options: Options = {"activation": activation_code(op)}
    if op.kind != "mul" and graph.tensors[op.outputs[0]].dtype == "int16":
        options["pot_scale_int16"] = False
    return op.kind.upper(), options, []


def _is_shift(meaning: Quantization | None) -> bool:
    """Whether a scale is a power of two: only then LiteRT shifts."""
    return meaning is not None and math.frexp(meaning.scales[0])[0] == 0.5


def _read(call: OperatorCall) -> Parsed:
    call.expect(2)
    tensors = [call.tensors[name] for name in (*call.inputs, call.output) if name]
    shifts = tensors[-1].dtype == "int16" and call.option("pot_scale_int16", False)
    if shifts and all(_is_shift(tensor.quantization) for tensor in tensors):
        raise MismatchError(
            f"{call.name} at {call.output} may shift int16 instead of rescaling it, which "
            "runtimes do differently; convert the file with pot_scale_int16 = false"
        )
    return call.inputs, call.activation()


def _onnx(node: str) -> Emit:
    def emit(model: "Model", op: Op) -> None:
        rank = len(model.shape(op.outputs[0]))
        model.emit(op, node, [model.operand(name, rank) for name in op.inputs])

    return emit


TFLITE = {
    "add": TfliteOp(names=("ADD",), write=_write, read=_read),
    "sub": TfliteOp(names=("SUB",), write=_write, read=_read),
    "mul": TfliteOp(names=("MUL",), write=_write, read=_read),
    "maximum": TfliteOp(names=("MAXIMUM",), write=alone, read=_read),
    "minimum": TfliteOp(names=("MINIMUM",), write=alone, read=_read),
}
ONNX: dict[str, Emit] = {
    "add": _onnx("Add"),
    "sub": _onnx("Sub"),
    "mul": _onnx("Mul"),
    "maximum": _onnx("Max"),
    "minimum": _onnx("Min"),
}
