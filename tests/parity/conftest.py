"""The real TFLite runtimes as judges: TFLite Micro, and LiteRT with its reference kernels."""

from collections.abc import Callable
from typing import Any

import pytest
from numpy.typing import NDArray
from torch import Tensor

from tests.runtimes import TFLITE, Run, tflite_micro_arena


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
    return lambda content: tflite_micro_arena(content)["head"]
