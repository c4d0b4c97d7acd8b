"""From a `.tflite` file to a graph with values, without trusting the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.formats import TFLITE
from zoo.deploy.operators.contract import OperatorCall
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.graph.check import check
from zoo.graph.ir import Graph, Kind, Op, Quantization, Tensor
from zoo.graph.kinds import KINDS, counted

MAX_BYTES = 2**31  # bytes of the file and of each tensor: FlatBuffers' own limit
_TYPES = {number: name for name, number in tflite_schema.TENSOR_TYPES.items()}
_UNSUPPORTED = {
    "is_variable": "is state that the network keeps between calls",
    "sparsity": "is stored sparsely",
    "external_buffer": "is kept outside the file",
}
_NAMES = {builtin.code: name for name, builtin in tflite_schema.OPERATORS.items()}
_KINDS = {name: kind for kind, row in TFLITE.items() for name in row.names}


def read_tflite(path: Path) -> Graph:
    """Return the network of a file, in the layout "channels_last".

    Operators become the kinds of `zoo.graph.ir`; shapes, axes and paddings that the file keeps
    in constant tensors become attributes. Weights and biases stay the integers they are.

    Raises:
        MissingWeightsError: there is no such file.
        UnsafeFileError: it is not a TFLite file, or damaged, or made to harm.
        MismatchError: it is one, but holds something that this reader does not support.

    """
    data = read_bytes(path)
    try:
        return parse_tflite(data)
    except (UnsafeFileError, MismatchError) as error:
        raise type(error)(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        MissingWeightsError: it cannot be read.
        UnsafeFileError: it is larger than a TFLite file can be.

    """
    try:
        size = path.stat().st_size
        if size >= MAX_BYTES:
            raise UnsafeFileError(f"{path} has {size} bytes; a TFLite file has less than 2 GiB")
        data = path.read_bytes()
    except OSError as error:
        raise MissingWeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return data


