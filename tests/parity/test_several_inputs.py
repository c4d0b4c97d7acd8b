"""Modules with several inputs, in order or by name: every format and every estimate takes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from tests.runtimes import TFLITE
from zoo.deploy.fidelity import reference
from zoo.errors import MismatchError
from zoo.graph.lower import lower
from zoo.runtime.values import channels_last, computed

ORDER = ((1, 3, 8, 6), (1, 5))
NAMES = {"image": ORDER[0], "state": ORDER[1]}
TURNED = dict(reversed(NAMES.items()))


class Stateful(nn.Module):
    """A picture and a vector; returns a picture and a vector, by name."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.state = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(5, 4)

    def forward(self, image: Tensor, state: Tensor) -> dict[str, Tensor]:
        kept = self.state(state)
        return {"seen": self.conv(image) * kept[:, :, None, None], "kept": kept}


def batch(given: Any, size: int = 8) -> Any:
    torch.manual_seed(1)
    both = {name: torch.randn(size, *shape[1:]) for name, shape in NAMES.items()}
    return {name: both[name] for name in given} if isinstance(given, dict) else (*both.values(),)


@pytest.mark.parametrize("given", [ORDER, NAMES, TURNED], ids=["order", "names", "turned"])
@pytest.mark.parametrize(
    ("format", "options"),
    [("onnx", {}), ("onnx", {"int8": True}), ("tflite", {}), ("tflite", {"int8": True}),
     ("tflite", {"int16": True})],
)  # fmt: skip
def test_files_of_modules_with_several_inputs(
    given: Any, format: str, options: dict[str, bool], tmp_path: Path
) -> None:
    module, path = Stateful().eval(), tmp_path / f"a.{format}"
    data = [batch(given)] if options else None
    found = zoo.export(module, path, format=format, input_shape=given, data=data, **options)
    assert found.snr_db > (25 if options else 100)
    if format == "tflite" and not options:
        call = TFLITE["litert-reference"](path.read_bytes())
        x = batch(given)
        each = tuple(x.values()) if isinstance(x, dict) else x
        for y, right in zip(call(*map(channels_last, each)), reference(module, x), strict=True):
            np.testing.assert_allclose(y, channels_last(right).numpy(), rtol=1e-4, atol=1e-5)


def test_costs_and_graphs_of_several_inputs() -> None:
    module = Stateful().eval()
    for given in (ORDER, NAMES, TURNED):
        for method in ("roofline", "vela"):
            cost = zoo.estimate(module, "ethos-u55-128", method=method, input_shape=given)
            if method == "roofline":
                assert cost.macs == 8 * 6 * 4 * 27 + 5 * 4
            assert cost.latency_ms > 0
        graph = lower(module, given)
        for y, right in zip(computed(graph, batch(given)), reference(module, batch(given)),
                            strict=True):  # fmt: skip
            torch.testing.assert_close(y, channels_last(right))


PICTURE, STATE = torch.randn(2, 3, 8, 6), torch.randn(2, 5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([PICTURE], "has the inputs of one tensor; the network takes 0, 1"),
        ([(PICTURE,)], "has the inputs 0; the network takes 0, 1"),
        ([{"image": PICTURE, "state": STATE}], "has the inputs image, state; the network takes"),
        ([(PICTURE, torch.randn(3, 5))], "has inputs of different batch sizes"),
        ([(PICTURE, torch.randn(2, 6))], r"inputs of the shapes 0 \(1, 3, 8, 6\), 1 \(1, 6\)"),
        ([(PICTURE, None)], r"batch 0 \(1\) is .*NoneType.*; expected floats"),
    ],
)
def test_batches_that_do_not_fit_are_named(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=message):
        zoo.export(
            Stateful().eval(), tmp_path / "a", format="tflite", int8=True, data=data,
            input_shape=ORDER,
        )  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (ORDER[:1], "missing a required argument: 'state'"),
        ({"image": ORDER[0], "stat": ORDER[1]}, "inputs of the shapes image"),
        (((1, 3, 8, 6), (0, 5)), r"input shape \(0, 5\) of input '1' is not fixed"),
        ({}, "is not fixed"),
    ],
)
def test_shapes_that_do_not_fit_are_named(shape: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match=message):
        zoo.export(Stateful().eval(), tmp_path / "a", format="tflite", input_shape=shape)


def test_a_checkpoint_takes_one_shape(tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="a checkpoint's network has one input"):
        zoo.export("sesr-m5-x2", tmp_path / "a.onnx", input_shape=((1, 1, 8, 8), (1, 5)))


def test_the_state_of_a_recurrent_layer_is_an_input(tmp_path: Path) -> None:
    """(layers, 1, width): not a batch of samples."""
    torch.manual_seed(0)
    layer = nn.GRU(5, 6, 2, batch_first=True).eval()
    shapes = ((1, 7, 5), (2, 1, 6))
    data = [(torch.randn(1, 7, 5), torch.randn(2, 1, 6)) for _ in range(8)]
    for format in ("tflite", "onnx"):
        for int8 in (False, True):
            path = tmp_path / f"{int8}.{format}"
            file = zoo.export(
                layer, path, format=format, int8=int8, input_shape=shapes,
                data=data if int8 else None,
            )  # fmt: skip
            assert file.snr_db > (20 if int8 else 100)
