"""From a channels-last graph to a `.tflite` file: int8 with its quantization, or float."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.deploy import flatbuffer, tflite_schema
from zoo.deploy.formats import TFLITE
from zoo.errors import MismatchError
from zoo.files import write_bytes
from zoo.graph.check import check
from zoo.graph.ir import LIMITS, Graph, Op, Quantization, Tensor
from zoo.graph.rewrite import on_npu

MAX_BYTES = 2**31
OFFLINE_PLAN = "OfflineMemoryAllocation"


def write_tflite(graph: Graph, path: Path) -> Path:
    """Write a graph as one file, which is replaced in one step or not at all; return its path.

    Args:
        graph: in the layout "channels_last", with values: float32, int8 or int16.
        path: the `.tflite` file.

    Raises:
        MismatchError: see `serialize_tflite`; or the file cannot be written.

    ```python
    from pathlib import Path

    import zoo
    from zoo.deploy.tflite_write import write_tflite
    from zoo.graph.lower import lower
    from zoo.graph.rewrite import without_clamps

    graph = without_clamps(lower(zoo.load("sesr-m5-x2"), (1, 1, 32, 32)))  # float32
    write_tflite(graph, Path("sesr.tflite"))
    ```
    """
    write_bytes(path, serialize_tflite(graph))
    return path


def serialize_tflite(graph: Graph, offsets: Mapping[str, int] | None = None) -> bytes:
    """Return the bytes of a `.tflite` file.

    Args:
        graph: in the layout "channels_last", with values: float32, int8 or int16.
        offsets: where in its arena TFLite Micro shall keep activations, in bytes; the others it
            places by itself.

    Raises:
        MismatchError: the graph is not channels last, holds something that the format cannot
            express, or has a tensor of 2 GiB or more; the message names the operator.

    """
    if graph.layout != "channels_last":
        raise MismatchError("a .tflite file is channels last; use zoo.graph.lower first")
    if graph.tensors[graph.inputs[0]].dtype == "int16":
        graph = on_npu(graph)  # no runtime has an int16 DEPTH_TO_SPACE
    check(graph)
    for tensor in graph.tensors.values():
        if tensor.bytes() >= MAX_BYTES:
            users = [op for op in graph.ops if tensor.name in (*op.outputs, *op.inputs)]
            raise MismatchError(
                f"{users[0].label if users else tensor.name} has a tensor of {tensor.bytes()} "
                f"bytes, {tensor.dtype} {tensor.shape}; TFLite has sizes below 2 GiB: export for a "
                "smaller input and run the device on tiles"
            )
    model = _Writer(graph).model()
    if offsets:
        _plan(model, [offsets.get(name, -1) for name in graph.tensors])
    return flatbuffer.write(model, tflite_schema.MODEL, tflite_schema.IDENTIFIER)


def _plan(model: dict[str, Any], offsets: list[int]) -> None:
    """Add a plan of the arena: version, subgraph, count, and the offset of each tensor or -1.

    The form is that of tflite-micro's docs/memory_management.md, "Offline planned tensor
    allocations".
    """
    offsets += [-1] * (len(model["subgraphs"][0]["tensors"]) - len(offsets))  # added by operators
    plan = np.array([0, 0, len(offsets), *offsets], "<i4")
    model["metadata"] = [{"name": OFFLINE_PLAN, "buffer": len(model["buffers"])}]
    model["buffers"].append({"data": np.frombuffer(plan.tobytes(), np.uint8)})


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.buffers: list[dict[str, Any]] = [{}]  # buffer 0 means "no data"
        self.stored: dict[bytes, int] = {}
        self.tables: list[dict[str, Any]] = []
        self.places: dict[str, int] = {}
        self.codes: dict[tuple[str, int], int] = {}
        for name, tensor in graph.tensors.items():
            self.places[name] = self.add(tensor, graph.values.get(name))

    def model(self) -> dict[str, Any]:
        operators = [self.operator(op) for op in self.graph.ops]
        codes = []
        for name, version in self.codes:
            number = tflite_schema.OPERATORS[name].code
            codes.append(
                {
                    "deprecated_builtin_code": min(number, 127),
                    "builtin_code": number,
                    "version": version,
                }
            )
        subgraph = {
            "tensors": self.tables,
            "inputs": self.indices(self.graph.inputs),
            "outputs": self.indices(self.graph.outputs),
            "operators": operators,
            "name": "main",
        }
        return {
            "version": 3,
            "operator_codes": codes,
            "subgraphs": [subgraph],
            "description": "edge-zoo",
            "buffers": self.buffers,
        }

    def indices(self, names: tuple[str, ...]) -> NDArray[np.int32]:
        return np.array([self.places[name] for name in names], np.int32)

    def add(self, tensor: Tensor, value: NDArray[Any] | None) -> int:
        buffer = 0
        if value is not None:
            data = np.ascontiguousarray(value, np.dtype(tensor.dtype).newbyteorder("<")).tobytes()
            buffer = self.stored.setdefault(data, len(self.buffers))  # equal values lie there once
            if buffer == len(self.buffers):
                self.buffers.append({"data": np.frombuffer(data, np.uint8)})
        table = {
            "shape": np.array(tensor.shape, np.int32),
            "type": tflite_schema.TENSOR_TYPES[tensor.dtype],
            "buffer": buffer,
            "name": tensor.name,
            "quantization": _quantization(tensor.quantization),
        }
        self.tables.append(table)
        return len(self.tables) - 1

    def operator(self, op: Op) -> dict[str, Any]:
        form = TFLITE.of(op)
        name, options, extra = form.write(self.graph, op)
        inputs = [int(index) for index in self.indices(op.inputs)]
        for number, value in enumerate(extra):
            tensor = Tensor(
                name=f"{op.name}/{number}",
                shape=value.shape,
                dtype=value.dtype.name,
                kind="constant",
                # The value a PADV2 pads with is an integer of its input's kind.
                quantization=self.graph.tensors[op.inputs[0]].quantization
                if value.dtype.name in LIMITS
                else None,
            )
            inputs.append(self.add(tensor, value))
        first = [inputs[place] for place in form.order]
        inputs = first + [index for index in inputs if index not in first]
        builtin = tflite_schema.OPERATORS[name]
        version = builtin.version(self.graph.tensors[op.inputs[0]].dtype)
        index = self.codes.setdefault((name, version), len(self.codes))
        result = {
            "opcode_index": index,
            "inputs": np.array(inputs, np.int32),
            "outputs": self.indices(op.outputs),
        }
        if builtin.options:
            result |= {"builtin_options_type": builtin.options, "builtin_options": options}
        return result


def _quantization(meaning: Quantization | None) -> dict[str, Any] | None:
    if meaning is None:
        return None
    return {
        "scale": np.array(meaning.scales, np.float32),
        "zero_point": np.array(meaning.zero_points, np.int64),
        "quantized_dimension": meaning.axis or 0,
    }
