"""Products of two computed matrices in files."""

from typing import TYPE_CHECKING

from zoo.deploy.operators.contract import Emit, OperatorCall, Parsed, Parts, TfliteOp
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW, NHWC

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write(graph: Graph, op: Op) -> Parts:
    return "BATCH_MATMUL", {key: op.attributes[key] for key in ("adj_x", "adj_y")}, []


def _read(call: OperatorCall) -> Parsed:
    call.expect(2)
    return call.inputs, {key: bool(call.option(key, False)) for key in ("adj_x", "adj_y")}


def _onnx(model: "Model", op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    values = []
    for place, (name, key) in enumerate(zip(op.inputs, ("adj_x", "adj_y"), strict=True)):
        value = model.operand(name, rank)
        order = list(NHWC) if rank == 4 else list(range(rank))
        if op.attributes[key]:
            order[-2:] = order[-1], order[-2]
        if order != list(range(rank)):
            value = model.node("Transpose", [value], f"{op.name}.operand{place}", perm=order)
        values.append(value)
    if rank != 4:
        model.emit(op, "MatMul", values)
        return
    product = model.node("MatMul", values, f"{op.name}.product")
    model.emit(op, "Transpose", [product], perm=list(NCHW))


TFLITE = {"batch_matmul": TfliteOp(names=("BATCH_MATMUL",), write=_write, read=_read)}
ONNX: dict[str, Emit] = {"batch_matmul": _onnx}
