"""Modules that exporters trip over: each is exported, or refused in one line that is true."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.deploy.onnx import export_onnx
from zoo.deploy.onnx_qdq import export_qdq
from zoo.deploy.tflite import export_tflite
from zoo.errors import MismatchError
from zoo.graph.lower import lower

SHAPE = (1, 2, 8, 8)


class Then(nn.Module):
    """A convolution, and what a function makes of it."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(2, 4, 3), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.conv(x))


def inputs() -> Tensor:
    return torch.randn(6, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


def write(kind: str, module: nn.Module, path: Path, x: Tensor) -> Any:
    if kind == "qdq":
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
        return export_qdq(module, path, SHAPE, [x])
    return export_tflite(module, path, SHAPE, [x], int8=kind == "int8")


def test_a_network_whose_last_layer_has_the_pictures_size(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).eval()
    file = export_onnx(module, tmp_path / "a.onnx", SHAPE)
    assert file.snr_db > 100
    shape = runtime.InferenceSession(str(file.path)).get_inputs()[0].shape
    assert shape == ["batch", 2, 8, 8]


def test_a_network_that_checks_its_size(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")

    class Fixed(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2:] != (8, 8):
                raise ValueError("8 x 8 only")
            return super().forward(x)

    assert export_onnx(Fixed(2, 3, 3).eval(), tmp_path / "a.onnx", SHAPE).snr_db > 100


def test_a_form_that_the_exporter_fixes_to_its_size(tmp_path: Path) -> None:
    """Pooling to 3 x 3 is written for one size, and fails in ONNX Runtime at another."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    module = nn.Sequential(nn.Conv2d(2, 3, 2), nn.AdaptiveAvgPool2d(3)).eval()
    assert export_onnx(module, tmp_path / "a.onnx", SHAPE).snr_db > 100


def test_onnx_refuses_with_the_cause(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    module = Then(lambda y: y if y.mean() > 0 else -y).eval()
    with pytest.raises(MismatchError, match=r"to ONNX: .*data-dependent.*; replace that") as caught:
        export_onnx(module, tmp_path / "a.onnx", SHAPE)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kind", ["int8", "float32", "qdq"])
def test_no_output(kind: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="Then returns no tensor: a file needs an output"):
        write(kind, Then(lambda y: None).eval(), tmp_path / "a", inputs())


REFUSED = {
    "the mean of all": (lambda y: y.mean(), "aten.mean.default at"),
    "a dilated pool": (lambda y: F.max_pool2d(y, 2, 1, 0, 2), "max_pool2d.default with dilation"),
    "random zeros": (lambda y: F.dropout(y, 0.5, True), "aten.dropout at"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_named(name: str) -> None:
    function, message = REFUSED[name]
    module = Then(function).eval()
    with pytest.raises(MismatchError, match=f"{message}.* has no mapping"):
        lower(module, SHAPE)
    with pytest.raises(MismatchError, match=f"{message}.* has no mapping"):
        zoo.estimate(module, "ethos-u55-128", input_shape=SHAPE)


def test_dropout_in_evaluation_does_nothing(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout2d(0.5)).eval()
    assert write("float32", module, tmp_path / "a", inputs()).snr_db > 100


@pytest.mark.parametrize("kind", ["int8", "float32", "qdq"])
def test_inputs_are_computed_in_float32(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(2, 4, 3).eval()
    found = [
        write(kind, module, tmp_path / "a", x).snr_db
        for x in (inputs(), inputs().double(), inputs().requires_grad_())
    ]
    assert found[0] == found[1] == found[2] > 30


BAD = {
    "uint8": (torch.zeros(2, 2, 8, 8, dtype=torch.uint8), "is torch.uint8 .*; expected floats"),
    "empty": (torch.zeros(0, 2, 8, 8), "is empty or not finite"),
    "flat": (torch.randn(2, 8, 8), "has the shape"),
    "channels": (torch.randn(2, 3, 8, 8), "has the shape"),
}


@pytest.mark.parametrize("kind", ["int8", "float32", "qdq"])
@pytest.mark.parametrize("name", BAD)
def test_wrong_inputs_are_named(kind: str, name: str, tmp_path: Path) -> None:
    x, message = BAD[name]
    with pytest.raises(MismatchError, match=f"calibration batch 0 {message}"):
        write(kind, nn.Conv2d(2, 4, 3).eval(), tmp_path / "a", x)
    assert not (tmp_path / "a").exists()
