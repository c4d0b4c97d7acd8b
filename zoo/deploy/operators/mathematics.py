"""Functions and reductions of real numbers, and repetitions, in `.tflite` files."""

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
from zoo.graph.operators.mathematics import FUNCTIONS, REDUCTIONS

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write_reduction(graph: Graph, op: Op) -> Parts:
    axes = np.array(op.attributes["dim"], np.int32)
    return op.kind.upper(), {"keep_dims": op.attributes["keepdim"]}, [axes]


def _read_reduction(call: OperatorCall) -> Parsed:
    call.expect(2)
    dims = tuple(sorted(set(call.axes())))
    return call.inputs[:1], {"dim": dims, "keepdim": bool(call.option("keep_dims"))}


def _write_tile(graph: Graph, op: Op) -> Parts:
    return "TILE", {}, [np.array(op.attributes["times"], np.int32)]


def _read_tile(call: OperatorCall) -> Parsed:
    call.expect(2)
    times = tuple(int(count) for count in call.constant(1).reshape(-1))
    if any(not 0 < count < 2**31 for count in times):
        raise UnsafeFileError(f"TILE at {call.output} repeats {times} times")
    return call.inputs[:1], {"times": times}


def _onnx_rsqrt(model: "Model", op: Op) -> None:
    root = model.node("Sqrt", [model.real(op.inputs[0])], f"{op.name}.root")
    model.emit(op, "Reciprocal", [root])


TFLITE = {
    **{
        name: TfliteOp(names=(name.upper(),), write=alone, read=without_options(1))
        for name in (*FUNCTIONS, "rsqrt")
    },
    "squared_difference": TfliteOp(
        names=("SQUARED_DIFFERENCE",), write=alone, read=without_options(2)
    ),
    **{
        name: TfliteOp(names=(name.upper(),), write=_write_reduction, read=_read_reduction)
        for name in REDUCTIONS
    },
    "tile": TfliteOp(names=("TILE",), write=_write_tile, read=_read_tile),
}
ONNX: dict[str, Emit] = {"rsqrt": _onnx_rsqrt}
