"""Small random networks in every format, on every runtime: each computes what the module does."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.runtimes import TFLITE
from zoo.deploy.fidelity import MINIMUM_DB, snr_db
from zoo.deploy.onnx import export_onnx
from zoo.deploy.onnx_qdq import export_qdq
from zoo.deploy.tflite import export_tflite, load_tflite
from zoo.deploy.tflite_read import read_tflite
from zoo.errors import MismatchError
from zoo.quantization.int8.calibration import Options
from zoo.runtime.values import channels_first, channels_last, dequantized, quantized

CHANNELS = st.sampled_from([1, 2, 3, 5, 8])


@dataclasses.dataclass(frozen=True)
class Step:
    """One part of a network: what it is and what it is made with."""

    kind: str
    numbers: tuple[Any, ...] = ()


def convolutions() -> st.SearchStrategy[Step]:
    """Return what draws (channels, kernel, stride, padded, bias, norm, activation)."""
    numbers = (
        st.sampled_from([1, 2, 3]),
        st.sampled_from([1, 1, 2, 3]),
        *[st.booleans()] * 3,
        st.sampled_from(["", "relu", "relu6", "prelu", "clamp"]),
    )
    return st.builds(lambda *drawn: Step("conv", drawn), CHANNELS, *numbers)


STEPS = st.one_of(
    convolutions(),
    convolutions(),
    st.builds(lambda bias, norms: Step("shared", (bias, norms)), st.booleans(), st.booleans()),
    st.builds(lambda bias: Step("depthwise", (bias,)), st.booleans()),
    st.builds(
        lambda mode, factor: Step("enlarge", (mode, factor)),
        st.sampled_from(["nearest", "bilinear", "corners"]),
        st.sampled_from([2, 1.5, 1.7, (2, 3)]),
    ),
    st.sampled_from([Step("max"), Step("average"), Step("residual"), Step("twice")]),
)
HEADS = st.sampled_from(["", "mean", "flat", "two"])


class Drawn(nn.Module):
    """The network of some steps; sizes follow from what reaches each."""

    def __init__(self, channels: int, steps: list[Step], head: str, bias: bool) -> None:
        super().__init__()
        self.steps, self.head, self.channels = steps, head, channels
        self.parts = nn.ModuleList(self.part(step) for step in steps)
        self.last = nn.LazyLinear(3, bias=bias) if head in ("mean", "flat") else nn.Identity()

    def part(self, step: Step) -> nn.Module:
        before = self.channels
        if step.kind == "conv":
            self.channels, kernel, stride, pad, bias, norm, activation = step.numbers
            layers: list[nn.Module] = [
                nn.Conv2d(before, self.channels, kernel, stride, kernel // 2 * pad, bias=bias)
            ]
            layers += [nn.BatchNorm2d(self.channels)] * norm
            kinds = {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "prelu": nn.PReLU(self.channels)}
            kinds["clamp"] = nn.Hardtanh(-0.75, 0.5)
            return nn.Sequential(*layers, *([kinds[activation]] if activation else []))
        if step.kind == "shared":
            bias, norms = step.numbers
            conv = nn.Conv2d(before, before, 3, padding=1, bias=bias)
            between = [nn.BatchNorm2d(before) for _ in range(2)] if norms else [nn.ReLU()] * 2
            return nn.Sequential(conv, between[0], nn.ReLU(), conv, between[1])
        if step.kind == "depthwise":
            return nn.Conv2d(before, before, 3, padding=1, groups=before, bias=step.numbers[0])
        if step.kind == "twice":
            self.channels *= 2
        return nn.Identity()

    def forward(self, x: Tensor) -> Any:
        for step, part in zip(self.steps, self.parts, strict=True):
            x = self.step(step, part, x)
        if self.head == "two":
            return x, x.mean((2, 3))
        if self.head in ("mean", "flat"):
            return self.last(x.mean((2, 3)) if self.head == "mean" else x.flatten(1))
        return x

    def step(self, step: Step, part: nn.Module, x: Tensor) -> Tensor:
        if step.kind == "max":
            return F.max_pool2d(x, 2, 2, ceil_mode=False) if min(x.shape[2:]) > 1 else x
        if step.kind == "average":
            return F.avg_pool2d(x, 3, 1, 1)
        if step.kind == "residual":
            return x + F.relu(x)
        if step.kind == "twice":
            return torch.cat([x, x * 0.5], 1)
        if step.kind == "enlarge":
            mode, factor = step.numbers
            corners = {"nearest": None, "bilinear": False, "corners": True}[mode]
            mode = "nearest" if mode == "nearest" else "bilinear"
            return F.interpolate(x, scale_factor=factor, mode=mode, align_corners=corners)
        return part(x)


@st.composite
def networks(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    """Draw a network in eval mode, and a batch of inputs."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    channels = draw(CHANNELS)
    height, width = draw(st.tuples(st.integers(4, 9), st.integers(4, 9)))
    steps = draw(st.lists(STEPS, min_size=1, max_size=4))
    module = Drawn(channels, steps, draw(HEADS), draw(st.booleans()))
    x = torch.randn(6, channels, height, width)
    try:
        for _ in range(3):
            module(x)  # statistics for the batch norms, the size of the last layer
    except (RuntimeError, ValueError):  # a picture became too small
        module = Drawn(channels, [Step("conv", (4, 3, 1, True, False, True, "relu"))], "mean", True)
        module(x)
    return module.eval(), x


