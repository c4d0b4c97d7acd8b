"""`.tflite` files built operator by operator, as other writers make them: for tests of the reader.

Unlike `zoo.deploy.tflite_write` this writes whatever it is told: other types, several subgraphs,
variables, operators that the zoo does not know.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import flatbuffer, tflite_schema

_TYPES = tflite_schema.TENSOR_TYPES
_BUILTINS = {**tflite_schema.OPERATORS, **tflite_schema.FOLLOWED}


class File:
    """A file under construction; tensors are known by their names."""

    def __init__(self) -> None:
        self.codes: list[dict[str, Any]] = []
        self.buffers: list[dict[str, Any]] = [{}]
        self.subgraphs = [Subgraph(self)]
        self.more: dict[str, Any] = {}

    @property
    def main(self) -> "Subgraph":
        return self.subgraphs[0]

    def subgraph(self) -> "Subgraph":
        self.subgraphs.append(Subgraph(self))
        return self.subgraphs[-1]

    def buffer(self, data: bytes) -> int:
        self.buffers.append({"data": np.frombuffer(data, np.uint8)})
        return len(self.buffers) - 1

    def bytes(self) -> bytes:
        model = {
            "version": 3,
            "operator_codes": self.codes,
            "subgraphs": [subgraph.table() for subgraph in self.subgraphs],
            "buffers": self.buffers,
            **self.more,
        }
        return flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER)


class Subgraph:
    """One subgraph: its tensors, operators, inputs and outputs."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.places: dict[str, int] = {}
        self.tensors: list[dict[str, Any]] = []
        self.operators: list[dict[str, Any]] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        scale: float | Sequence[float] | None = None,
        zero: int = 0,
        **fields: Any,
    ) -> str:
        """Add a tensor; several scales belong to dimension `quantized_dimension`, or 0."""
        quantization = None
        if scale is not None:
            scales = np.atleast_1d(np.array(scale, np.float32))
            quantization = {
                "scale": scales,
                "zero_point": np.full(len(scales), zero, np.int64),
                "quantized_dimension": fields.pop("quantized_dimension", 0),
            }
        self.places[name] = len(self.tensors)
        self.tensors.append(
            {
                "name": name,
                "shape": np.array(shape, np.int32),
                "type": _TYPES.get(dtype, dtype),
                "buffer": 0,
                "quantization": quantization,
                **fields,
            }
        )
        return name

    def constant(self, name: str, value: Any, *meaning: Any, **fields: Any) -> str:
        """Add a tensor with a value."""
        array = np.asarray(value)
        buffer = self.file.buffer(np.ascontiguousarray(array).tobytes())
        return self.tensor(name, array.shape, array.dtype.name, *meaning, buffer=buffer, **fields)

    def op(
        self,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        version: int = 1,
        options: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """Add an operator by its name in the schema; "" is an operand left out."""
        number = tflite_schema.NAMES.index(name)
        code = {
            "deprecated_builtin_code": min(number, 127),
            "builtin_code": number,
            "version": version,
            "custom_code": more.pop("custom_code", None),
        }
        if code not in self.file.codes:
            self.file.codes.append(code)
        table = {
            "opcode_index": self.file.codes.index(code),
            "inputs": self._indices(inputs),
            "outputs": self._indices(outputs),
            **{key: self._indices(names) for key, names in more.items()},
        }
        builtin = _BUILTINS.get(name)
        if builtin and builtin.options:
            table |= {"builtin_options_type": builtin.options, "builtin_options": options or {}}
        self.operators.append(table)

    def table(self) -> dict[str, Any]:
        return {
            "tensors": self.tensors,
            "inputs": self._indices(self.inputs),
            "outputs": self._indices(self.outputs),
            "operators": self.operators,
        }

    def _indices(self, names: Sequence[str]) -> NDArray[np.int32]:
        return np.array([self.places[name] if name else -1 for name in names], np.int32)


def one(
    name: str, inputs: list[Any], outputs: list[Any], constants: Any = (), **more: Any
) -> bytes:
    """A file of one operator: tensors as arguments of `Subgraph.tensor`, constants after them."""
    file = File()
    main = file.main
    main.inputs = [main.tensor(f"x{i}", *tensor) for i, tensor in enumerate(inputs)]
    main.outputs = [main.tensor(f"y{i}", *tensor) for i, tensor in enumerate(outputs)]
    extra = [main.constant(f"c{i}", value) for i, value in enumerate(constants)]
    main.op(name, [*main.inputs, *extra], main.outputs, **more)
    return file.bytes()
