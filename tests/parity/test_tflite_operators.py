"""Each integer operator alone, as a file of one: the real runtimes give the same integers."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from zoo.deploy.formats import NPU
from zoo.deploy.onnx_qdq import qdq_model
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import LIMITS, Graph, Op, Quantization, Tensor
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.kernels import INTEGER

Judges = dict[str, Any]  # see conftest.py
IMAGE = (1, 6, 5, 8)
PROBABILITY = {
    "int8": Quantization(scales=(1 / 256,), zero_points=(-128,)),
    "int16": Quantization(scales=(1 / 32768,), zero_points=(0,)),
    "uint8": Quantization(scales=(1 / 256,), zero_points=(0,)),
}
TANH = {**PROBABILITY, "int8": Quantization(scales=(1 / 128,), zero_points=(0,))}
TANH["uint8"] = Quantization(scales=(1 / 128,), zero_points=(128,))
FIXED = {"softmax": PROBABILITY, "sigmoid": PROBABILITY, "tanh": TANH}
WINDOW = {"kernel": (3, 2), "stride": (2, 2), "dilation": (1, 1), "padding": (0, 1, 0, 1)}
AROUND = (0, 0, 3, 1, 1, 2, 0, 0)


def size(**options: bool) -> dict[str, Any]:
    return {"size": (11, 7), "align_corners": False, "half_pixel_centers": False, **options}


# In int16 the runtimes have no kernel for these, or disagree.
OTHERWISE = ("prelu", "relu", "relu6", "depth_to_space", "hard_swish", "space_to_depth")
PLAIN = {"adj_x": False, "adj_y": False}
BOTH = ("tflite-micro", "litert-reference")
# Which runtimes have the int8 kernels that not all have; no other type is computed here.
SOME = {"gelu": BOTH[1:], "elu": BOTH[:1], "rsqrt": BOTH, "batch_matmul": BOTH}
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
    ("sigmoid", [IMAGE], IMAGE, {}, False),
    ("tanh", [IMAGE], IMAGE, {}, False),
    ("hard_swish", [IMAGE], IMAGE, {}, False),
    ("gelu", [IMAGE], IMAGE, {"approximate": "none"}, False),
    ("gelu", [IMAGE], IMAGE, {"approximate": "tanh"}, False),
    ("elu", [IMAGE], IMAGE, {}, False),
    ("rsqrt", [IMAGE], IMAGE, {}, False),
    ("batch_matmul", [(1, 3, 4, 5), (1, 1, 5, 6)], (1, 3, 4, 6), PLAIN, False),
    ("batch_matmul", [(1, 1, 4, 5), (1, 3, 5, 6)], (1, 3, 4, 6), PLAIN, False),
    ("batch_matmul", [(1, 2, 6, 8), (1, 2, 8, 5)], (1, 2, 6, 5), PLAIN, False),
    ("batch_matmul", [(1, 6, 8), (1, 5, 8)], (1, 6, 5), {**PLAIN, "adj_y": True}, False),
    ("batch_matmul", [(1, 8, 6), (1, 5, 8)], (1, 6, 5), {"adj_x": True, "adj_y": True}, False),
    ("leaky_relu", [IMAGE], IMAGE, {"negative_slope": 0.3}, False),
    ("leaky_relu", [IMAGE], IMAGE, {"negative_slope": 0.01}, False),
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
    ("space_to_depth", [(1, 6, 4, 3)], (1, 3, 2, 12), {"block": 2}, True),
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


def one_op(case: tuple[Any, ...], seed: int, dtype: str = "int8") -> Graph:
    kind, operands, output, attributes, shared = case
    random = np.random.default_rng(seed)
    low, high = LIMITS[dtype]

    def meaning() -> Quantization:
        scale, zero = np.float32(random.uniform(0.005, 0.05)), int(random.integers(-100, 100))
        zero = abs(zero) + 5 if dtype == "uint8" else zero
        if kind == "rsqrt" and not tensors:
            zero = -128  # of an input that is never below zero
        if dtype == "int16":  # runtimes agree on MUL when the scales have few bits
            scale, zero = np.float32(math.ceil(scale * 2**14) / 2**22), 0
        return Quantization(scales=(float(scale),), zero_points=(zero,))

    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    same = meaning()
    for place, shape in enumerate(operands):
        name, constant = f"x{place}", isinstance(shape, list)
        if constant:
            values[name] = random.integers(low + 1, high + 1, shape).astype(dtype)
        tensors[name] = Tensor(
            name=name,
            shape=tuple(shape),
            dtype=dtype,
            kind="constant" if constant else "input",
            quantization=same if shared else meaning(),
        )
    last = FIXED[kind][dtype] if kind in FIXED else same if shared else meaning()
    if (kind, dtype) == ("mul", "int16"):
        last = Quantization(scales=(2.0**-13,), zero_points=(0,))
    tensors["y"] = Tensor(name="y", shape=output, dtype=dtype, kind="output", quantization=last)
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


def runs(number: int, dtype: str, judge: str) -> bool:
    """Whether a runtime has the operator."""
    kind = CASES[number][0]
    if kind in SOME:
        return dtype == "int8" and judge in SOME[kind]
    if dtype == "uint8":
        return judge == "litert-reference"
    if dtype == "int8":
        return True
    return kind not in OTHERWISE and (judge, kind) != ("tflite-micro", "resize_bilinear")


@pytest.mark.parametrize(
    ("number", "dtype", "judge"),
    [
        pytest.param(n, dtype, judge, id=f"{n}-{CASES[n][0]}-{dtype}-{judge}")
        for n in range(len(CASES))
        for dtype in ("int8", "int16", "uint8")
        for judge in ("tflite-micro", "litert-reference")
        if runs(n, dtype, judge)
    ],
)
def test_integers_are_the_runtimes(number: int, dtype: str, judge: str, judges: Judges) -> None:
    graph = one_op(CASES[number], seed=number, dtype=dtype)
    content = serialize_tflite(graph)
    network = IntegerNetwork(parse_tflite(content))
    generator = torch.Generator().manual_seed(number)
    spread = LIMITS[dtype][0], LIMITS[dtype][1] + 1
    inputs = [
        torch.randint(*spread, (8, *graph.tensors[name].shape[1:]), generator=generator)
        for name in graph.inputs
    ]
    inputs = [x.to(getattr(torch, dtype)) for x in inputs]
    wanted = judges[judge](content)(*inputs)
    given = network(*inputs).numpy()
    kind = CASES[number][0]
    if kind in ("softmax", "leaky_relu") and (dtype, judge) == ("int16", "litert-reference"):
        # LiteRT computes the kernel's tables or factors in another precision than TFLite Micro.
        given, wanted = given.astype(np.int32), wanted.astype(np.int32)
        np.testing.assert_allclose(given, wanted, rtol=0, atol=1)
    else:
        np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize("judge", ["tflite-micro", "litert-reference"])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_integers_become_the_runtimes_real_numbers(dtype: str, judge: str, judges: Judges) -> None:
    graph = one_op(("dequantize", [IMAGE], IMAGE, {}, False), seed=0, dtype=dtype)
    real = dataclasses.replace(graph.tensors["y"], dtype="float32", quantization=None)
    graph = dataclasses.replace(graph, tensors={**graph.tensors, "y": real})
    content = serialize_tflite(graph)
    x = torch.randint(*LIMITS[dtype], (8, *IMAGE[1:])).to(getattr(torch, dtype))
    np.testing.assert_array_equal(
        IntegerNetwork(parse_tflite(content))(x).numpy(), judges[judge](content)(x)
    )


def test_every_integer_kernel_is_compared_with_the_runtimes() -> None:
    layers = {"conv2d", "depthwise_conv2d", "fully_connected"}  # test_tflite_reference.py
    recurrent = {"lstm", "svdf"}  # test_tflite_recurrent.py
    others = {"transpose_conv2d", "cast"}  # test_tflite_types.py
    moved = {"pack", "unpack", "strided_slice", "split", "tile"}  # test_tflite_moves.py, and these
    moved |= {"arg_max", "arg_min"}
    tried = {case[0] for case in CASES} | layers | recurrent | others | moved | {"dequantize"}
    assert tried == set(INTEGER)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{n}-{CASES[n][0]}")
def test_onnx_runtime_is_within_one_step(number: int) -> None:
    graph = one_op(CASES[number], seed=number)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        qdq_model(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    generator = torch.Generator().manual_seed(number)
    inputs, real = [], {}
    for name, place in zip(graph.inputs, session.get_inputs(), strict=True):
        meaning, shape = graph.tensors[name].quantization, (8, *graph.tensors[name].shape[1:])
        assert meaning
        x = torch.randint(-128, 128, shape, generator=generator).to(torch.int8)
        inputs.append(x)
        value = (x.float() - meaning.zero_point) * meaning.scale
        real[place.name] = first(value).numpy()
    meaning = graph.tensors["y"].quantization
    assert meaning
    (given,) = session.run(None, real)
    steps = np.round(given / meaning.scale) + meaning.zero_point
    wanted = first(IntegerNetwork(graph)(*inputs)).numpy().astype(np.int32)
    assert np.abs(steps - wanted).max() <= 1
    # Rarely, but for averages, whose halves are many, and where TFLite rounds twice at one bit.
    often = ("avg_pool2d", "mean", "resize_bilinear", "quantize", "leaky_relu")
    rare = 0.3 if CASES[number][0] in often else 0.06
    assert (steps != wanted).mean() < rare


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{n}-{CASES[n][0]}")
def test_vela_leaves_to_the_host_only_what_has_advice(number: int) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    from zoo.deploy.vela import compile_graph

    left = compile_graph(one_op(CASES[number], seed=number), "ethos-u55-256").cpu_ops
    advice = NPU[CASES[number][0]]
    assert {op.fix for op in left} <= ({advice} if advice else set())
    if CASES[number][0] in ("depth_to_space", "resize_bilinear", "resize_nearest"):
        assert left


def first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


@pytest.mark.parametrize("kind", ["prelu", "relu", "relu6"])
def test_int16_that_runtimes_do_not_agree_on_is_refused(kind: str) -> None:
    graph = one_op(next(case for case in CASES if case[0] == kind), 0, "int16")
    with pytest.raises(MismatchError, match="convert the file with maximum and minimum"):
        IntegerNetwork(graph)


def test_int16_that_no_runtime_has_is_refused() -> None:
    graph = one_op(next(case for case in CASES if case[0] == "hard_swish"), 0, "int16")
    with pytest.raises(MismatchError, match="runtimes have it in int8 and uint8 only"):
        IntegerNetwork(graph)


@pytest.mark.parametrize("kind", ["concat", "max_pool2d", "reshape"])
def test_an_op_that_cannot_rescale_refuses_to(kind: str) -> None:
    case = next(case for case in CASES if case[0] == kind)
    graph = one_op((*case[:4], False), seed=0)
    with pytest.raises(MismatchError, match="differ in scale or zero point"):
        IntegerNetwork(graph)
