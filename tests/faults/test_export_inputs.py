"""What cannot be exported: each error names the module's path and says what to do."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.ir import Graph, Op
from zoo.graph.ir import Tensor as Value
from zoo.graph.lower import lower
from zoo.quantization.int8.post_training import quantize
from zoo.runtime.integer import IntegerNetwork


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Looping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.max())):
            x = x + 1
        return x


class Selecting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Condition(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y + 1, (x,))
        assert isinstance(chosen, Tensor)
        return chosen


class Contracting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nccw->nw", x[..., :4, :])


def around(part: nn.Module) -> nn.Module:
    """Return a network whose part at the path "1.1" is this."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.ReLU(), part), nn.ReLU()
    ).eval()


FLOW = "control flow and sizes that depend on values have no form on a device: compute all branches"


@pytest.mark.parametrize(
    ("part", "where", "advice"),
    [
        (Branching(), "in '1.1'", FLOW),
        (Looping(), "in '1.1'", "or fix the number of rounds"),
        (Selecting(), "aten.gt at 1.1", "multiply by a clamp of scores"),
        (Condition(), "aten.gt at 1.1", "multiply by a clamp of scores"),
        (
            Contracting(),
            "no product of two lists of matrices, at 1.1",
            "or add it to zoo/graph/operators",
        ),
        (nn.Mish(), "aten.mish at 1.1", "use nn.Hardswish or nn.SiLU, or add it to"),
        (nn.ConvTranspose2d(4, 4, 2, dilation=2), "with dilation [2, 2] at 1.1", "replace it with"),
        (nn.CELU(0.5), "aten.celu with alpha 0.5", "replace it with operators that devices have"),
        (
            nn.InstanceNorm2d(4, track_running_stats=True),
            "instance_norm with running statistics at 1.1",
            "replace it with operators that devices have",
        ),
        (nn.Conv2d(5, 5, 1), "in '1.1'", "to have 5 channels, but got 4"),
        (nn.LSTM(8, 8), "in '1.1'", "LSTM: Expected input to be 2D or 3D"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_parts_without_a_form_are_named(
    part: nn.Module, where: str, advice: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MismatchError) as caught:
        lower(around(part), (1, 1, 8, 8))
    message = str(caught.value)
    assert where in message
    assert advice in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")  # torch.export's own reports stay out of the way


def test_looking_for_the_part_leaves_no_hooks() -> None:
    for module in (around(Branching()), around(nn.ReLU())):
        with contextlib.suppress(MismatchError):
            lower(module, (1, 1, 8, 8))
        for part in module.modules():
            assert not part._forward_pre_hooks
            assert not part._forward_hooks


@pytest.mark.parametrize("shape", [(1, 1, -1, 8), (1, 1, 0, 8), (), (None, 1, 8, 8)])
def test_dynamic_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MismatchError, match="is not fixed; a deployed graph has one size"):
        lower(around(nn.ReLU()), shape)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no calibration inputs; give at least one batch"),
        (
            [torch.rand(4, 3, 8, 8)],
            r"batch 0 has the shape \(4, 3, 8, 8\); .* \(N, 1, H, W\): give",
        ),
        ([torch.rand(4, 1, 8, 8), torch.rand(2, 8, 8)], r"batch 1 has the shape \(2, 8, 8\)"),
        ([torch.rand(4, 8)], r"batch 0 has the shape \(4, 8\)"),
        ([torch.zeros(4, 1, 8, 8)], r"batch 0 is constant \(0\).*; give real inputs"),
        ([torch.full((4, 1, 8, 8), 0.5)], r"batch 0 is constant \(0.5\)"),
        ([torch.full((4, 1, 8, 8), torch.inf)], "batch 0 is empty or not finite"),
        ([torch.empty(0, 1, 8, 8)], "batch 0 is empty or not finite"),
        ([torch.ones(4, 1, 8, 8, dtype=torch.uint8)], "is torch.uint8 .*; expected floats"),
        (["picture.png"], "is <class 'str'>; expected floats"),
        ([torch.rand(4, 1, 8, 8) * 1e-30], "conv2d at 0: .* too large .*; calibrate with real"),
    ],
)
def test_calibration_that_teaches_nothing_is_refused(batches: list[Tensor], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        quantize(around(nn.ReLU()), batches, (1, 1, 8, 8))


@pytest.mark.parametrize("bias", [-100.0, 0.0])
def test_a_dead_layer_is_no_error(bias: float) -> None:
    """All its outputs are 0 on the calibration inputs, so that they have no range."""
    module = around(nn.Conv2d(4, 4, 1))
    nn.init.constant_(module[0].bias, bias)  # type: ignore[index]
    nn.init.zeros_(module[0].weight)  # type: ignore[index]
    x = torch.rand(4, 1, 8, 8)
    graph = quantize(module, [x], (1, 1, 8, 8))
    given = IntegerNetwork(graph)(torch.zeros(1, 8, 8, 1, dtype=torch.int8))
    meaning = graph.tensors[graph.outputs[0]].quantization
    assert meaning
    real = (given.float() - meaning.zero_point) * meaning.scale
    with torch.no_grad():
        torch.testing.assert_close(real.permute(0, 3, 1, 2), module(x[:1]), atol=0.01, rtol=0.01)


@pytest.mark.parametrize("make", [lower, lambda m, s: quantize(m, [torch.rand(2, 1, 8, 8)], s)])
def test_a_tensor_beyond_two_gigabytes_is_named(
    make: Callable[[nn.Module, tuple[int, ...]], Graph],
) -> None:
    graph = make(around(nn.ReLU()), (1, 1, 24_000, 24_000))
    with pytest.raises(MismatchError, match=r"conv2d at 0 has a tensor of \d+ bytes") as caught:
        serialize_tflite(graph)
    assert "export for a smaller input and run the device on tiles" in str(caught.value)


def test_weights_beyond_two_gigabytes_are_named() -> None:
    rows, columns = 2**16, 2**15
    shapes = {"x": (1, columns), "w": (rows, columns), "y": (1, rows)}
    kinds = {"x": "input", "w": "weight", "y": "output"}
    tensors = {
        name: Value(name=name, shape=shape, dtype="float32", kind=kinds[name])  # type: ignore[arg-type]
        for name, shape in shapes.items()
    }
    op = Op(
        name="y",
        kind="fully_connected",
        inputs=("x", "w"),
        outputs=("y",),
        attributes={},
        macs=rows * columns,
        module="head",
    )
    values = {"w": np.broadcast_to(np.float32(0), (rows, columns))}  # takes no memory
    graph = Graph(
        ops=(op,),
        tensors=tensors,
        inputs=("x",),
        outputs=("y",),
        layout="channels_last",
        values=values,
    )
    with pytest.raises(MismatchError, match="fully_connected at head has a tensor of 8589934592"):
        serialize_tflite(graph)
