"""Changes of type and of quantization in files."""

from typing import TYPE_CHECKING

from zoo.deploy.operators.contract import Emit, TfliteOp, alone, without_options
from zoo.graph.ir import Op

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _onnx_quantize(model: "Model", op: Op) -> None:
    model.emit(op, "Identity", [model.real(op.inputs[0])])


TFLITE = {
    "quantize": TfliteOp(names=("QUANTIZE",), write=alone, read=without_options(1)),
    "dequantize": TfliteOp(names=("DEQUANTIZE",), write=alone, read=without_options(1)),
}
ONNX: dict[str, Emit] = {"quantize": _onnx_quantize}
