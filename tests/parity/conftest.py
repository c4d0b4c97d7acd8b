"""The real TFLite runtimes as judges: TFLite Micro, and LiteRT with its reference kernels."""

import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from numpy.typing import NDArray
from torch import Tensor

from tests.runtimes import TFLITE, Run


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


def _one(runtime: Callable[[bytes], Run]) -> Callable[[bytes], Callable[..., NDArray[Any]]]:
    """Return a runtime that gives one output: the only one, or that of a place."""

    def opened(content: bytes, output: int | None = None) -> Callable[..., NDArray[Any]]:
        run = runtime(content)

        def alone(*inputs: Tensor) -> NDArray[Any]:
            outputs = run(*inputs)
            if output is not None:
                return outputs[output]
            (single,) = outputs
            return single

        return alone

    return opened


JUDGES = {name: _one(TFLITE[name]) for name in ("tflite-micro", "litert-reference")}


@pytest.fixture(scope="session")
def judges() -> dict[str, Callable[..., Callable[..., NDArray[Any]]]]:
    """The runtimes by name: each makes, from a file's content, a function of input batches."""
    return JUDGES


@pytest.fixture(scope="session")
def arena_head() -> Callable[[bytes], int]:
    """From a file's content to the head of TFLite Micro's arena."""
    return tflite_micro_head
