"""A GRU as converters unroll one: unpack, products, a split, gates, three steps, a stack."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.test_tflite_types import reals
from tests.runtimes import litert_calls, tflite_micro_calls
from tests.tflite_files import File
from zoo.deploy.tflite_read import parse_tflite
from zoo.runtime.integer import IntegerNetwork

STEPS, INPUTS, UNITS = 3, 4, 5
SCALES = {
    "gate": (1 / 256, -128),
    "curve": (1 / 128, 0),
    "wide": (1 / 32, 0),
    "change": (1 / 64, 0),
}


class Unrolled:
    """A GRU under construction, in floats or in int8."""

    def __init__(self, kind: str) -> None:
        self.kind, self.file, self.random = kind, File(), np.random.default_rng(0)
        self.main = self.file.main
        self.main.constant("axis", np.array(1, np.int32))

    def tensor(self, name: str, width: int, meaning: str) -> str:
        scale = SCALES[meaning] if self.kind == "int8" else (None,)
        return self.main.tensor(name, (1, width), self.kind, *scale)

    def weight(self, name: str, rows: int, columns: int) -> str:
        value = self.random.normal(0, 0.5, (rows, columns)).astype(np.float32)
        if self.kind == "float32":
            return self.main.constant(name, value)
        steps = np.clip(np.rint(value * 64), -127, 127).astype(np.int8)
        return self.main.constant(name, steps, 1 / 64)

    def op(self, name: str, inputs: list[str], outputs: list[str], **options: Any) -> None:
        version = 1 if self.kind == "float32" else {"FULLY_CONNECTED": 4}.get(name, 2)
        self.main.op(name, inputs, outputs, version=version, options=options)

    def made(self, name: str, inputs: list[str], output: str, width: int, meaning: str) -> str:
        self.op(name, inputs, [self.tensor(output, width, meaning)])
        return output

    def step(self, x: str, state: str, weights: list[str]) -> str:
        inner, outer, last = weights
        a = self.made("FULLY_CONNECTED", [x, inner], f"{x}.a", 2 * UNITS, "wide")
        b = self.made("FULLY_CONNECTED", [state, outer], f"{x}.b", 2 * UNITS, "wide")
        both = self.made("ADD", [a, b], f"{x}.sum", 2 * UNITS, "wide")
        gates = self.made("LOGISTIC", [both], f"{x}.gates", 2 * UNITS, "gate")
        update, reset = (self.tensor(f"{x}.{name}", UNITS, "gate") for name in ("z", "r"))
        self.op("SPLIT", ["axis", gates], [update, reset], num_splits=2)
        kept = self.made("MUL", [reset, state], f"{x}.kept", UNITS, "curve")
        joined = self.tensor(f"{x}.joined", INPUTS + UNITS, "curve")
        self.op("CONCATENATION", [x, kept], [joined], axis=1)
        linear = self.made("FULLY_CONNECTED", [joined, last], f"{x}.linear", UNITS, "wide")
        new = self.made("TANH", [linear], f"{x}.new", UNITS, "curve")
        change = self.made("SUB", [state, new], f"{x}.change", UNITS, "change")
        part = self.made("MUL", [update, change], f"{x}.part", UNITS, "change")
        return self.made("ADD", [new, part], f"{x}.state", UNITS, "curve")


def gru(kind: str) -> bytes:
    net = Unrolled(kind)
    main, curve = net.main, SCALES["curve"] if kind == "int8" else (None,)
    main.inputs = [main.tensor("x", (1, STEPS, INPUTS), kind, *curve)]
    steps = [net.tensor(f"x{i}", INPUTS, "curve") for i in range(STEPS)]
    net.op("UNPACK", ["x"], steps, num=STEPS, axis=1)
    shapes = ((2 * UNITS, INPUTS), (2 * UNITS, UNITS), (UNITS, INPUTS + UNITS))
    weights = [net.weight(f"w{i}", *shape) for i, shape in enumerate(shapes)]
    zeros = np.zeros((1, UNITS), kind)
    states = [main.constant("zero", zeros, *curve)]
    for x in steps:
        states.append(net.step(x, states[-1], weights))
    main.outputs = [main.tensor("y", (1, STEPS, UNITS), kind, *curve)]
    net.op("PACK", states[1:], ["y"], values_count=STEPS, axis=1)
    return net.file.bytes()


def test_in_floats() -> None:
    content, x = gru("float32"), reals(1, 1, STEPS, INPUTS)
    made = IntegerNetwork(parse_tflite(content))(x)
    np.testing.assert_allclose(made, litert_calls(content)(x)[0], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_in_int8(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-128, 128, (1, STEPS, INPUTS), generator=generator).to(torch.int8)
    content = gru("int8")
    made = IntegerNetwork(parse_tflite(content))(x)
    np.testing.assert_array_equal(made, tflite_micro_calls(content)(x)[0])
    assert len(made.unique()) > 5
