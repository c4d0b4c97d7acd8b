"""Each row of the table of refusals has a file that is refused in these words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.parity.test_tflite_recurrent import lstm
from tests.tflite_files import File, one
from zoo.deploy.refusals import REFUSALS
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError
from zoo.runtime.integer import IntegerNetwork

ROW: list[Any] = [((1, 4),)]
WIDE = ((1, 4), "int16", 0.125)


def layer(**options: Any) -> bytes:
    weight = np.ones((4, 4), np.float32)
    return one("FULLY_CONNECTED", ROW, ROW, [weight], options=options)


def wide_layer(*bias: Any) -> bytes:
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor("x", *WIDE)]
    graph.constant("w", np.ones((4, 4), np.int8), 0.1)
    graph.outputs = [graph.tensor("y", *WIDE)]
    names = [graph.constant("b", value, 0.0125) for value in bias]
    graph.op("FULLY_CONNECTED", ["x", "w", *names], ["y"], version=7)
    return file.bytes()


def hybrid_lstm() -> bytes:
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor("x", (1, 3, 4))]
    names = [graph.constant(f"w{i}", np.ones((4, 4), np.int8), 0.1) for i in range(8)]
    biases = [graph.constant(f"b{i}", np.ones(4, np.float32)) for i in range(4)]
    states = [graph.tensor(name, (1, 4), is_variable=True) for name in "hc"]
    graph.outputs = [graph.tensor("y", (1, 3, 4))]
    inputs = ["x", *names, "", "", "", *biases, "", "", *states]
    graph.op("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, ["y"], options={"activation": 4})
    return file.bytes()


def tensor(**fields: Any) -> bytes:
    file = File()
    graph = file.main
    graph.inputs = [graph.tensor("x", (1, 4), **fields)]
    graph.outputs = [graph.tensor("y", (1, 4))]
    graph.op("RELU", ["x"], ["y"])
    return file.bytes()


def sliced() -> bytes:
    ends = [np.array(part, np.int32) for part in ([0, 0], [1, 4], [1, 1])]
    return one("STRIDED_SLICE", ROW, ROW, ends, options={"ellipsis_mask": 1})


FILES: list[Callable[[], bytes]] = [
    lambda: one("UNIQUE", ROW, ROW),
    lambda: one("CUSTOM", ROW, ROW, custom_code="TFLite_Detection_PostProcess"),
    lambda: one("WHILE", ROW, ROW),
    lambda: one("RELU", ROW, ROW, version=99),
    lambda: tensor(shape_signature=np.array([1, -1], np.int32)),
    lambda: one("ADD", [((1, 4), "complex64")] * 2, [((1, 4), "complex64")]),
    lambda: tensor(sparsity=True),
    lambda: tensor(external_buffer=1),
    lambda: layer(weights_format=1),
    lambda: lstm(0, peepholes=("b0", "b1", "b2")),
    hybrid_lstm,
    lambda: one("ADD", [WIDE] * 2, [WIDE], options={"pot_scale_int16": True}),
    wide_layer,
    lambda: wide_layer(np.zeros(4, np.int32)),
    sliced,
]


@pytest.mark.parametrize(("row", "file"), [*zip(REFUSALS, FILES, strict=True)])
def test_what_is_refused_says_why(row: Any, file: Callable[[], bytes]) -> None:
    with pytest.raises(MismatchError) as caught:
        IntegerNetwork(parse_tflite(file()))
    assert row.says in str(caught.value)
    assert "\n" not in str(caught.value)
