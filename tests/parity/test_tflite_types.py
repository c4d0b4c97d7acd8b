"""Files of other types: uint8 layers, floats on int8 or float16 weights, floats among integers."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.runtimes import litert_calls, tflite_micro_calls
from tests.tflite_files import File, Subgraph, one
from zoo.deploy.tflite_read import parse_tflite
from zoo.errors import MismatchError, UnsafeFileError
from zoo.runtime.integer import IntegerNetwork

SAME, VALID = 0, 1


def equal(content: bytes, *inputs: Tensor, atol: float = 0.0) -> list[NDArray[Any]]:
    """Check our outputs against LiteRT's reference kernels; return them."""
    made = IntegerNetwork(parse_tflite(content))(*inputs)
    ours = [y.numpy() for y in (made if isinstance(made, tuple) else (made,))]
    for mine, theirs in zip(ours, litert_calls(content)(*inputs), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)
    return ours


def pixels(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8))


def reals(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1, shape).astype(np.float32))


CONV = {"stride_h": 1, "stride_w": 1, "padding": SAME}
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "CONV_2D": ((1, 7, 6, 5), (20, 3, 3, 5), (1, 7, 6, 20), CONV),
    "DEPTHWISE_CONV_2D": (
        (1, 7, 6, 5),
        (1, 3, 3, 10),
        (1, 7, 6, 10),
        {**CONV, "depth_multiplier": 2},
    ),
    "FULLY_CONNECTED": ((2, 30), (900, 30), (2, 900), {}),
}


def layer(
    name: str, seed: int, dtype: str, *, weights: str, channels: bool = False, **options: Any
) -> tuple[bytes, Tensor]:
    """A layer on pixels or floats, and an input for it."""
    random, file = np.random.default_rng(seed), File()
    main = file.main
    source, kernel, made, attributes = LAYERS[name]
    floats = dtype == "float32"
    outputs, axis = made[-1], 3 if name.startswith("DEPTH") else 0
    main.inputs = [main.tensor("x", source, dtype, *((None,) if floats else (0.02, 131)))]
    scale = random.uniform(0.004, 0.008, outputs if channels else 1).tolist()
    low, zero = (0, int(random.integers(90, 160))) if weights == "uint8" else (-127, 0)
    values = random.integers(low, low + 255, kernel).astype(weights)
    main.constant("w", values, scale, zero, quantized_dimension=axis)
    bias = random.integers(-4000, 4000, outputs)
    if floats:
        main.constant("b", (bias / 4000).astype(np.float32))
    else:
        main.constant("b", bias.astype(np.int32), 0.02 * scale[0])
    meaning = (None,) if floats else (float(random.uniform(0.05, 0.1)), 120)
    main.outputs = [main.tensor("y", made, dtype, *meaning)]
    version = 3 if floats else 1
    main.op(name, ["x", "w", "b"], ["y"], version=version, options={**attributes, **options})
    return file.bytes(), (reals if floats else pixels)(seed, *source)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", [0, 1, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_uint8_layers(name: str, activation: int, seed: int) -> None:
    content, x = layer(name, seed, "uint8", weights="uint8", activation=activation)
    (ours,) = equal(content, x)
    assert len(np.unique(ours)) > 20


