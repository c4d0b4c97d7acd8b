"""The tensors of a subgraph of a `.tflite` file: types, shapes, values, quantization, checked."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import tflite_schema
from zoo.errors import MismatchError, UnsafeFileError
from zoo.graph.ir import LIMITS, Quantization, Tensor

MAX_BYTES = 2**31  # bytes of the file and of each tensor: FlatBuffers' own limit
_TYPES = {number: name for name, number in tflite_schema.TENSOR_TYPES.items()}
_UNSUPPORTED = {
    "sparsity": "is stored sparsely",
    "external_buffer": "is kept outside the file",
}


class Tensors:
    """The tensors by name; values of those that are constant.

    Attributes:
        names: their names, in the file's order, made unique.
        all: the tensors.
        values: the constants' values.
        variables: names of those that operators overwrite and that last from call to call.
        unusable: what is wrong with those that nothing may read: files leave behind empty tensors,
            and some of types that nothing here computes with.

    """

    def __init__(
        self, tables: Sequence[Mapping[str, Any]], buffers: Sequence[Mapping[str, Any]]
    ) -> None:
        self.names = _unique([printable(table["name"] or "tensor") for table in tables])
        self.all: dict[str, Tensor] = {}
        self.values: dict[str, NDArray[Any]] = {}
        self.variables: set[str] = set()
        self.unusable: dict[str, MismatchError | UnsafeFileError] = {}
        for name, table in zip(self.names, tables, strict=True):
            try:
                self._add(name, table, buffers)
            except (MismatchError, UnsafeFileError) as error:
                self.unusable[name] = error

    def pick(self, indices: Any, what: str) -> tuple[str, ...]:
        """Return the names of tensors; "" for an operand left out, none for those at the end."""
        numbers = [] if indices is None else [int(index) for index in indices]
        while numbers and numbers[-1] == -1:
            numbers.pop()
        if any(not -1 <= index < len(self.names) for index in numbers):
            raise UnsafeFileError(f"{what} name tensor {max(numbers)} of {len(self.names)}")
        names = tuple(self.names[index] if index >= 0 else "" for index in numbers)
        for name in names:
            if name in self.unusable:
                raise self.unusable[name]
        return names

    def start(self, name: str) -> NDArray[Any]:
        """Return what a state holds before it is written: the real 0."""
        tensor = self.all[name]
        meaning = tensor.quantization
        # As in the runtimes: only int8 ones are filled with their zero point.
        zero = meaning.zero_point if meaning and tensor.dtype == "int8" else 0
        return np.full(tensor.shape, zero, tensor.dtype)

    def add(self, like: str, name: str) -> str:
        """Add a tensor like another, under this name or one close to it; return the name."""
        count, base = 1, name
        while name in self.all:
            count += 1
            name = f"{base}#{count}"
        tensor = self.all[like]
        self.all[name] = Tensor(
            name=name,
            shape=tensor.shape,
            dtype=tensor.dtype,
            kind="activation",
            quantization=tensor.quantization,
        )
        return name

    def _add(self, name: str, table: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        tensor = _tensor(name, table)
        if tensor.bytes() >= MAX_BYTES:
            raise UnsafeFileError(f"tensor {name!r} of shape {tensor.shape} has 2 GiB or more")
        self.all[name] = tensor
        if table["is_variable"] and tensor.dtype == "resource":
            raise UnsafeFileError(f"tensor {name!r} is a handle and a variable at once")
        if table["is_variable"]:
            self.variables.add(name)
            return
        data = _data(name, table["buffer"], buffers)
        if data is None:
            return
        if data.nbytes != tensor.bytes() or tensor.dtype == "resource":
            raise UnsafeFileError(
                f"tensor {name!r} has {data.nbytes} bytes; its shape needs {tensor.bytes()}"
            )
        value = data.view(np.dtype(tensor.dtype).newbyteorder("<"))
        self.values[name] = value.reshape(tensor.shape)


def _tensor(name: str, table: Mapping[str, Any]) -> Tensor:
    """Return a tensor as the file describes it."""
    dtype = _TYPES.get(table["type"])
    if dtype is None:
        other = tflite_schema.OTHER_TYPES.get(table["type"], f"type {table['type']}")
        raise MismatchError(f"tensor {name!r} holds {other}, which nothing here computes with")
    for key, feature in _UNSUPPORTED.items():
        if table[key]:
            raise MismatchError(f"tensor {name!r} {feature}, which is not supported")
    signature = table["shape_signature"]
    shape = tuple(int(size) for size in ([] if table["shape"] is None else table["shape"]))
    if signature is not None and any(size < 0 for size in signature[1:]):
        raise MismatchError(
            f"tensor {name!r} has the dynamic shape {signature.tolist()}; give the file fixed "
            "shapes (all but the batch) when it is converted"
        )
    if len(shape) > 6 or any(size < 1 for size in shape):
        raise UnsafeFileError(f"tensor {name!r} has the impossible shape {shape}")
    meaning = _quantization(name, shape, table["quantization"])
    low, high = LIMITS.get(dtype, (-(2**31), 2**31))
    if meaning and not all(low <= zero <= high for zero in meaning.zero_points):
        raise UnsafeFileError(f"tensor {name!r} is {dtype} with a zero point outside of that")
    return Tensor(name=name, shape=shape, dtype=dtype, kind="activation", quantization=meaning)


def _data(name: str, index: int, buffers: Sequence[Mapping[str, Any]]) -> NDArray[Any] | None:
    if index >= len(buffers):
        raise UnsafeFileError(f"tensor {name!r} names buffer {index} of {len(buffers)}")
    buffer = buffers[index]
    if buffer["offset"] > 1:
        raise MismatchError(f"tensor {name!r} is kept outside the file's tables")
    if index == 0 or buffer["data"] is None or not len(buffer["data"]):
        return None
    array: NDArray[Any] = buffer["data"]
    return array


def printable(text: str) -> str:
    """Return a file's text without what would steer a terminal or break a line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _unique(names: Sequence[str]) -> list[str]:
    taken: dict[str, int] = {}
    result = []
    for name in names:
        count = taken[name] = taken.get(name, 0) + 1
        result.append(name if count == 1 else f"{name}#{count}")
    if len(set(result)) != len(result):
        raise UnsafeFileError("its tensors' names cannot be told apart")
    return result


def _quantization(
    name: str, shape: tuple[int, ...], table: Mapping[str, Any] | None
) -> Quantization | None:
    if table is None or table["scale"] is None or not len(table["scale"]):
        return None
    if table["details"]:
        raise MismatchError(f"tensor {name!r} has a quantization other than scales")
    scales, axis = table["scale"], table["quantized_dimension"]
    zeros = table["zero_point"]
    zeros = np.zeros(len(scales), np.int64) if zeros is None else zeros
    if len(zeros) == 1 and len(scales) > 1:
        zeros = np.repeat(zeros, len(scales))
    along = len(scales) > 1
    if len(shape) == 1:
        axis = 0  # old converters give a bias the dimension that its weights' scales belong to
    if len(zeros) != len(scales) or (
        along and (not 0 <= axis < len(shape) or shape[axis] != len(scales))
    ):
        raise UnsafeFileError(f"tensor {name!r} has {len(scales)} scales that do not fit {shape}")
    if not np.all(np.isfinite(scales) & (scales > 0)) or not np.all(np.abs(zeros) < 2**31):
        raise UnsafeFileError(f"tensor {name!r} has a scale or zero point that is not a number")
    return Quantization(
        scales=tuple(float(scale) for scale in scales),
        zero_points=tuple(int(zero) for zero in zeros),
        axis=int(axis) if along else None,
    )
