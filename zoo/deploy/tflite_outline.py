"""What a `.tflite` file says of itself before its operators are understood: names and sizes.

Other programs, such as Arm's compiler, take files with operators that the reader here does not
have. What is needed beside their report stands in the file's tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.formats import TFLITE
from zoo.errors import UnsafeFileError

_TYPES = {number: name for name, number in tflite_schema.TENSOR_TYPES.items()}
_KINDS = {name: kind for kind, row in TFLITE.items() for name in row.names}


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the main subgraph.

    Attributes:
        kind: of the graph IR where there is one, else the file's name in small letters, e.g.
            "depth_to_space", "var_handle".
        output: name of the first tensor that it makes, or "".

    """

    kind: str
    output: str


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The tables of a file.

    Attributes:
        input_shape: of the first input, as the file has it, or () if it has none.
        dtype: of the first input.
        parameters: elements of its constant tensors.
        parameter_bytes: their bytes.
        operators: those of the first subgraph, in order.

    """

    input_shape: tuple[int, ...]
    dtype: str
    parameters: int
    parameter_bytes: int
    operators: tuple[Operator, ...]


def outline(data: bytes) -> Outline:
    """Return the outline of a file's bytes.

    Raises:
        UnsafeFileError: the bytes are not a TFLite file, or damaged.

    """
    model = flatbuffer.read(data, tflite_schema.MODEL, tflite_schema.IDENTIFIER)
    graphs, codes = model["subgraphs"] or [], model["operator_codes"] or []
    buffers = model["buffers"] or []
    if not graphs:
        raise UnsafeFileError("it has no network in it")
    main = graphs[0]
    tensors = main["tensors"] or []
    first = _tensor(tensors, main["inputs"])
    constants = [table for graph in graphs for table in graph["tensors"] or ()]
    sizes = [(_elements(t), _bytes(buffers, t["buffer"])) for t in constants]
    return Outline(
        input_shape=() if first is None else _shape(first),
        dtype="float32" if first is None else _TYPES.get(first["type"], "unknown"),
        parameters=sum(count for count, size in sizes if size),
        parameter_bytes=sum(size for _, size in sizes),
        operators=tuple(_operator(op, codes, tensors) for op in main["operators"] or ()),
    )


def called(code: Mapping[str, Any]) -> str:
    """Return the name that TFLite gives an operator code, or the code's number."""
    # Codes above 127 do not fit the old field; old writers fill only the old one.
    number = max(code["builtin_code"], code["deprecated_builtin_code"])
    names = tflite_schema.NAMES
    return names[number] if 0 <= number < len(names) else f"code {number}"


def _operator(op: Mapping[str, Any], codes: Any, tensors: Any) -> Operator:
    if op["opcode_index"] >= len(codes):
        raise UnsafeFileError("an operator has no operator code")
    code = codes[op["opcode_index"]]
    name = called(code)
    if name == "CUSTOM":
        name = f"custom {code['custom_code']}"
    output = _tensor(tensors, op["outputs"])
    made = "" if output is None else output["name"] or ""
    return Operator(kind=_KINDS.get(name, name.lower()), output=made)


def _tensor(tensors: Any, indices: Any) -> Mapping[str, Any] | None:
    """Return the first tensor of those named, or None."""
    if indices is None or not len(indices):
        return None
    if not 0 <= int(indices[0]) < len(tensors):
        raise UnsafeFileError(f"it names tensor {int(indices[0])} of {len(tensors)}")
    found: Mapping[str, Any] = tensors[int(indices[0])]
    return found


def _shape(table: Mapping[str, Any]) -> tuple[int, ...]:
    return () if table["shape"] is None else tuple(int(size) for size in table["shape"])


def _elements(table: Mapping[str, Any]) -> int:
    count = 1
    for size in _shape(table):
        count *= max(size, 0)
    return count


def _bytes(buffers: Any, index: int) -> int:
    if index >= len(buffers):
        raise UnsafeFileError(f"a tensor names buffer {index} of {len(buffers)}")
    data = buffers[index]["data"]
    return 0 if data is None else len(data)
