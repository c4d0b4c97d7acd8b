"""Small networks of the shapes that recipes have, in float, int8 and int16: both runtimes agree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.export.calibration import Options
from zoo.export.integer import IntegerNetwork
from zoo.export.lower import lower
from zoo.export.quantize import quantize
from zoo.export.real import channels_last, quantized
from zoo.export.rewrite import on_npu, without_clamps
from zoo.export.tflite_write import serialize_tflite

Judges = dict[str, Any]  # see conftest.py


class ColourShuffle(nn.Module):
    """Super resolution with a colour output: several channels per cell of the pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8)
        self.last = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.last(self.act(self.first(x))), 2).clamp(0, 1)


class AddedShuffle(ColourShuffle):
    """The same with a shortcut between the convolution and the shuffle."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.act(self.first(x)))
        return F.pixel_shuffle(y + torch.cat([x, x, x, x], 1), 2)


class Joined(nn.Module):
    """Depthwise with stride, a residual concatenation, a global mean, a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8)
        self.side, self.head = nn.Conv2d(8, 8, 1, stride=2), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.first(x))
        x = torch.cat([F.relu(self.depthwise(x)), self.side(x)], 1)
        return torch.softmax(self.head(x.mean((2, 3))), 1)


class Enlarging(nn.Module):
    """A decoder: by nearest pixels and bilinearly, with a product of two branches."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode, self.first, self.last = mode, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        corners = None if self.mode == "nearest" else False
        x = torch.relu(self.first(x))
        x = F.interpolate(x, scale_factor=2, mode=self.mode, align_corners=corners)
        return self.last(x * F.avg_pool2d(x, 3, 1, 1, count_include_pad=False))


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "colour-shuffle": ColourShuffle,
    "added-shuffle": AddedShuffle,
    "joined": Joined,
    "nearest": lambda: Enlarging("nearest"),
    "bilinear": lambda: Enlarging("bilinear"),
}
SHAPE = (1, 3, 16, 12)


def make(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return MAKERS[name]().eval(), torch.rand(8, *SHAPE[1:])


@pytest.mark.parametrize("activations", ["int8", "int16"])
@pytest.mark.parametrize("name", MAKERS)
def test_runtimes_compute_our_integers(name: str, activations: Any, judges: Judges) -> None:
    module, x = make(name)
    graph = quantize(module, [x], SHAPE, Options(activations=activations))
    content, q = serialize_tflite(graph), quantized(graph, channels_last(x))
    wanted = IntegerNetwork(graph)(q)
    for judge in judges:
        if (name, activations, judge) == ("bilinear", "int16", "tflite-micro"):
            continue  # it has no such kernel
        given = judges[judge](content)(q).astype(np.int64)
        near = (name, activations, judge) == ("joined", "int16", "litert-reference")
        # LiteRT's int16 softmax has tables of its own, see zoo.export.lut.
        np.testing.assert_allclose(given, wanted.numpy().astype(np.int64), rtol=0, atol=int(near))


@pytest.mark.parametrize("name", MAKERS)
def test_float_files_compute_the_module(name: str, judges: Judges) -> None:
    module, x = make(name)
    content = serialize_tflite(without_clamps(lower(module, SHAPE)))
    with torch.no_grad():
        wanted = channels_last(module(x)).numpy()
    for judge in judges.values():
        np.testing.assert_allclose(judge(content)(channels_last(x)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["colour-shuffle", "added-shuffle"])
def test_a_colour_shuffle_stays_on_the_npu(name: str) -> None:
    pytest.importorskip("ethosu.regor", reason="needs the extra 'tflite'")
    from zoo.export.vela import compile_graph

    module, x = make(name)
    graph = quantize(module, [x], SHAPE)
    moved, q = on_npu(graph), quantized(graph, channels_last(x))[:1]
    assert torch.equal(IntegerNetwork(moved)(q), IntegerNetwork(graph)(q))
    assert [op.kind for op in compile_graph(graph, "ethos-u55-128").cpu_ops] == ["depth_to_space"]
    assert not compile_graph(moved, "ethos-u55-128").cpu_ops


def test_a_shuffle_after_a_convolution_costs_no_transposition() -> None:
    module, x = make("colour-shuffle")
    assert "transpose" not in {op.kind for op in quantize(module, [x], SHAPE).ops}
