"""Whose integers are computed: TFLite Micro's; where LiteRT's reference kernels differ, and how."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.deploy import flatbuffer, tflite_write
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph.ir import BIAS_DTYPE, LIMITS, Graph, Op, Quantization
from zoo.graph.ir import Tensor as Node
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.runtime import fixedpoint
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.integer_base import Kernel, centered, limits, quantization_of
from zoo.runtime.kernels import INTEGER
from zoo.runtime.values import quantized

Judges = dict[str, Any]  # see conftest.py


def rounded_once(graph: Graph, op: Op) -> Kernel:
    """LiteRT's fully connected layer, int8 and int16: round(sum * M / 2^(31 - s)), halves up."""
    source, output = (quantization_of(graph, name) for name in (op.inputs[0], op.outputs[0]))
    weight = centered(graph, op.inputs[1]).numpy().astype(np.int64)
    scales = np.array(quantization_of(graph, op.inputs[1]).scales, np.float64)
    bias = graph.values[op.inputs[2]] if len(op.inputs) > 2 else 0
    factors = np.broadcast_to(source.scale * scales / output.scale, len(weight))
    pairs = [fixedpoint.quantize_multiplier(float(factor)) for factor in factors]
    multiplier, shift = (np.array(column, object) for column in zip(*pairs, strict=True))
    low, high = limits(graph, op)

    def run(x: Tensor) -> Tensor:
        rows = x.reshape(-1, weight.shape[1]).numpy().astype(np.int64)
        total = ((rows - source.zero_point) @ weight.T + bias).astype(object)  # products of 64 bits
        scaled = (total * multiplier + (1 << (30 - shift))) >> (31 - shift)
        result = np.clip(scaled.astype(np.int64), low, high) + output.zero_point
        shape = (-1, *graph.tensors[op.outputs[0]].shape[1:])
        return torch.from_numpy(result).reshape(shape).to(x.dtype)

    return run


def large(kind: str, dtype: str) -> tuple[Graph, Tensor]:
    """A layer of 1280 inputs and 1000 outputs, and 60 inputs for it."""
    random, wide = np.random.default_rng(0), dtype == "int16"
    one = (1, 1) if kind == "conv2d" else ()
    shapes: dict[str, tuple[int, ...]] = {
        "x": (1, *one, 1280),
        "w": (1000, *one, 1280),
        "b": (1000,),
        "y": (1, *one, 1000),
    }
    types = {"x": dtype, "w": "int8", "b": BIAS_DTYPE[dtype], "y": dtype}
    scales = {"x": 2e-4, "w": 0.01, "b": 2e-6, "y": 0.006} if wide else {}
    scales = scales or {"x": 0.02, "w": 0.01, "b": 2e-4, "y": 0.6}
    zeros = {} if wide else {"x": -3, "y": 5}
    tensors = {
        name: Node(
            name=name,
            shape=shape,
            dtype=types[name],
            kind={"w": "weight", "b": "bias"}.get(name, "activation"),  # type: ignore[arg-type]
            quantization=Quantization(
                scales=(float(np.float32(scales[name])),), zero_points=(zeros.get(name, 0),)
            ),
        )
        for name, shape in shapes.items()
    }
    window = {"kernel": (1, 1), "stride": (1, 1), "dilation": (1, 1), "padding": (0,) * 4}
    op = Op(
        name="y",
        kind=kind,
        inputs=("x", "w", "b"),
        outputs=("y",),
        attributes={**window, "groups": 1} if one else {},
        macs=1_280_000,
        module="y",
    )
    values = {
        "w": random.integers(-127, 128, shapes["w"]).astype(np.int8),
        "b": random.integers(-9999, 9999, 1000).astype(types["b"]),
    }
    graph = Graph(
        ops=(op,),
        tensors=tensors,
        inputs=("x",),
        outputs=("y",),
        layout="channels_last",
        values=values,
    )
    low, high = LIMITS[dtype]
    x = random.integers(low, high + 1, (60, *shapes["x"][1:])).astype(dtype)
    return graph, torch.from_numpy(x)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
@pytest.mark.parametrize("kind", ["conv2d", "fully_connected"])
def test_large_layers(
    kind: str, dtype: str, judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, x = large(kind, dtype)
    content = serialize_tflite(graph)
    ours = IntegerNetwork(graph)(x).numpy()
    assert ours.size == 60_000
    np.testing.assert_array_equal(ours, judges["tflite-micro"](content)(x))
    reference = judges["litert-reference"](content)(x)
    if kind == "fully_connected":
        # The numbers that README gives.
        steps = np.abs(reference.astype(np.int64) - ours)
        assert steps.max() == 1
        assert steps.sum() == {"int8": 19, "int16": 11_513}[dtype]
        monkeypatch.setitem(INTEGER, kind, rounded_once)
    np.testing.assert_array_equal(IntegerNetwork(graph)(x).numpy(), reference)


def test_large_int16_layers_of_ours_are_the_same_on_both(judges: Judges) -> None:
    """Scales are chosen so that the two roundings agree, see `zoo.quantization.int8.scales`."""
    torch.manual_seed(0)
    module, x = torch.nn.Linear(1280, 1000).eval(), torch.randn(60, 1280)
    graph = quantize(module, [x], (1, 1280), Options(activations="int16"))
    q, content = quantized(graph, x), serialize_tflite(graph)
    ours = IntegerNetwork(graph)(q).numpy()
    assert len(np.unique(ours)) > 10_000
    for judge in judges.values():
        np.testing.assert_array_equal(judge(content)(q), ours)


def test_a_bias_may_name_the_dimension_of_its_weights_scales(
    judges: Judges, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As old converters write it: scales along the weights' last dimension, and the bias's too."""
    graph, x = large("conv2d", "int8")
    tensors = dict(graph.tensors)
    for name, axis in (("w", 0), ("b", 3)):
        (scale,) = tensors[name].quantization.scales  # type: ignore[union-attr]
        scales = tuple(float(np.float32(scale * (1 + place / 999))) for place in range(1000))
        meaning = Quantization(scales=scales, zero_points=(0,) * 1000, axis=axis)
        tensors[name] = replace(tensors[name], quantization=meaning)
    with monkeypatch.context() as patch:
        patch.setattr(tflite_write, "flatbuffer", flatbuffer)  # LiteRT cannot open it
        content = serialize_tflite(replace(graph, tensors=tensors))
    read = parse_tflite(content)
    meaning = read.tensors["b"].quantization  # type: ignore[assignment]
    assert (meaning.axis, len(meaning.scales)) == (0, 1000)
    ours = IntegerNetwork(read)(x[:5]).numpy()
    np.testing.assert_array_equal(ours, judges["tflite-micro"](content)(x[:5]))
    # What is read can be written for LiteRT.
    np.testing.assert_array_equal(ours, judges["litert-reference"](serialize_tflite(read))(x[:5]))
