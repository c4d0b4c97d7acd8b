"""The roofline of Ethos-U against Arm's compiler, operator by operator, and the weight code."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo import cost
from zoo.cost.deployed import integer
from zoo.cost.ethos_u import encoding
from zoo.cost.ethos_u.costs import priced
from zoo.cost.ethos_u.encoding import Coding, stream_bytes
from zoo.deploy.vela import compile_graph

pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")


class Written(nn.Module):
    """A network written as a function of its layers and its input."""

    def __init__(self, forward: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.written = nn.ModuleList(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self.layers, x)


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


SHAPE = (1, 16, 20, 24)
CASES: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (Written(lambda m, x: F.relu(m[0](x)), conv(16, 24)), SHAPE),
    "strided": (Written(lambda m, x: m[0](x), conv(16, 16, 3, 2)), SHAPE),
    "long stride": (Written(lambda m, x: m[0](x), nn.Conv2d(3, 24, 4, 4)), (1, 3, 32, 32)),
    "groups": (
        Written(lambda m, x: m[1](m[0](x)), conv(32, 32, 1), conv(32, 32, 3, 1, 8)),
        (1, 32, 16, 16),
    ),
    "groups, relu": (
        Written(lambda m, x: m[1](F.relu(m[0](x))), conv(32, 32, 3, 1, 4), conv(32, 40, 1)),
        (1, 32, 16, 16),
    ),
    "depthwise": (Written(lambda m, x: m[0](x), conv(32, 32, 5, 1, 32)), (1, 32, 16, 16)),
    "dilated": (Written(lambda m, x: m[0](x), nn.Conv2d(16, 16, 3, padding=2, dilation=2)), SHAPE),
    "transposed": (Written(lambda m, x: m[0](x), nn.ConvTranspose2d(16, 8, 4, 2, 1)), SHAPE),
    "fully connected": (Written(lambda m, x: m[0](x), nn.Linear(640, 128)), (1, 640)),
    "prelu, 16": (Written(lambda m, x: m[0](x), nn.PReLU(16)), SHAPE),
    "prelu, 32": (Written(lambda m, x: m[0](x), nn.PReLU(32)), (1, 32, 20, 24)),
    "gelu": (Written(lambda m, x: F.gelu(m[0](x)), conv(16, 16)), SHAPE),
    "silu": (Written(lambda m, x: F.silu(m[0](x)), conv(16, 16)), SHAPE),
    "add": (Written(lambda m, x: m[0](x) + m[1](x), conv(16, 16), conv(16, 16)), SHAPE),
    "concat": (
        Written(lambda m, x: torch.cat([m[0](x), m[1](x)], 1), conv(16, 16), conv(16, 24, 1)),
        SHAPE,
    ),
    "average": (Written(lambda m, x: F.adaptive_avg_pool2d(x, 1)), SHAPE),
    "nearest": (Written(lambda m, x: F.interpolate(x, scale_factor=2)), SHAPE),
    "bilinear": (
        Written(
            lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        ),
        SHAPE,
    ),
    "softmax": (Written(lambda m, x: F.softmax(x, -1)), (1, 40)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_operator_costs_what_the_compiler_says(name: str) -> None:
    torch.manual_seed(0)
    module, shape = CASES[name]
    graph = integer(module.eval(), shape)
    report = compile_graph(graph, "ethos-u55-128")
    given = cost.estimate(graph, cost.target("ethos-u55-128"), method="roofline")
    assert given.latency_ms == pytest.approx(report.latency_ms, rel=0.06)
    encoded = sum(op.encoded_bytes for op in given.ops)
    assert encoded == pytest.approx(report.encoded_bytes, rel=0.05, abs=48)


SMALL = (1, 8, 30, 28)
RARE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "maximum of a long stride": (nn.MaxPool2d(3, 4), SMALL),
    "average of a long stride": (nn.AvgPool2d(5, (1, 4)), SMALL),
    "transposed along a row": (nn.ConvTranspose2d(32, 32, (1, 4), (1, 2)), (1, 32, 1, 200)),
    "transposed along a column": (nn.ConvTranspose2d(8, 8, (4, 1), (2, 1)), (1, 8, 60, 1)),
    "prelu of one slope": (nn.Sequential(conv(8, 16), nn.PReLU()), SMALL),
    "depthwise, two outputs a channel": (nn.Conv2d(16, 32, 3, padding=1, groups=16), SHAPE),
    "depthwise, eight outputs a channel": (nn.Conv2d(8, 64, 3, 2, groups=8), SMALL),
}


@pytest.mark.parametrize("name", RARE)
def test_rare_forms_of_operators_are_near_the_compiler(name: str) -> None:
    torch.manual_seed(0)
    module, shape = RARE[name]
    graph = integer(module.eval(), shape)
    report = compile_graph(graph, "ethos-u55-128")
    given = cost.estimate(graph, cost.target("ethos-u55-128"), method="roofline")
    assert not report.cpu_ops
    assert not given.host
    assert given.latency_ms == pytest.approx(report.latency_ms, rel=0.15)


LEFT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "long stride, padded": (nn.Conv2d(8, 8, 8, 4, 2), (1, 8, 32, 32)),
    "long stride, dilated": (nn.Conv2d(8, 8, 3, 4, dilation=2), SMALL),
    "depthwise, long stride": (nn.Conv2d(8, 8, 5, (4, 1), groups=8), SMALL),
    "padded average": (nn.AvgPool2d(9, 1, 4, count_include_pad=False), SMALL),
    "high window": (nn.MaxPool2d((257, 1), 1), (1, 8, 300, 2)),
    "large window": (nn.MaxPool2d((256, 257)), (1, 1, 256, 514)),
    "transposed, of another stride": (nn.ConvTranspose2d(8, 8, 2, (2, 1)), SMALL),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_the_compiler_leaves_to_the_host_is_named(name: str) -> None:
    torch.manual_seed(0)
    module, shape = LEFT[name]
    graph = integer(nn.Sequential(module, nn.Sigmoid()).eval(), shape)
    report = compile_graph(graph, "ethos-u55-128")
    given = cost.estimate(graph, cost.target("ethos-u55-128"), method="roofline")
    assert len(given.host) == len(report.cpu_ops) == 1


NPUS = ["ethos-u55-32", "ethos-u55-64", "ethos-u55-256", "ethos-u65-256", "ethos-u85-128"]
NPUS += ["ethos-u85-256", "ethos-u85-512", "ethos-u85-1024", "ethos-u85-2048"]


@pytest.mark.parametrize("npu", NPUS)
def test_every_size_of_array_is_near_the_compiler(npu: str) -> None:
    torch.manual_seed(0)
    layers = [conv(3, 16, 3, 2), nn.ReLU(), conv(16, 16, 3, 1, 16), nn.ReLU(), conv(16, 40, 1)]
    module = nn.Sequential(
        *layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5)
    )
    graph = integer(module.eval(), (1, 3, 48, 48))
    given = cost.estimate(graph, cost.target(npu), method="roofline")
    assert given.latency_ms == pytest.approx(compile_graph(graph, npu).latency_ms, rel=0.1)


@pytest.mark.parametrize("kind", ["uniform", "normal", "few levels", "mostly zeros", "all zeros"])
def test_the_size_of_encoded_weights_is_the_encoders(kind: str) -> None:
    from ethosu import mlw_codec

    rng = np.random.default_rng(0)
    shape = (64, 3, 3, 32)
    weights = {
        "uniform": rng.integers(-127, 128, shape),
        "normal": np.clip(np.rint(rng.normal(0, 30, shape)), -127, 127),
        "few levels": rng.integers(-7, 8, shape) * 18,
        "mostly zeros": np.where(rng.random(shape) < 0.8, 0, rng.integers(-127, 128, shape)),
        "all zeros": np.zeros(shape),
    }[kind].astype(np.int16)
    encoded, _ = mlw_codec.reorder_encode(8, 8, weights, 128, False, False, 8, 8, 8)
    ours = stream_bytes(weights.reshape(64, 9, 32).astype(np.int64), Coding("conv", 8))
    assert ours == pytest.approx(len(encoded), rel=0.02, abs=16)


def test_long_streams_are_judged_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = np.random.default_rng(0)
    # Rows of growing spread, as channels of a trained layer have: no part stands for the whole.
    spread = np.linspace(2, 60, 1024)[:, None, None]
    weights = np.clip(np.rint(dice.normal(0, spread, (1024, 1, 1024))), -127, 127).astype(np.int64)
    coding = Coding("vector", 16)
    sampled = stream_bytes(weights, coding)
    monkeypatch.setattr(encoding, "SAMPLED", weights.size)
    assert sampled == pytest.approx(stream_bytes(weights, coding), rel=0.005)


def test_each_of_two_cores_reads_a_stream_of_its_own() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 9, 1)]
    graph = integer(nn.Sequential(*layers).eval(), (1, 8, 12, 12))
    found = {}
    for npu in ("ethos-u65-256", "ethos-u65-512"):
        found[npu] = sum(op.encoded_bytes for op in priced(graph, cost.target(npu)).ops)
        assert found[npu] == pytest.approx(compile_graph(graph, npu).encoded_bytes, rel=0.02)
    assert found["ethos-u65-512"] > 1.02 * found["ethos-u65-256"]
