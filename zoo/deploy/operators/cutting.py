"""Slices and cuts in `.tflite` files."""

from typing import TYPE_CHECKING

import numpy as np

from zoo.deploy.operators.contract import Emit, OperatorCall, Parsed, Parts, TfliteOp
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import Graph, Op
from zoo.graph.layout import NCHW

if TYPE_CHECKING:
    from zoo.deploy.onnx_model import Model

Slice = tuple[int, int, int]  # as for range()


def _numbers(call: OperatorCall, place: int, count: int) -> list[int]:
    values = [int(value) for value in call.constant(place).reshape(-1)]
    if len(values) != count:
        raise UnsafeFileError(f"{call.name} at {call.output} lists {len(values)} of {count} sizes")
    return values


def _part(start: int | None, stop: int | None, step: int, size: int) -> Slice:
    """Return a slice of a dimension as TensorFlow means it; None is an end left open."""
    low, high = (0, size) if step > 0 else (-1, size - 1)

    def inside(place: int) -> int:
        return min(max(place + size if place < 0 else place, low), high)

    first = (low if step > 0 else high) if start is None else inside(start)
    last = (high if step > 0 else low) if stop is None else inside(stop)
    return first, last, step


def _read_strided_slice(call: OperatorCall) -> Parsed:
    call.expect(4)
    shape = call.shape(0)
    start, stop, step = (_numbers(call, place, len(shape)) for place in (1, 2, 3))
    if call.option("ellipsis_mask") or call.option("new_axis_mask"):
        raise MismatchError(
            f"{call.name} at {call.output} has an ellipsis or a new axis, which is not supported"
        )
    if not all(step) or max(map(abs, (*start, *stop, *step))) > 2**30:
        raise UnsafeFileError(f"{call.name} at {call.output} has an impossible slice")
    slices: list[Slice] = []
    squeeze = []
    for dim, size in enumerate(shape):
        bit = 1 << dim
        end = start[dim] + stop[dim] if call.option("offset", False) else stop[dim]
        if call.option("shrink_axis_mask") & bit:
            first = start[dim] + size if start[dim] < 0 else start[dim]
            slices.append((first, first + 1, 1))
            squeeze.append(dim)
            continue
        slices.append(
            _part(
                None if call.option("begin_mask") & bit else start[dim],
                None if call.option("end_mask") & bit else end,
                step[dim],
                size,
            )
        )
    return call.inputs[:1], {"slices": tuple(slices), "squeeze": tuple(squeeze)}


def _read_slice(call: OperatorCall) -> Parsed:
    call.expect(3)
    shape = call.shape(0)
    start, sizes = (_numbers(call, place, len(shape)) for place in (1, 2))
    ends = [n if size == -1 else a + size for n, a, size in zip(shape, start, sizes, strict=True)]
    slices = tuple((a, b, 1) for a, b in zip(start, ends, strict=True))
    return call.inputs[:1], {"slices": slices, "squeeze": ()}


def _write_slice(graph: Graph, op: Op) -> Parts:
    slices = np.array(op.attributes["slices"], np.int32)
    # Before the first element, an end is left open.
    open_ends = sum(1 << dim for dim, part in enumerate(op.attributes["slices"]) if part[1] < 0)
    gone = sum(1 << dim for dim in op.attributes["squeeze"])
    options = {"end_mask": open_ends, "shrink_axis_mask": gone}
    return "STRIDED_SLICE", options, [np.ascontiguousarray(column) for column in slices.T]


def _read(call: OperatorCall) -> Parsed:
    return _read_slice(call) if call.name == "SLICE" else _read_strided_slice(call)


def _read_split(call: OperatorCall) -> Parsed:
    by_size = call.name == "SPLIT_V"
    call.expect(3 if by_size else 2)
    source, axis = (0, 2) if by_size else (1, 0)
    rank, axes = len(call.shape(source)), call.constant(axis).reshape(-1)
    if len(axes) != 1 or not -rank <= axes[0] < rank:
        raise UnsafeFileError(f"{call.name} at {call.output} has no dimension among its {rank}")
    dim, count = int(axes[0]) % rank, call.option("num_splits")
    if count < 1:
        raise UnsafeFileError(f"{call.name} at {call.output} makes {count} parts")
    whole = call.shape(source)[dim]
    sizes = _numbers(call, 1, count) if by_size else [whole // count] * count
    if -1 in sizes:
        sizes[sizes.index(-1)] = whole - sum(sizes) - 1
    return (call.inputs[source],), {"dim": dim, "sizes": tuple(sizes)}


def _write_split(graph: Graph, op: Op) -> Parts:
    sizes = np.array(op.attributes["sizes"], np.int32)
    axis = np.array(op.attributes["dim"], np.int32)
    return "SPLIT_V", {"num_splits": len(sizes)}, [sizes, axis]


def _onnx_slice(model: "Model", op: Op) -> None:
    slices, shape = op.attributes["slices"], model.graph.tensors[op.inputs[0]].shape
    order = NCHW if len(slices) == 4 else range(len(slices))
    # Only what is cut: the batch may be of any size.
    cut = [
        (axis, *slices[dim]) for axis, dim in enumerate(order) if slices[dim] != (0, shape[dim], 1)
    ]
    axes, start, stop, step = np.array(cut, np.int64).T
    stop = np.where(stop < 0, np.iinfo(np.int64).min, stop)  # before the first element
    parts = {"starts": start, "ends": stop, "axes": axes, "steps": step}
    constants = [model.constant(f"{op.name}.{name}", value) for name, value in parts.items()]
    model.emit(op, "Slice", [model.real(op.inputs[0]), *constants])


TFLITE = {
    "strided_slice": TfliteOp(names=("STRIDED_SLICE", "SLICE"), write=_write_slice, read=_read),
    "split": TfliteOp(names=("SPLIT", "SPLIT_V"), write=_write_split, read=_read_split),
}
ONNX: dict[str, Emit] = {"strided_slice": _onnx_slice}
