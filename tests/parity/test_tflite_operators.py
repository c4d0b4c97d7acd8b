"""Each int8 operator alone, as a file of one: the real runtimes give the same integers."""

from typing import Any

import numpy as np
import pytest
import torch

from zoo.errors import MismatchError
from zoo.export.graph import Graph, Op, Quantization, Tensor
from zoo.export.integer import IntegerNetwork
from zoo.export.tflite_read import parse_tflite
from zoo.export.tflite_write import serialize_tflite

Judges = dict[str, Any]  # see conftest.py
IMAGE = (1, 6, 5, 8)
PROBABILITY = Quantization(scales=(1 / 256,), zero_points=(-128,))
WINDOW = {"kernel": (3, 2), "stride": (2, 2), "dilation": (1, 1), "padding": (0, 1, 0, 1)}
AROUND = (0, 0, 3, 1, 1, 2, 0, 0)


def size(**options: bool) -> dict[str, Any]:
    return {"size": (11, 7), "align_corners": False, "half_pixel_centers": False, **options}


# kind, shapes of operands (a list: constant), shape of the output, attributes, one quantization?
CASES: list[tuple[str, list[Any], tuple[int, ...], dict[str, Any], bool]] = [
    ("add", [IMAGE, IMAGE], IMAGE, {}, False),
    ("add", [IMAGE, [1, 1, 1, 1]], IMAGE, {"activation": "relu"}, False),
    ("add", [IMAGE, (1, 6, 5, 1)], IMAGE, {}, False),
    ("sub", [IMAGE, IMAGE], IMAGE, {}, False),
    ("sub", [IMAGE, IMAGE], IMAGE, {"activation": "relu6"}, False),
    ("mul", [IMAGE, IMAGE], IMAGE, {}, False),
    ("mul", [IMAGE, [1, 1, 1, 8]], IMAGE, {}, False),
    ("prelu", [IMAGE, [1, 1, 8]], IMAGE, {}, False),
    ("relu", [IMAGE], IMAGE, {}, False),
    ("relu6", [IMAGE], IMAGE, {}, True),
    ("mean", [IMAGE], (1, 8), {"dim": (1, 2), "keepdim": False}, False),
    ("mean", [IMAGE], (1, 1, 1, 8), {"dim": (1, 2), "keepdim": True}, False),
    ("mean", [IMAGE], (1, 6, 5, 1), {"dim": (3,), "keepdim": True}, False),
    ("softmax", [(1, 10)], (1, 10), {"dim": 1, "beta": 1.0}, False),
    ("softmax", [IMAGE], IMAGE, {"dim": 3, "beta": 0.5}, False),
    ("concat", [IMAGE, IMAGE], (1, 6, 5, 16), {"dim": 3}, True),
    ("concat", [IMAGE, IMAGE], (1, 12, 5, 8), {"dim": 1}, True),
    ("maximum", [IMAGE, IMAGE], IMAGE, {}, True),
    ("minimum", [IMAGE, (1, 1, 1, 8)], IMAGE, {}, True),
    ("pad", [IMAGE], (1, 9, 9, 8), {"padding": AROUND, "value": 0}, True),
    ("pad", [IMAGE], (1, 9, 9, 8), {"padding": AROUND, "value": -5}, True),
    ("transpose", [IMAGE], (1, 8, 6, 5), {"dims": (0, 3, 1, 2)}, True),
    ("reshape", [IMAGE], (1, 240), {}, True),
    ("depth_to_space", [IMAGE], (1, 12, 10, 2), {"block": 2}, True),
    ("resize_bilinear", [IMAGE], (1, 11, 7, 8), size(), True),
    ("resize_bilinear", [IMAGE], (1, 11, 7, 8), size(half_pixel_centers=True), True),
    ("resize_bilinear", [IMAGE], (1, 11, 7, 8), size(align_corners=True), True),
    ("resize_nearest", [IMAGE], (1, 11, 7, 8), size(), True),
    ("resize_nearest", [IMAGE], (1, 11, 7, 8), size(half_pixel_centers=True), True),
    ("resize_nearest", [IMAGE], (1, 11, 7, 8), size(align_corners=True), True),
    ("quantize", [IMAGE], IMAGE, {}, False),
    ("avg_pool2d", [IMAGE], (1, 3, 3, 8), WINDOW, True),
    ("max_pool2d", [IMAGE], (1, 3, 3, 8), WINDOW, True),
]


def one_op(case: tuple[Any, ...], seed: int) -> Graph:
    kind, operands, output, attributes, shared = case
    random = np.random.default_rng(seed)

    def meaning() -> Quantization:
        scale, zero = np.float32(random.uniform(0.005, 0.05)), int(random.integers(-100, 100))
        return Quantization(scales=(float(scale),), zero_points=(zero,))

    same, tensors, values = meaning(), {}, {}
    for place, shape in enumerate(operands):
        name, constant = f"x{place}", isinstance(shape, list)
        if constant:
            values[name] = random.integers(-127, 128, shape).astype(np.int8)
        tensors[name] = Tensor(
            name=name,
            shape=tuple(shape),
            dtype="int8",
            kind="constant" if constant else "input",
            quantization=same if shared else meaning(),
        )
    last = PROBABILITY if kind == "softmax" else same if shared else meaning()
    tensors["y"] = Tensor(name="y", shape=output, dtype="int8", kind="output", quantization=last)
    names = tuple(n for n in tensors if n != "y")
    op = Op(
        name="y", kind=kind, inputs=names, outputs=("y",), attributes=attributes, macs=0, module="y"
    )
    return Graph(
        ops=(op,),
        tensors=tensors,
        inputs=tuple(name for name in names if name not in values),
        outputs=("y",),
        layout="channels_last",
        values=values,
    )


@pytest.mark.parametrize("judge", ["tflite-micro", "litert-reference"])
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{n}-{CASES[n][0]}")
def test_integers_are_the_runtimes(number: int, judge: str, judges: Judges) -> None:
    graph = one_op(CASES[number], seed=number)
    content = serialize_tflite(graph)
    network = IntegerNetwork(parse_tflite(content))
    generator = torch.Generator().manual_seed(number)
    inputs = [
        torch.randint(-128, 128, (8, *graph.tensors[name].shape[1:]), generator=generator)
        for name in graph.inputs
    ]
    inputs = [x.to(torch.int8) for x in inputs]
    wanted = judges[judge](content)(*inputs)
    np.testing.assert_array_equal(network(*inputs).numpy(), wanted)


@pytest.mark.parametrize("kind", ["concat", "max_pool2d", "reshape"])
def test_an_op_that_cannot_rescale_refuses_to(kind: str) -> None:
    case = next(case for case in CASES if case[0] == kind)
    graph = one_op((*case[:4], False), seed=0)
    with pytest.raises(MismatchError, match="differ in scale or zero point"):
        IntegerNetwork(graph)
