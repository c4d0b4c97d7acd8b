"""Tensors stacked and taken apart, and places of extremes, in `.tflite` files."""

import numpy as np

from zoo.deploy import tflite_schema
from zoo.deploy.operators.contract import OperatorCall, Parsed, Parts, TfliteOp
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op


def _dim(axis: int, rank: int) -> dict[str, int]:
    return {"dim": axis + rank if axis < 0 else axis}


def _write_pack(graph: Graph, op: Op) -> Parts:
    return "PACK", {"values_count": len(op.inputs), "axis": op.attributes["dim"]}, []


def _read_pack(call: OperatorCall) -> Parsed:
    return call.inputs, _dim(call.option("axis"), len(call.shape(0)) + 1)


def _write_unpack(graph: Graph, op: Op) -> Parts:
    return "UNPACK", {"num": len(op.outputs), "axis": op.attributes["dim"]}, []


def _read_unpack(call: OperatorCall) -> Parsed:
    call.expect(1)
    return call.inputs, _dim(call.option("axis"), len(call.shape(0)))


def _write_extreme(graph: Graph, op: Op) -> Parts:
    kind = graph.tensors[op.outputs[0]].dtype
    axis = np.array(op.attributes["dim"], np.int32)
    return op.kind.upper(), {"output_type": tflite_schema.TENSOR_TYPES[kind]}, [axis]


def _read_extreme(call: OperatorCall) -> Parsed:
    call.expect(2)
    if call.tensors[call.output].dtype not in ("int32", "int64"):
        raise MismatchError(f"{call.name} at {call.output} does not make int32 or int64")
    axes = call.axes()
    if len(axes) != 1:
        raise MismatchError(f"{call.name} at {call.output} goes along {len(axes)} dimensions")
    return call.inputs[:1], {"dim": axes[0]}


TFLITE = {
    "pack": TfliteOp(names=("PACK",), write=_write_pack, read=_read_pack),
    "unpack": TfliteOp(names=("UNPACK",), write=_write_unpack, read=_read_unpack),
    "arg_max": TfliteOp(names=("ARG_MAX",), write=_write_extreme, read=_read_extreme),
    "arg_min": TfliteOp(names=("ARG_MIN",), write=_write_extreme, read=_read_extreme),
}