def parse_tflite(data: bytes) -> Graph:
    """Return the network of a file's bytes; see `read_tflite`.

    Raises:
        UnsafeFileError: the bytes are not a TFLite file, or damaged, or made to harm.
        MismatchError: they are one, but hold something that this reader does not support.

    """
    model = flatbuffer.read(data, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    if model["version"] != 3:
        raise MismatchError(f"its schema has version {model['version']}; expected 3")
    subgraphs = model["subgraphs"] or []
    if len(subgraphs) != 1:
        raise MismatchError(f"it has {len(subgraphs)} subgraphs (control flow); expected 1")
    graph = _Parser(model, subgraphs[0]).graph()
    check(graph)
    return counted(graph)


class _Parser:
    def __init__(self, model: Mapping[str, Any], subgraph: Mapping[str, Any]) -> None:
        self.codes = model["operator_codes"] or []
        self.buffers = model["buffers"] or []
        self.tables: list[dict[str, Any]] = subgraph["tensors"] or []
        self.subgraph = subgraph
        self.names = _unique([table["name"] or "tensor" for table in self.tables])
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, NDArray[Any]] = {}
        for name, table in zip(self.names, self.tables, strict=True):
            self.add_tensor(name, table)

    def graph(self) -> Graph:
        inputs = self.pick(self.subgraph["inputs"], "the graph's inputs")
        outputs = self.pick(self.subgraph["outputs"], "the graph's outputs")
        ops = [self.op(index, op) for index, op in enumerate(self.subgraph["operators"] or [])]
        used = {name for op in ops for name in (*op.inputs, *op.outputs)} | {*inputs, *outputs}
        kinds: dict[str, Kind] = dict.fromkeys(inputs, "input")
        kinds |= dict.fromkeys(outputs, "output")
        for op in ops:
            roles = KINDS[op.kind].roles
            for name, role in zip(op.inputs[1:], roles[1:], strict=False):
                if name in self.values:
                    kinds[name] = role
        tensors = {
            name: _with_kind(tensor, kinds.get(name, tensor.kind))
            for name, tensor in self.tensors.items()
            if name in used
        }
        return Graph(
            ops=tuple(ops),
            tensors=tensors,
            inputs=inputs,
            outputs=outputs,
            layout="channels_last",
            values={name: value for name, value in self.values.items() if name in tensors},
        )

    def add_tensor(self, name: str, table: Mapping[str, Any]) -> None:
        dtype = _TYPES.get(table["type"])
        if dtype is None:
            raise MismatchError(f"tensor {name!r} has type {table['type']}, which is not known")
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
        tensor = Tensor(
            name=name,
            shape=shape,
            dtype=dtype,
            kind="activation",
            quantization=_quantization(name, shape, table["quantization"]),
        )
        if tensor.bytes() >= MAX_BYTES:
            raise UnsafeFileError(f"tensor {name!r} of shape {shape} has 2 GiB or more")
        data = self.data(name, table["buffer"])
        if data is not None:
            if data.nbytes != tensor.bytes():
                raise UnsafeFileError(
                    f"tensor {name!r} has {data.nbytes} bytes; its shape needs {tensor.bytes()}"
                )
            self.values[name] = data.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)
            tensor = _with_kind(tensor, "constant")
        self.tensors[name] = tensor

    def data(self, name: str, index: int) -> NDArray[Any] | None:
        if index >= len(self.buffers):
            raise UnsafeFileError(f"tensor {name!r} names buffer {index} of {len(self.buffers)}")
        buffer = self.buffers[index]
        if buffer["offset"] > 1:
            raise MismatchError(f"tensor {name!r} is kept outside the file's tables")
        if index == 0 or buffer["data"] is None or not len(buffer["data"]):
            return None
        array: NDArray[Any] = buffer["data"]
        return array

    def pick(self, indices: Any, what: str) -> tuple[str, ...]:
        """Return the names of tensors; -1 at the end is an operand left out."""
        numbers = [] if indices is None else [int(index) for index in indices]
        while numbers and numbers[-1] == -1:
            numbers.pop()
        if any(not 0 <= index < len(self.names) for index in numbers):
            raise UnsafeFileError(f"{what} name tensor {max(numbers)} of {len(self.names)}")
        return tuple(self.names[index] for index in numbers)

    def op(self, index: int, table: Mapping[str, Any]) -> Op:
        if table["opcode_index"] >= len(self.codes):
            raise UnsafeFileError(f"operator {index} has no operator code")
        code = self.codes[table["opcode_index"]]
        # Codes above 127 do not fit the old field; old writers fill only the old one.
        number = max(code["builtin_code"], code["deprecated_builtin_code"])
        outputs = self.pick(table["outputs"], f"operator {index}")
        name = _NAMES.get(number)
        if name is None:
            raise MismatchError(
                f"operator {index}, {_called(code, number)} at {', '.join(outputs)}, is not known; "
                f"known: {', '.join(sorted(_NAMES.values()))}"
            )
        inputs = self.pick(table["inputs"], f"operator {index}")
        if len(outputs) != 1 or not inputs:
            raise UnsafeFileError(f"operator {index} has {len(outputs)} outputs; expected 1")
        call = OperatorCall(
            name,
            inputs,
            outputs[0],
            options=table["builtin_options"] or {},
            tensors=self.tensors,
            values=self.values,
        )
        kind = _KINDS[name]
        operands, attributes = TFLITE[kind].read(call)
        return Op(
            name=outputs[0],
            kind=kind,
            inputs=operands,
            outputs=outputs,
            attributes=attributes,
            macs=0,  # until the shapes are checked
            module=outputs[0],
        )


def _called(code: Mapping[str, Any], number: int) -> str:
    """Return the name of an operator that is not known here."""
    names = tflite_schema.NAMES
    if number == names.index("CUSTOM"):
        return f"custom operator {code['custom_code']!r}"
    return names[number] if 0 <= number < len(names) else f"code {number}"


def _unique(names: Sequence[str]) -> list[str]:
    taken: dict[str, int] = {}
    result = []
    for name in names:
        count = taken[name] = taken.get(name, 0) + 1
        result.append(name if count == 1 else f"{name}#{count}")
    if len(set(result)) != len(result):
        raise UnsafeFileError("its tensors' names cannot be told apart")
    return result


def _with_kind(tensor: Tensor, kind: Kind) -> Tensor:
    return Tensor(
        name=tensor.name,
        shape=tensor.shape,
        dtype=tensor.dtype,
        kind=kind,
        quantization=tensor.quantization,
    )


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
