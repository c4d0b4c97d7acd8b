"""Networks of the patterns of others: the files are what the module is, in every runtime."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.parity.signals import SHAPES, make
from tests.parity.test_tflite_reference import rounded_once
from tests.runtimes import TFLITE
from zoo.deploy.fidelity import reference
from zoo.deploy.onnx import export_onnx
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.deploy.vela import compile_graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import without_clamps
from zoo.graph.trace import trace
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.kernels import INTEGER
from zoo.runtime.values import channels_last, quantized

QUICK = ("shufflenet", "shufflenet-v2", "focus", "pyramid", "normalized", "functional", "tcn")
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SHAPES]


def several(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def products(module: nn.Module, shape: tuple[int, ...]) -> int:
    """The multiplications of one sample that torch itself counts."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(shape))
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", NAMES)
def test_files_compute_the_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = make(name)
    shape = SHAPES[name]
    wanted = reference(module, x)
    content = serialize_tflite(without_clamps(lower(module, shape)))
    for runtime in TFLITE.values():
        for given, y in zip(runtime(content)(channels_last(x)), wanted, strict=True):
            np.testing.assert_allclose(given, channels_last(y).numpy(), rtol=1e-4, atol=1e-4)
    graph = quantize(module, [x], shape)
    content, q = serialize_tflite(graph), quantized(graph, channels_last(x))
    ours = several(IntegerNetwork(graph)(q))
    for given, integers in zip(TFLITE["tflite-micro"](content)(q), ours, strict=True):
        np.testing.assert_array_equal(given, integers.numpy())
    monkeypatch.setitem(INTEGER, "fully_connected", rounded_once)  # as LiteRT's does, see there
    ours = several(IntegerNetwork(graph)(q))
    for given, integers in zip(TFLITE["litert-reference"](content)(q), ours, strict=True):
        np.testing.assert_array_equal(given, integers.numpy())
    assert compile_graph(graph, "ethos-u55-128").cycles > 0


@pytest.mark.parametrize("name", NAMES)
def test_exports_are_near_and_counted(name: str, tmp_path: Path) -> None:
    module, x = make(name)
    shape = SHAPES[name]
    assert export_tflite(module, tmp_path / "a.tflite", shape, [x]).snr_db > 20
    export_onnx(module, tmp_path / "a.onnx", shape)  # compared in ONNX Runtime before it is written
    graph = trace(module, shape)
    norms = [path for path, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)]
    # A norm that no layer takes is a depthwise layer on devices; torch does not count it.
    alone = sum(op.macs for op in graph.ops if op.module in norms)
    assert graph.macs - alone == products(module, shape)