@pytest.mark.parametrize(
    ("name", "source", "kernel", "made", "biased"),
    [
        ("CONV_2D", (1, 32, 32, 64), (256, 1, 1, 64), (1, 32, 32, 256), True),
        ("DEPTHWISE_CONV_2D", (1, 64, 64, 64), (1, 3, 3, 64), (1, 64, 64, 64), True),
        ("FULLY_CONNECTED", (400, 64), (600, 64), (400, 600), True),
        ("FULLY_CONNECTED", (400, 64), (600, 64), (400, 600), False),
    ],
)
@pytest.mark.parametrize("seed", range(8))
def test_a_quarter_of_a_million_uint8_results(
    name: str, source: Any, kernel: Any, made: Any, biased: bool, seed: int
) -> None:
    """So many that the precision in which scales are multiplied shows."""
    random, file = np.random.default_rng(seed), File()
    main = file.main
    scales = [float(np.float32(random.uniform(*span))) for span in ((0.01, 0.05), (0.004, 0.02))]
    output = float(random.uniform(0.1, 0.4)) * (0.3 if name.startswith("DEPTH") else 1)
    main.inputs = [main.tensor("x", source, "uint8", scales[0], 131)]
    main.constant("w", random.integers(0, 255, kernel).astype(np.uint8), scales[1], 120)
    offsets = random.integers(-4000, 4000, made[-1]).astype(np.int32)
    main.constant("b", offsets, scales[0] * scales[1])
    main.outputs = [main.tensor("y", made, "uint8", output, 120)]
    options = {**CONV, "depth_multiplier": 1} if name != "FULLY_CONNECTED" else {}
    options.pop("depth_multiplier" if name == "CONV_2D" else "", None)
    main.op(name, ["x", "w", *["b"] * biased], ["y"], options=options)
    equal(file.bytes(), pixels(seed, *source))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("CONV_2D", False),
        ("CONV_2D", True),
        ("DEPTHWISE_CONV_2D", True),  # LiteRT has no other
        ("FULLY_CONNECTED", False),
        ("FULLY_CONNECTED", True),
    ],
)
def test_floats_on_int8_weights(name: str, channels: bool, seed: int) -> None:
    content, x = layer(name, seed, "float32", weights="int8", channels=channels)
    equal(content, x, atol=1e-5)
    equal(content, torch.zeros_like(x), atol=1e-5)  # a range of nothing


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_floats_on_int8_weights_whose_scales_are_all_the_same(name: str) -> None:
    source, kernel, made, options = LAYERS[name]
    random, file = np.random.default_rng(0), File()
    main = file.main
    main.inputs = [main.tensor("x", (2, *source[1:]))]
    values = random.integers(-127, 128, kernel).astype(np.int8)
    axis = 3 if name.startswith("DEPTH") else 0
    main.constant("w", values, [0.01] * made[-1], quantized_dimension=axis)
    main.constant("b", random.normal(0, 1, made[-1]).astype(np.float32))
    main.outputs = [main.tensor("y", (2, *made[1:]))]
    main.op(name, ["x", "w", "b"], ["y"], version=3, options=options)
    equal(file.bytes(), reals(3, 2, *source[1:]), atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_floats_on_int8_weights_with_a_zero_point_of_their_own(seed: int) -> None:
    options = {"asymmetric_quantize_inputs": True, "activation": 1}
    content, x = layer("FULLY_CONNECTED", seed, "float32", weights="int8", **options)
    equal(content, x, atol=1e-5)


def test_uint8_concatenation_rescales() -> None:
    file = File()
    main = file.main
    main.inputs = [main.tensor("a", (1, 3, 5), "uint8", 0.02, 100)]
    main.inputs.append(main.tensor("b", (1, 2, 5), "uint8", 0.031, 7))
    main.outputs = [main.tensor("y", (1, 5, 5), "uint8", 0.025, 90)]
    main.op("CONCATENATION", ["a", "b"], ["y"], options={"axis": 1})
    equal(file.bytes(), pixels(0, 1, 3, 5), pixels(1, 1, 2, 5))


def half(main: Subgraph, name: str, value: NDArray[Any]) -> str:
    """A float16 constant, and the operator that makes it float32."""
    main.constant(f"{name}16", value.astype(np.float16))
    main.tensor(name, value.shape)
    main.op("DEQUANTIZE", [f"{name}16"], [name], version=3)
    return name


def test_weights_of_float16() -> None:
    random, file = np.random.default_rng(0), File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 7, 6, 5))]
    main.outputs = [main.tensor("y", (1, 7, 6, 4))]
    weight, bias = random.normal(0, 1, (4, 3, 3, 5)), random.normal(0, 1, 4)
    operands = ["x", half(main, "w", weight), half(main, "b", bias)]
    main.op("CONV_2D", operands, ["y"], options=CONV)
    content = file.bytes()
    graph = parse_tflite(content)
    assert [op.kind for op in graph.ops] == ["conv2d"]
    assert graph.parameters == {"weights": 180, "biases": 4, "slopes": 0, "constants": 0}
    equal(content, reals(1, 1, 7, 6, 5), atol=1e-5)


