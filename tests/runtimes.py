"""The runtimes that files are tried in: TFLite Micro, LiteRT's two sets of kernels, ONNX Runtime.

Every `.tflite` file that a test makes is opened by all of them, see `tests/conftest.py`; ONNX files
are opened by the exporter itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

Run = Callable[..., list[NDArray[Any]]]
ARENA = 2**24


def tflite_micro(content: bytes) -> Run:
    """Return a function from batches of inputs to those of outputs, or skip the test."""
    return _by_sample(tflite_micro_calls(content))


def litert(content: bytes, resolver: str = "BUILTIN_REF") -> Run:
    """Return such a function of LiteRT; the resolver "AUTO" is its XNNPACK kernels."""
    return _by_sample(litert_calls(content, resolver))


def _by_sample(call: Run) -> Run:
    def run(*inputs: Tensor) -> list[NDArray[Any]]:
        outputs = [call(*(x[None] for x in sample)) for sample in zip(*inputs, strict=True)]
        return [np.concatenate(column) for column in zip(*outputs, strict=True)]

    return run


def tflite_micro_calls(content: bytes) -> Run:
    """Return a function from the inputs of one call to its outputs; states last."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=ARENA)
    count = len(_outputs(content))

    def call(*inputs: Tensor) -> list[NDArray[Any]]:
        for place, value in enumerate(inputs):
            interpreter.set_input(value.numpy(), place)
        interpreter.invoke()
        return [interpreter.get_output(place) for place in range(count)]

    return call


def tflite_micro_arena(content: bytes) -> dict[str, int]:
    """Return the bytes of TFLite Micro's arena: total, head (activations) and tail (structures)."""
    from zoo.deploy import tflite_micro

    if not tflite_micro.installed():
        pytest.skip("tflite-micro is not installed")
    return dataclasses.asdict(tflite_micro.measured(content, most=ARENA))


def _outputs(content: bytes) -> tuple[str, ...]:
    from zoo.deploy.tflite_read import parse_tflite

    return parse_tflite(content).outputs


def litert_calls(content: bytes, resolver: str = "BUILTIN_REF") -> Run:
    """Return such a function of LiteRT."""
    module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(
        model_content=content,
        experimental_op_resolver_type=module.OpResolverType[resolver],
        num_threads=1,
    )
    interpreter.allocate_tensors()
    places = [detail["index"] for detail in interpreter.get_input_details()]
    results = [detail["index"] for detail in interpreter.get_output_details()]

    def call(*inputs: Tensor) -> list[NDArray[Any]]:
        for place, value in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, value.numpy())
        interpreter.invoke()
        return [interpreter.get_tensor(place) for place in results]

    return call


TFLITE: dict[str, Callable[[bytes], Run]] = {
    "tflite-micro": tflite_micro,
    "litert-reference": litert,
    "litert-default": lambda content: litert(content, "AUTO"),
}


# Kinds that a runtime has no kernel for, though others have: what the table of operators says.
LACKING = {"tflite-micro": "gelu", "litert-reference": "elu"}


def open_everywhere(content: bytes) -> None:
    """Raise an AssertionError unless every runtime that is installed takes a `.tflite` file."""
    from zoo.deploy.tflite_read import parse_tflite

    graph = parse_tflite(content)
    tensors, kinds = graph.tensors.values(), {op.kind for op in graph.ops}
    computed = [tensor for tensor in tensors if not tensor.is_parameter]
    # TFLite Micro sets its memory aside at once, and has next to nothing for uint8.
    large = sum(tensor.bytes() for tensor in computed) > ARENA // 2
    unfit = large or any(tensor.dtype == "uint8" for tensor in computed)
    for name, runtime in TFLITE.items():
        if (unfit and name == "tflite-micro") or LACKING.get(name) in kinds:
            continue
        try:
            runtime(content)
        except pytest.skip.Exception:
            continue
        except (RuntimeError, ValueError) as error:
            raise AssertionError(f"{name} cannot open the file: {error}") from error
