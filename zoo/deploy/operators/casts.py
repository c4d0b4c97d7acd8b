"""Changes of type and of quantization in files."""

from typing import TYPE_CHECKING

from zoo.deploy import tflite_schema
from zoo.deploy.operators.contract import Emit, Parts, TfliteOp, alone, without_options
from zoo.graph.ir import Graph, Op

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _onnx_quantize(model: "Model", op: Op) -> None:
    model.emit(op, "Identity", [model.real(op.inputs[0])])


def _write_cast(graph: Graph, op: Op) -> Parts:
    before, after = (
        tflite_schema.TENSOR_TYPES[graph.tensors[name].dtype]
        for name in (op.inputs[0], op.outputs[0])
    )
    return "CAST", {"in_data_type": before, "out_data_type": after}, []


TFLITE = {
    "quantize": TfliteOp(names=("QUANTIZE",), write=alone, read=without_options(1)),
    "dequantize": TfliteOp(names=("DEQUANTIZE",), write=alone, read=without_options(1)),
    "cast": TfliteOp(names=("CAST",), write=_write_cast, read=without_options(1)),
}
ONNX: dict[str, Emit] = {"quantize": _onnx_quantize}
