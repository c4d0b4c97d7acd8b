"""Reshapes, transpositions, joins and borders in files."""

from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy.operators.contract import (
    Emit,
    OperatorCall,
    Parsed,
    Parts,
    TfliteOp,
    activation_code,
)
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import FIRST, NCHW, NHWC, channels_first, order_matters

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model


def _write_reshape(graph: Graph, op: Op) -> Parts:
    shape = np.array(graph.tensors[op.outputs[0]].shape, np.int32)
    return "RESHAPE", {"new_shape": shape}, [shape]


def _read_reshape(call: OperatorCall) -> Parsed:
    return call.inputs[:1], {}


def _write_transpose(graph: Graph, op: Op) -> Parts:
    return "TRANSPOSE", {}, [np.array(op.attributes["dims"], np.int32)]


def _read_transpose(call: OperatorCall) -> Parsed:
    call.expect(2)
    return call.inputs[:1], {"dims": tuple(call.axes())}


def _write_depth_to_space(graph: Graph, op: Op) -> Parts:
    return op.kind.upper(), {"block_size": op.attributes["block"]}, []


def _read_depth_to_space(call: OperatorCall) -> Parsed:
    call.expect(1)
    return call.inputs, {"block": call.option("block_size")}


def _write_concat(graph: Graph, op: Op) -> Parts:
    options = {"axis": op.attributes["dim"], "activation": activation_code(op)}
    return "CONCATENATION", options, []


def _read_concat(call: OperatorCall) -> Parsed:
    rank, axis = len(call.shape(0)), call.option("axis")
    return call.inputs, {"dim": axis + rank if axis < 0 else axis, **call.activation()}


def _write_pad(graph: Graph, op: Op) -> Parts:
    padding, value = op.attributes["padding"], op.attributes["value"]
    flat = [0] * (2 * len(graph.tensors[op.inputs[0]].shape) - len(padding))
    pairs = np.array([*padding, *flat], np.int32).reshape(-1, 2)[::-1]
    if not value:
        return "PAD", {}, [pairs]
    meaning = graph.tensors[op.inputs[0]].quantization
    if meaning is None:
        return "PADV2", {}, [pairs, np.array([value], np.float32)]
    dtype = graph.tensors[op.inputs[0]].dtype
    return "PADV2", {}, [pairs, np.array([value + meaning.zero_point], dtype)]


def _read_pad(call: OperatorCall) -> Parsed:
    call.expect(3 if call.name == "PADV2" else 2)
    pairs = call.constant(1)
    if pairs.shape != (len(call.shape(0)), 2) or np.any(pairs < 0) or np.any(pairs > 2**20):
        raise UnsafeFileError(f"PAD at {call.output} has impossible paddings")
    padding = tuple(int(size) for pair in pairs[::-1] for size in pair)
    return call.inputs[:1], {"padding": padding, "value": _pad_value(call)}


def _pad_value(call: OperatorCall) -> float:
    """Return the value PADV2 pads with: an integer minus the zero point, or a float."""
    if call.name == "PAD":
        return 0
    value = call.values.get(call.inputs[2])
    if value is None or value.size != 1 or not value.flat[0] < np.inf:
        raise MismatchError(f"PADV2 at {call.output} does not pad with one constant number")
    if value.dtype.kind == "f":
        return float(value.flat[0])
    meaning = call.tensors[call.inputs[0]].quantization
    return int(value.flat[0]) - (0 if meaning is None else meaning.zero_point)


def _onnx_reshape(model: "Model", op: Op) -> None:
    before, after = (model.shape(name) for name in (op.inputs[0], op.outputs[0]))
    value = model.real(op.inputs[0])
    if len(before) == 4 and order_matters(channels_first(before)):
        value = model.node("Transpose", [value], f"{op.name}.last", perm=list(NHWC))
    # 0 keeps the batch, whatever its size.
    sizes = [0 if before[0] == after[0] else after[0], *after[1:]]
    turned = len(after) == 4 and order_matters(channels_first(after))
    if len(after) == 4 and not turned:
        sizes = [sizes[i] for i in NCHW]
    shape = model.constant(f"{op.name}.shape", np.array(sizes, np.int64))
    if turned:
        value = model.node("Reshape", [value, shape], f"{op.name}.rows")
        model.emit(op, "Transpose", [value], perm=list(NCHW))
        return
    model.emit(op, "Reshape", [value, shape])


def _onnx_transpose(model: "Model", op: Op) -> None:
    dims = op.attributes["dims"]
    if len(dims) == 4:
        dims = tuple(FIRST[dims[i]] for i in NCHW)
    model.emit(op, "Transpose", [model.real(op.inputs[0])], perm=list(dims))


def _onnx_depth_to_space(model: "Model", op: Op) -> None:
    block = op.attributes["block"]
    model.emit(op, "DepthToSpace", [model.real(op.inputs[0])], blocksize=block, mode="DCR")


def _onnx_space_to_depth(model: "Model", op: Op) -> None:
    block = op.attributes["block"]
    model.emit(op, "SpaceToDepth", [model.real(op.inputs[0])], blocksize=block)


def _onnx_concat(model: "Model", op: Op) -> None:
    rank = len(model.shape(op.outputs[0]))
    dim = op.attributes["dim"]
    inputs = [model.operand(name, rank) for name in op.inputs]
    if model.batched and dim:  # what is stored is the same for each sample
        computed = next(name for name in op.inputs if name not in model.graph.values)
        for place, name in enumerate(op.inputs):
            if name in model.graph.values:
                own = f"{op.name}.operand{place}"
                batch = model.node("Shape", [model.real(computed)], f"{own}.batch", start=0, end=1)
                ones = model.constant(f"{own}.ones", np.ones(rank - 1, np.int64))
                shape = model.node("Concat", [batch, ones], f"{own}.shape", axis=0)
                inputs[place] = model.node("Expand", [inputs[place], shape], f"{own}.all")
    model.emit(op, "Concat", inputs, axis=model.axis(op, dim))


def _onnx_pad(model: "Model", op: Op) -> None:
    padding = op.attributes["padding"]
    pairs = list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    if len(pairs) == 4:
        pairs = [pairs[i] for i in NCHW]
    pads = np.array([side for column in zip(*pairs, strict=True) for side in column], np.int64)
    value = np.float32(op.attributes["value"] * np.float32(model.scale(op).scale))
    inputs = [model.real(op.inputs[0]), model.constant(f"{op.name}.pads", pads)]
    model.emit(op, "Pad", [*inputs, model.constant(f"{op.name}.value", value)])


TFLITE = {
    "reshape": TfliteOp(
        names=("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), write=_write_reshape, read=_read_reshape
    ),
    "transpose": TfliteOp(names=("TRANSPOSE",), write=_write_transpose, read=_read_transpose),
    "depth_to_space": TfliteOp(
        names=("DEPTH_TO_SPACE",), write=_write_depth_to_space, read=_read_depth_to_space
    ),
    "space_to_depth": TfliteOp(
        names=("SPACE_TO_DEPTH",), write=_write_depth_to_space, read=_read_depth_to_space
    ),
    "concat": TfliteOp(names=("CONCATENATION",), write=_write_concat, read=_read_concat),
    "pad": TfliteOp(names=("PAD", "PADV2"), write=_write_pad, read=_read_pad),
}
ONNX: dict[str, Emit] = {
    "reshape": _onnx_reshape,
    "transpose": _onnx_transpose,
    "space_to_depth": _onnx_space_to_depth,
    "depth_to_space": _onnx_depth_to_space,
    "concat": _onnx_concat,
    "pad": _onnx_pad,
}
