"""Batch norms and activations in place, as the networks of timm have them: files and counts."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import zoo
from zoo.deploy.onnx import export_onnx
from zoo.deploy.onnx_qdq import qdq_model
from zoo.deploy.tflite import export_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.graph.lower import lower
from zoo.graph.rewrite import for_int16
from zoo.graph.trace import trace
from zoo.quantization.int8.calibration import Options, observed
from zoo.quantization.int8.post_training import quantize_graph
from zoo.runtime.floating import FloatNetwork
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.values import channels_last, dequantized, quantized

Judges = dict[str, Any]  # see conftest.py
SHAPE = (1, 3, 16, 16)
LEAST_DB = {"int8": 30, "int16": 40}  # the weights of both have 8 bits


def conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1, bias: bool = False
) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)


def conv_norm_act(
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
    groups: int = 1,
    act: Callable[..., nn.Module] = nn.ReLU,
) -> list[nn.Module]:
    layer = conv(inputs, outputs, kernel, stride, groups)
    return [layer, nn.BatchNorm2d(outputs), act(inplace=True)]


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]


class BasicBlock(nn.Module):
    """resnet18: one activation serves twice; `x += shortcut` is in place too."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, 3, 2), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.act = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(conv(inputs, outputs, 1, 2), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))
        y += self.downsample(x)
        return self.act(y)  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """mobilenetv2, efficientnet_lite0: expand, depthwise, project; the shortcut is the input."""

    def __init__(self, width: int, act: Callable[..., nn.Module]) -> None:
        super().__init__()
        wide = 4 * width
        expand = conv_norm_act(width, wide, 1, act=act)
        depthwise = conv_norm_act(wide, wide, 3, groups=wide, act=act)
        self.body = nn.Sequential(*expand, *depthwise, conv(wide, width, 1), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class DenseLayer(nn.Module):
    """densenet: norm and activation of all that came before, joined."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = conv(inputs, 2 * growth, 1)
        self.norm2, self.relu2 = nn.BatchNorm2d(2 * growth), nn.ReLU(inplace=True)
        self.conv2 = conv(2 * growth, growth, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.relu1(self.norm1(x)))
        return torch.cat([x, self.conv2(self.relu2(self.norm2(y)))], 1)


class PreActivation(nn.Module):
    """resnetv2: norm and activation first; what is activated is also the shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), conv(width, width)
        self.norm2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(self.norm1(x).relu_())
        return x + self.conv2(self.norm2(y).clamp_(min=0))  # type: ignore[no-any-return]


