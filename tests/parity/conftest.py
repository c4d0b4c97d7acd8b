"""The real TFLite runtimes as judges: TFLite Micro, and LiteRT with its reference kernels."""

import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor


def tflite_micro(content: bytes, output: int = 0) -> Callable[..., NDArray[Any]]:
    """Return a function from batches of inputs to the batch of an output, or skip the test."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**24)

    def run(*inputs: Tensor) -> NDArray[Any]:
        outputs = []
        for sample in zip(*inputs, strict=True):
            for place, value in enumerate(sample):
                interpreter.set_input(value[None].numpy(), place)
            interpreter.invoke()
            outputs.append(interpreter.get_output(output))
        return np.concatenate(outputs)

    return run


def litert(content: bytes, output: int = 0) -> Callable[..., NDArray[Any]]:
    """Return such a function of LiteRT's reference kernels."""
    module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(
        model_content=content,
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
        num_threads=1,
    )
    interpreter.allocate_tensors()
    places = [detail["index"] for detail in interpreter.get_input_details()]
    made = interpreter.get_output_details()[output]["index"]

    def run(*inputs: Tensor) -> NDArray[Any]:
        outputs = []
        for sample in zip(*inputs, strict=True):
            for place, value in zip(places, sample, strict=True):
                interpreter.set_tensor(place, value[None].numpy())
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(made))
        return np.concatenate(outputs)

    return run


def tflite_micro_head(content: bytes) -> int:
    """Return the bytes of the arena's head, where activations lie, as TFLite Micro reports them.

    It prints them past Python's sys.stderr.
    """
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=2**24)
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            interpreter.print_allocations()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        said = file.read().decode()
    found = re.search(r"Arena allocation head (\d+) bytes", said)
    assert found, said
    return int(found[1])


JUDGES = {"tflite-micro": tflite_micro, "litert-reference": litert}


@pytest.fixture(scope="session")
def judges() -> dict[str, Callable[..., Callable[..., NDArray[Any]]]]:
    """The runtimes by name: each makes, from a file's content, a function of input batches."""
    return JUDGES


@pytest.fixture(scope="session")
def arena_head() -> Callable[[bytes], int]:
    """From a file's content to the head of TFLite Micro's arena."""
    return tflite_micro_head