def test_float_weights_that_are_stored_as_integers() -> None:
    """Weight-only quantization: a scale per channel, and an operator that makes them floats."""
    random, file = np.random.default_rng(0), File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 6))]
    weight = random.integers(-127, 128, (4, 6)).astype(np.int8)
    main.constant("w8", weight, random.uniform(0.01, 0.1, 4).tolist())
    main.tensor("w", (4, 6))
    main.outputs = [main.tensor("y", (1, 4))]
    main.op("DEQUANTIZE", ["w8"], ["w"], version=5)
    main.op("FULLY_CONNECTED", ["x", "w"], ["y"])
    content = file.bytes()
    assert [op.kind for op in parse_tflite(content).ops] == ["fully_connected"]
    equal(content, reals(1, 1, 6), atol=1e-5)


def test_constants_are_computed_when_a_file_is_read() -> None:
    """As converters leave them: a scale times a scale, weights that are turned."""
    random, file = np.random.default_rng(0), File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 6))]
    main.constant("a", random.normal(0, 1, (4, 6)).astype(np.float32))
    main.constant("b", random.normal(0, 1, (6,)).astype(np.float32))
    main.constant("order", np.array([1, 0], np.int32))
    for name, shape in (("ab", (4, 6)), ("turned", (6, 4)), ("back", (4, 6))):
        main.tensor(name, shape)
    main.outputs = [main.tensor("y", (1, 4)), "ab"]
    main.op("MUL", ["a", "b"], ["ab"])
    main.op("TRANSPOSE", ["ab", "order"], ["turned"])
    main.op("TRANSPOSE", ["turned", "order"], ["back"])
    main.op("FULLY_CONNECTED", ["x", "back"], ["y"])
    content = file.bytes()
    assert [op.kind for op in parse_tflite(content).ops] == ["fully_connected"]
    equal(content, reals(1, 1, 6), atol=1e-5)


def test_constants_that_unfold_beyond_the_file_are_refused() -> None:
    file = File()
    main = file.main
    main.inputs, main.outputs = [main.tensor("x", (1, 4))], ["x"]
    main.constant("size", np.array([9000, 9000], np.int32))
    main.constant("pixel", np.ones((1, 1, 1, 1), np.float32))
    main.tensor("vast", (1, 9000, 9000, 1))
    main.op("RESIZE_NEAREST_NEIGHBOR", ["pixel", "size"], ["vast"])
    with pytest.raises(UnsafeFileError, match="unfolds far beyond the file's size"):
        parse_tflite(file.bytes())


def test_floats_between_integers() -> None:
    """int8, then a softmax and a sum in floats, then uint8, and plain int32 beside them."""
    file = File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 8), "int8", 0.05, 3), main.tensor("n", (1, 4), "int32")]
    for name in ("real", "soft", "more"):
        main.tensor(name, (1, 8))
    main.constant("one", np.full((1, 8), 0.25, np.float32))
    main.constant("two", np.full((1, 1), 2, np.int32))
    main.outputs = [
        main.tensor("y", (1, 8), "uint8", 1 / 128, 9),
        main.tensor("m", (1, 4), "int32"),
    ]
    main.op("DEQUANTIZE", ["x"], ["real"], version=2)
    main.op("SOFTMAX", ["real"], ["soft"], options={"beta": 1.0})
    main.op("ADD", ["soft", "one"], ["more"], options={"activation": 1})
    main.op("QUANTIZE", ["more"], ["y"])
    main.op("MUL", ["n", "two"], ["m"])
    x = torch.arange(-60, 60, 15, dtype=torch.int8)[None]
    numbers = torch.tensor([[1, -2, 3, 40]], dtype=torch.int32)
    _, doubled = equal(file.bytes(), x, numbers)
    assert doubled.tolist() == [[2, -4, 6, 80]]


def test_integers_without_a_scale_are_not_guessed() -> None:
    file = File()
    main = file.main
    main.inputs = [main.tensor("x", (1, 8), "int8")]
    main.outputs = [main.tensor("y", (1, 8), "int8")]
    main.op("SOFTMAX", ["x"], ["y"], version=2, options={"beta": 1.0})
    with pytest.raises(
        MismatchError, match=r"softmax at y: tensor 'x' is int8; expected quantized"
    ):
        IntegerNetwork(parse_tflite(file.bytes()))


@pytest.mark.parametrize(
    ("before", "after"),
    [("float32", "int32"), ("int32", "float32"), ("uint8", "float32"), ("bool", "float32"),
     ("float32", "uint8"), ("int64", "int32"), ("int8", "int32")],
)  # fmt: skip
def test_casts(before: str, after: str) -> None:
    values = np.array([[0, 1, 2.7, 3.2, 100]])
    if before in ("float32", "int32", "int64", "int8") and after != "uint8":
        values -= 3.6
    x = torch.from_numpy(values.astype(before))
    equal(one("CAST", [((1, 5), before)], [((1, 5), after)]), x)