class WritesItsInput(nn.Module):
    """Its first operators change the caller's tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 5, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.25).mul_(2.0)
        return self.conv(x)  # type: ignore[no-any-return]


class View(nn.Module):
    """What is changed in place is a view, and the whole is read afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = conv(3, 6, bias=True), conv(6, 5, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.flatten(1).relu_()
        return self.last(y)  # type: ignore[no-any-return]


def shared() -> nn.Module:
    """One convolution, used twice, each time with a norm of its own."""
    layer = conv(3, 3)
    return nn.Sequential(layer, nn.BatchNorm2d(3), nn.ReLU(), layer, nn.BatchNorm2d(3))


MAKERS: dict[str, Callable[[], list[nn.Module]]] = {
    "conv-bn-relu": lambda: conv_norm_act(3, 8),
    "resnet": lambda: [*conv_norm_act(3, 8), BasicBlock(8, 12), *head(12)],
    "mobilenetv2": lambda: [*conv_norm_act(3, 8, act=nn.ReLU6), InvertedResidual(8, nn.ReLU6)],
    "efficientnet-lite": lambda: [
        *conv_norm_act(3, 8, 3, 2, act=lambda inplace: nn.Hardtanh(0.0, 6.0, inplace)),
        InvertedResidual(8, lambda inplace: nn.Hardtanh(0.0, 6.0, inplace)),
        *head(8),
    ],
    "densenet": lambda: [
        *conv_norm_act(3, 8), DenseLayer(8, 4), DenseLayer(12, 4), nn.BatchNorm2d(16), *head(16)
    ],
    "pre-activation": lambda: [
        conv(3, 8, bias=True), PreActivation(8), nn.BatchNorm2d(8), nn.ReLU(True)
    ],
    "vgg-bn": lambda: [
        *conv_norm_act(3, 8), nn.MaxPool2d(2), *conv_norm_act(8, 8), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 5),
    ],
    "norm-after-linear": lambda: [
        conv(3, 8, 3, 2, bias=True), nn.ReLU(True), nn.Flatten(),
        nn.Linear(512, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(True), nn.Linear(12, 5),
    ],
    "norm-of-features": lambda: [
        conv(3, 8, 3, 2, bias=True), nn.ReLU(True), nn.Flatten(),
        nn.BatchNorm1d(512), nn.Linear(512, 5)
    ],
    "norm-first": lambda: [nn.BatchNorm2d(3), *conv_norm_act(3, 8)],
    "norm-of-a-pool": lambda: [
        *conv_norm_act(3, 8), nn.AvgPool2d(2), nn.BatchNorm2d(8, affine=False), nn.ReLU(True)
    ],
    "two-norms": lambda: [conv(3, 8), nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False)],
    "no-scale": lambda: [conv(3, 8), nn.BatchNorm2d(8, affine=False)],
    "shared": lambda: [shared()],
    "writes-its-input": lambda: [WritesItsInput()],
    "view": lambda: [View()],
}  # fmt: skip
# Norms that no layer takes, as elements of their outputs: what they cost besides the layers.
STAYING = {
    "densenet": (8 + 12 + 16) * 256,
    "pre-activation": 8 * 256 + 8 * 256,
    "norm-of-features": 512,
    "norm-first": 3 * 256,
    "norm-of-a-pool": 8 * 64,
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network in eval mode, its norms with statistics and parameters, and a batch."""
    torch.manual_seed(0)
    module, x = nn.Sequential(*MAKERS[name]()), torch.rand(16, *SHAPE[1:])
    for _ in range(3):
        module(x.clone())
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.affine:
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
    return module.eval(), x


@functools.cache
def lowered(name: str) -> tuple[nn.Module, Tensor, Graph]:
    module, x = make(name)
    return module, x, lower(module, SHAPE)


def integer(name: str, activations: Any) -> tuple[Tensor, Tensor, Graph]:
    """Return inputs, the module's outputs, channels last, and the integer graph."""
    module, x, graph = lowered(name)
    graph = for_int16(graph) if activations == "int16" else graph
    ranges = observed(lambda shape: graph, [x], Options())
    with torch.no_grad():
        return x, channels_last(module(x.clone())), quantize_graph(graph, ranges, activations)


def counted(module: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(SHAPE))
    return int(counter.get_total_flops()) // 2


def snr_db(given: Tensor, wanted: Tensor) -> float:
    return float(10 * torch.log10(wanted.var() / (given - wanted).square().mean()))


@pytest.mark.parametrize("name", MAKERS)
def test_macs_are_those_of_torch_and_of_the_norms_that_stay(name: str) -> None:
    module, _, graph = lowered(name)
    assert graph.macs == counted(module) + STAYING.get(name, 0)
    assert (len(graph.inputs), len(graph.outputs)) == (1, 1)


@pytest.mark.parametrize("name", ["resnet", "densenet", "shared"])
def test_norms_and_operators_in_place_are_estimated(name: str) -> None:
    module, _, graph = lowered(name)
    cost = zoo.estimate(module, "ethos-u55-128", method="roofline", input_shape=SHAPE)
    assert (cost.macs, cost.parameters) == (graph.macs, graph.parameters)
    assert sum(op.latency_ms > 0 for op in cost.ops) >= sum(op.macs > 0 for op in graph.ops)
    assert sum(op.macs for op in cost.ops) == graph.macs


@pytest.mark.parametrize("name", MAKERS)
def test_float_files_compute_the_module(name: str, judges: Judges) -> None:
    module, x, graph = lowered(name)
    with torch.no_grad():
        wanted = channels_last(module(x.clone())).numpy()
    for judge in judges.values():
        np.testing.assert_allclose(
            judge(serialize_tflite(graph))(channels_last(x)), wanted, atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize("name", MAKERS)
def test_integer_files_are_close_to_the_module(name: str, activations: Any, judges: Judges) -> None:
    x, wanted, graph = integer(name, activations)
    q = quantized(graph, channels_last(x))
    integers = IntegerNetwork(graph)(q)
    assert isinstance(integers, Tensor)
    assert snr_db(dequantized(graph, integers), wanted) > LEAST_DB[activations]
    for judge in judges.values():
        np.testing.assert_array_equal(judge(serialize_tflite(graph))(q[:4]), integers[:4].numpy())


@pytest.mark.parametrize("name", MAKERS)
def test_integer_onnx_files_are_close_to_the_module(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    x, wanted, graph = integer(name, "int8")
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    content = qdq_model(graph).SerializeToString()
    session = runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    given = torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])
    assert snr_db(channels_last(given), wanted) > LEAST_DB["int8"]


@pytest.mark.parametrize("name", ["pre-activation", "writes-its-input"])
def test_onnx_files_compute_the_module(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    module, _, _ = lowered(name)
    assert export_onnx(module, tmp_path / "a.onnx", SHAPE, dynamic=False).max_abs_error < 1e-5


def test_the_comparison_survives_a_module_that_writes_its_input(tmp_path: Path) -> None:
    module, x = make("writes-its-input")
    before = x.clone()
    written = export_tflite(module, tmp_path / "a.tflite", SHAPE, [x], int8=False)
    assert written.max_abs_error < 1e-5
    assert torch.equal(x, before)


class Chain(nn.Module):
    """Every operator that has a form in place, pure or in place, behind a norm."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.inplace = conv(3, 4), nn.BatchNorm2d(4), inplace

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        for function in (F.relu, F.relu6, F.leaky_relu, F.hardswish, F.silu, F.hardtanh):
            x = function(x, inplace=self.inplace)
        x = F.dropout(x, 0.5, self.training, self.inplace)
        x = torch.dropout_(x, 0.5, False) if self.inplace else torch.dropout(x, 0.5, False)
        for name in ("add", "sub", "mul", "div"):
            x = getattr(x, f"{name}_" if self.inplace else name)(2.0)
        for name in ("sigmoid", "tanh"):
            x = getattr(x, f"{name}_" if self.inplace else name)()
        return x.clamp_(0, 1) if self.inplace else x.clamp(0, 1)


def test_operators_in_place_are_their_pure_forms() -> None:
    pure, written = (trace(Chain(inplace).eval(), SHAPE) for inplace in (False, True))
    facts = [[(op.kind, op.attributes) for op in graph.ops] for graph in (pure, written)]
    assert facts[0] == facts[1]
    assert len(facts[0]) == 15  # SiLU is two


def test_each_use_of_a_shared_layer_has_its_own_kernel() -> None:
    module, _ = make("shared")
    graph = trace(module, SHAPE, values=True)
    first, second = (op for op in graph.ops if op.kind == "conv2d")
    assert first.inputs[1] != second.inputs[1]
    assert not np.array_equal(graph.values[first.inputs[1]], graph.values[second.inputs[1]])
    assert graph.parameters == {"weights": 162, "biases": 6, "slopes": 0, "constants": 0}


def test_the_same_norm_after_the_same_layer_is_stored_once() -> None:
    part = nn.Sequential(conv(3, 3), nn.BatchNorm2d(3), nn.ReLU(True))
    graph = trace(nn.Sequential(part, part).eval(), SHAPE)
    assert graph.parameters == {"weights": 81, "biases": 3, "slopes": 0, "constants": 0}


def test_a_norm_of_rows_is_not_folded_into_a_layer_of_their_features() -> None:
    """A linear layer of (N, T, F) has F channels, its norm T: equal sizes must not mislead."""

    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
            nn.init.uniform_(self.norm.weight, 0.5, 1.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x))  # type: ignore[no-any-return]

    module, x = Rows().eval(), torch.rand(4, 6, 6)
    with torch.no_grad():
        given = FloatNetwork(lower(module, (1, 6, 6)))(x)
        torch.testing.assert_close(given, module(x), atol=1e-5, rtol=1e-5)


class Volumes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm3d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)  # type: ignore[no-any-return]


class BatchStatistics(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Volumes(), (1, 2, 4, 4, 4), "batch_norm at norm .* normalises 5 dimensions"),
        (BatchStatistics(), SHAPE, "aten.batch_norm without running statistics"),
        (nn.BatchNorm2d(3, track_running_stats=False), SHAPE, "without running statistics"),
    ],
    ids=["volumes", "batch-statistics", "no-statistics"],
)
def test_norms_without_a_form_are_named(
    module: nn.Module, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(MismatchError, match=message):
        trace(module.eval(), shape)