def many(count: int) -> Callable[[Any], Any]:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    # Networks are small as drawn; to shrink them would take minutes.
    phases = [Phase.explicit, Phase.generate]
    return settings(max_examples=count, suppress_health_check=health, phases=phases)


def compared(module: nn.Module, x: Tensor, given: list[Tensor], kind: str, steps: Any) -> None:
    """Assert what a file promises: an SNR, or the last rounding alone."""
    with torch.no_grad():
        wanted = module(x)
    for y, right, step in zip(
        given, wanted if isinstance(wanted, tuple) else (wanted,), steps, strict=True
    ):
        error = y - right
        assert snr_db(right, error) >= MINIMUM_DB[kind] or error.square().mean() <= step**2, kind


def exported(write: Callable[[], Any]) -> bool:
    """Whether a network was written; the only refusal is that of a scale factor."""
    try:
        write()
    except MismatchError as error:
        if "devices sample by the ratio" not in str(error) and "whole multiple" not in str(error):
            raise
        return False
    return True


def check_tflite(module: nn.Module, x: Tensor, path: Path, kind: str) -> None:
    options = Options(activations="int16" if kind == "int16" else "int8")
    if not exported(
        lambda: export_tflite(
            module, path, (1, *x.shape[1:]), [x], int8=kind != "float32", options=options
        )
    ):
        return
    graph, content = read_tflite(path), path.read_bytes()
    q = quantized(graph, channels_last(x))
    resized = any(op.kind == "resize_bilinear" for op in graph.ops)
    results = {}
    for name, runtime in TFLITE.items():
        if (kind, name, resized) == ("int16", "tflite-micro", True):
            continue  # it has no such kernel
        results[name] = runtime(content)(q)
        given = [dequantized(graph, torch.from_numpy(y), n) for n, y in enumerate(results[name])]
        given = [channels_first(y) for y in given]
        meanings = [graph.tensors[name].quantization for name in graph.outputs]
        steps = [
            m.scale if m else 1e-6 * float(y.abs().max())
            for m, y in zip(meanings, given, strict=True)
        ]
        compared(module, x, given, kind, steps)
    if kind == "float32" or "tflite-micro" not in results:
        return
    ours = load_tflite(path)(q)
    # LiteRT rounds a fully connected layer's factor otherwise than TFLite Micro.
    apart = int(any(op.kind == "fully_connected" for op in graph.ops))
    for place, y in enumerate(ours if isinstance(ours, tuple) else (ours,)):
        wanted = y.numpy().astype(np.int64)
        np.testing.assert_array_equal(results["tflite-micro"][place], wanted)
        theirs = results["litert-reference"][place]
        np.testing.assert_allclose(theirs, wanted, rtol=0, atol=apart)


def check_qdq(module: nn.Module, x: Tensor, path: Path) -> None:
    exported(lambda: export_qdq(module, path, (1, *x.shape[1:]), [x]))


def check_onnx(module: nn.Module, x: Tensor, path: Path) -> None:
    export_onnx(module, path, tuple(x.shape), dynamic=False)


def check(network: tuple[nn.Module, Tensor], folder: Path) -> None:
    module, x = network
    for kind in MINIMUM_DB:
        check_tflite(module, x, folder / "a.tflite", kind)
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    check_qdq(module, x, folder / "q.onnx")


@many(20)
@given(networks())
def test_every_file_computes_the_module(tmp_path: Path, network: tuple[nn.Module, Tensor]) -> None:
    check(network, tmp_path)


@pytest.mark.slow
@many(300)
@given(networks())
def test_many_files_compute_the_module(tmp_path: Path, network: tuple[nn.Module, Tensor]) -> None:
    check(network, tmp_path)


@many(3)
@given(networks())
def test_onnx_files_compute_the_module(tmp_path: Path, network: tuple[nn.Module, Tensor]) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    check_onnx(*network, tmp_path / "a.onnx")


@pytest.mark.slow
@many(40)
@given(networks())
def test_many_onnx_files_compute_the_module(
    tmp_path: Path, network: tuple[nn.Module, Tensor]
) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    check_onnx(*network, tmp_path / "a.onnx")
