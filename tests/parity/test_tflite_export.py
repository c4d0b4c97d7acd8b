"""Modules to int8 and float `.tflite` files: runtimes, our reader and our arithmetic agree."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.graph.ir import LIMITS, Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import without_clamps
from zoo.models.sesr import SESR
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize
from zoo.runtime import integer_base, integer_products
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork

Judges = dict[str, Any]  # see conftest.py


class Residual(nn.Module):
    """Strides, odd paddings, a shortcut, pools, a scaled copy, a flattened image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.shortcut = nn.Conv2d(16, 16, 1, stride=2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.last = nn.Linear(16 * 4 * 4 * 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.pool(torch.relu(self.second(x) + self.shortcut(x)))
        return self.last(torch.cat([x, x * 0.5], 1).flatten(1))  # type: ignore[no-any-return]


def depthwise_block(width: int) -> list[nn.Module]:
    return [
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    ]


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode and a batch for it."""
    torch.manual_seed(0)
    if name == "sesr":
        sesr = SESR(channels=16, blocks=3, scale=2)
        for act in sesr.act:
            nn.init.uniform_(act.weight, -0.3, 0.5)  # type: ignore[arg-type]
        return sesr.eval(), torch.rand(16, 1, 12, 16)
    if name == "residual":
        return Residual().eval(), torch.rand(16, 3, 16, 16)
    if name == "curves":  # of a fixed quantization, which the flattening takes over
        curved = [nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 4, 3), nn.Sigmoid(), nn.Flatten()]
        return nn.Sequential(*curved, nn.Linear(192, 5)).eval(), torch.randn(16, 3, 12, 10)
    body = [nn.Conv2d(1, 32, (10, 4), stride=2, padding=(5, 1), bias=False), nn.BatchNorm2d(32)]
    layers = [*body, nn.ReLU(), *depthwise_block(32), *depthwise_block(32)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 12), nn.Softmax(1)]
    module, x = nn.Sequential(*layers, *head), torch.randn(16, 1, 49, 10)
    for _ in range(3):
        module(x)  # statistics for the batch norms
    return module.eval(), x


NAMES = ["sesr", "residual", "ds-cnn", "curves"]


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x


def integers(graph: Graph, x: Tensor) -> Tensor:
    tensor = graph.tensors[graph.inputs[0]]
    meaning = tensor.quantization
    assert meaning
    steps = (last(x) / meaning.scale).round().add(meaning.zero_point)
    return steps.clamp(*LIMITS[tensor.dtype]).to(getattr(torch, tensor.dtype))


def real(graph: Graph, y: Tensor) -> Tensor:
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning
    return (y.float() - meaning.zero_point) * meaning.scale


@pytest.mark.parametrize("name", NAMES)
def test_the_lowered_graph_is_the_module(name: str) -> None:
    module, x = make(name)
    with torch.no_grad():
        wanted = last(module(x))
    given = FloatNetwork(lower(module, (1, *x.shape[1:])))(last(x))
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("judge", ["tflite-micro", "litert-reference"])
@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_runtimes_compute_our_integers(
    name: str, activations: Any, judge: str, judges: Judges
) -> None:
    module, x = make(name)
    graph = quantize(module, [x], (1, *x.shape[1:]), Options(activations=activations))
    content = serialize_tflite(graph)
    q = integers(graph, x)
    wanted = judges[judge](content)(q)
    np.testing.assert_array_equal(IntegerNetwork(graph)(q).numpy(), wanted)
    again = IntegerNetwork(parse_tflite(content))  # of one sample where a transposition mixes them
    given = again(q) if again.batched else torch.cat([again(sample[None]) for sample in q])
    np.testing.assert_array_equal(given.numpy(), wanted)


@pytest.mark.parametrize("name", NAMES)
def test_our_reader_reads_back_what_was_written(name: str) -> None:
    module, x = make(name)
    graph = quantize(module, [x], (1, *x.shape[1:]))
    content = serialize_tflite(graph)
    again = parse_tflite(content)
    assert [(op.kind, op.inputs, op.outputs, op.macs) for op in again.ops] == [
        (op.kind, op.inputs, op.outputs, op.macs) for op in graph.ops
    ]
    assert {n: (t.shape, t.quantization) for n, t in again.tensors.items()} == {
        n: (t.shape, t.quantization) for n, t in graph.tensors.items()
    }
    for key, value in graph.values.items():
        np.testing.assert_array_equal(again.values[key], value)
    assert serialize_tflite(again) == content
    # The file is its values and at most 300 bytes for each tensor.
    values = sum(value.nbytes for value in graph.values.values())
    assert len(content) < values + 300 * len(graph.tensors) + 1024


@pytest.mark.parametrize("name", NAMES)
def test_int8_is_close_to_float(name: str) -> None:
    module, x = make(name)
    graph = quantize(module, [x], (1, *x.shape[1:]))
    with torch.no_grad():
        wanted = last(module(x))
    error = real(graph, IntegerNetwork(graph)(integers(graph, x))) - wanted
    step = graph.tensors[graph.outputs[0]].quantization
    assert step
    assert float(error.abs().mean()) < 2 * step.scale


@pytest.mark.parametrize("name", NAMES)
def test_float_files_run(name: str, judges: Judges) -> None:
    module, x = make(name)
    graph = without_clamps(lower(module, (1, *x.shape[1:])))
    content = serialize_tflite(graph)
    with torch.no_grad():
        wanted = last(module(x)).numpy()
    for judge in judges.values():
        np.testing.assert_allclose(judge(content)(last(x)), wanted, atol=1e-5)
    assert serialize_tflite(parse_tflite(content)) == content


@pytest.mark.parametrize("name", NAMES)
def test_int16_activations_are_closer_than_int8(name: str) -> None:
    module, x = make(name)
    with torch.no_grad():
        wanted = last(module(x))
    errors = {}
    for activations in ("int8", "int16"):
        options = Options(activations=activations)  # type: ignore[arg-type]
        graph = quantize(module, [x], (1, *x.shape[1:]), options)
        assert all(graph.tensors[op.inputs[1]].dtype == "int8" for op in graph.ops if op.macs)
        given = real(graph, IntegerNetwork(graph)(integers(graph, x)))
        errors[activations] = float((given - wanted).abs().mean())
    assert errors["int16"] < 0.8 * errors["int8"]  # what is left comes from the weights


def test_half_grey_is_subtracted_without_error() -> None:
    module, x = make("sesr")
    graph = quantize(module, [x], (1, 1, 12, 16))
    before, after = (graph.tensors[n].quantization for n in ("y", graph.ops[0].outputs[0]))
    assert before
    assert after
    assert before.scales == after.scales == pytest.approx((1 / 254,))
    assert after.zero_point - before.zero_point == 127


@pytest.mark.parametrize("observer", ["percentile", "moving_average"])
def test_observers_narrow_ranges(observer: str) -> None:
    module, x = make("residual")
    x[0, 0, 0, 0] = 50.0  # an outlier
    wide = quantize(module, [x, x], (1, 3, 16, 16))
    options = Options(observer=observer, percentile=99.9)  # type: ignore[arg-type]
    narrow = quantize(module, [x * 0.1, x], (1, 3, 16, 16), options)
    first, second = (g.tensors[g.inputs[0]].quantization for g in (wide, narrow))
    assert first
    assert second
    assert second.scale < first.scale / 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [1, 16])
def test_processors_without_int8_products_compute_the_same(
    name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = make(name)
    graph = quantize(module, [x], (1, *x.shape[1:]))
    q = integers(graph, x)[:batch]
    fast = IntegerNetwork(graph)(q)
    monkeypatch.setattr(integer_products, "int8_products_are_exact", lambda: False)
    plain = IntegerNetwork(graph)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_int_mm", None)
        assert torch.equal(plain(q), fast)


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_batches_and_images_join_without_a_seam(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = make(name)
    graph = quantize(module, [x], (1, *x.shape[1:]))
    q = integers(graph, x)
    whole = IntegerNetwork(graph)(q)
    for at_once in (1, 700, 5000):
        monkeypatch.setattr(integer_products, "AT_ONCE", at_once)
        monkeypatch.setattr(integer_base, "AT_ONCE", at_once)
        network = IntegerNetwork(graph)
        assert torch.equal(network(q), whole)
        network._chunk = 3
        assert torch.equal(network(q), whole)


def test_integers_do_not_depend_on_the_users_precision() -> None:
    module, x = make("residual")
    graph = quantize(module, [x], (1, 3, 16, 16))
    network, q = IntegerNetwork(graph), integers(graph, x)
    wanted = network(q)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(network(q), wanted)
    finally:
        torch.set_float32_matmul_precision(before)