def transposed(seed: int, dtype: str, stride: int, padding: int, **more: Any) -> tuple[bytes, Any]:
    """A transposed convolution of 4x3 pixels, and an input for it."""
    random, file = np.random.default_rng(seed), File()
    main = file.main
    high, wide = (4 * stride, 3 * stride) if padding == SAME else (3 * stride + 3, 2 * stride + 2)
    main.constant("size", np.array([1, high, wide, 6], np.int32))
    scales = random.uniform(0.005, 0.02, 6).tolist()
    if dtype == "float32":
        main.inputs = [main.tensor("x", (1, 4, 3, 5))]
        main.constant("w", random.normal(0, 1, (6, 3, 2, 5)).astype(np.float32))
        main.constant("b", random.normal(0, 1, 6).astype(np.float32))
        main.outputs = [main.tensor("y", (1, high, wide, 6))]
        x = reals(seed, 1, 4, 3, 5)
    else:
        zero = {"int8": (-7, 11), "uint8": (120, 131), "int16": (0, 0)}[dtype]
        main.inputs = [main.tensor("x", (1, 4, 3, 5), dtype, 0.02, zero[0])]
        kind = "uint8" if dtype == "uint8" else "int8"
        weight = random.integers(1 if kind == "uint8" else -127, 128, (6, 3, 2, 5)).astype(kind)
        meaning = (scales[0], 77) if kind == "uint8" else (scales, 0)
        main.constant("w", weight, *meaning)
        bias = random.integers(-4000, 4000, 6).astype(np.int64 if dtype == "int16" else np.int32)
        main.constant("b", bias, [0.02 * scale for scale in scales[: 1 if kind == "uint8" else 6]])
        main.outputs = [main.tensor("y", (1, high, wide, 6), dtype, 0.15, zero[1])]
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max + 1, (1, 4, 3, 5))
        x = torch.from_numpy(values.astype(dtype))
    options = {"padding": padding, "stride_h": stride, "stride_w": stride}
    version = 4 if more.get("activation") else 3
    main.op("TRANSPOSE_CONV", ["size", "w", "x", "b"], ["y"], version, {**options, **more})
    return file.bytes(), x


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int16"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [SAME, VALID])
def test_transposed_convolutions(dtype: str, stride: int, padding: int) -> None:
    content, x = transposed(stride, dtype, stride, padding)
    equal(content, x, atol=1e-5 if dtype == "float32" else 0)
    graph = parse_tflite(content)
    assert graph.macs == 4 * 3 * 5 * 6 * 3 * 2


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_transposed_convolutions_with_an_activation(dtype: str) -> None:
    content, x = transposed(0, dtype, 2, SAME, activation=1)
    (ours,) = equal(content, x, atol=1e-5 if dtype == "float32" else 0)
    assert ours.min() == (0 if dtype == "float32" else 11)


@pytest.mark.parametrize("name", ["ADD", "SUB"])
def test_int16_sums_that_could_be_shifted_but_are_not(name: str) -> None:
    """As older converters write them: with the schema's default, and scales of any kind."""
    shape = (1, 6, 50)
    content = one(
        name,
        [(shape, "int16", 0.0021), (shape, "int16", 0.0013)],
        [(shape, "int16", 0.003)],
        version=2 if name == "ADD" else 5,
        options={"pot_scale_int16": True},
    )
    random = np.random.default_rng(0)
    x, y = (torch.from_numpy(random.integers(-32768, 32768, shape).astype(np.int16)) for _ in "xy")
    (ours,) = equal(content, x, y)
    np.testing.assert_array_equal(ours, tflite_micro_calls(content)(x, y)[0])


@pytest.mark.parametrize("scale", [0.0005, 0.01, 0.9])
@pytest.mark.parametrize("name", ["LOGISTIC", "TANH"])
def test_all_values_of_uint8_curves(name: str, scale: float) -> None:
    meaning = (1 / 256, 0) if name == "LOGISTIC" else (1 / 128, 128)
    content = one(name, [((1, 256), "uint8", scale, 77)], [((1, 256), "uint8", *meaning)])
    equal(content, torch.arange(256, dtype=torch.uint8)[None])
