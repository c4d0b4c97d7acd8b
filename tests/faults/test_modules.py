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
    with pytest.raises(
        MismatchError, match=r"to ONNX: control flow and sizes .*; replace that"
    ) as caught:
        export_onnx(module, tmp_path / "a.onnx", SHAPE)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kind", ["int8", "float32", "qdq"])
def test_no_output(kind: str, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="Then returns no tensor: a file needs an output"):
        write(kind, Then(lambda y: None).eval(), tmp_path / "a", inputs())


REFUSED = {
    "the logarithm of all": (lambda y: y.logsumexp(1), "aten.logsumexp at"),
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


class Renamed(nn.Module):
    """A function as a module, at the path "1" of a network."""

    def __init__(self, function: Any, **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def after(function: Any, **parts: Any) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), Renamed(function, **parts)).eval()


def fails(x: Tensor) -> Tensor:
    raise AssertionError("only for pictures")


def quantized() -> nn.Module:
    module = nn.Sequential(nn.Flatten(), nn.Linear(128, 4))
    linear = torch.ao.nn.quantized.dynamic.Linear(128, 4)
    module[1] = linear
    return module.eval()


HALF = nn.Conv2d(4, 4, 3).half()
UNUSABLE: dict[str, tuple[Any, str]] = {
    "a key that is missing": (lambda: after(lambda m, x: {}["no"]), "KeyError: 'no'"),
    "an attribute": (lambda: after(lambda m, x: m.nothing(x)), "no attribute 'nothing'"),
    "an index": (lambda: after(lambda m, x: [x][1]), "list index out of range"),
    "an assertion": (lambda: after(lambda m, x: fails(x)), "AssertionError: only for pictures"),
    "no forward": (lambda: nn.Module().eval(), "NotImplementedError: Module .* is missing"),
    "a second input": (lambda: nn.Bilinear(8, 8, 2).eval(), "missing (1|a) required"),
    "casts": (lambda: after(lambda m, x: m.c(x.half()), c=HALF), "leave the module's own casts"),
    "torch's integers": (quantized, "Linear at 1 is quantized by torch, .* give the float module"),
    "TorchScript": (lambda: torch.jit.script(nn.Conv2d(2, 4, 3)).eval(), "TorchScript; give the"),
    "training": (lambda: nn.Conv2d(2, 4, 3), "Conv2d is in training mode; call .eval.. first"),
    "a class": (lambda: nn.Conv2d, "Conv2d'> is neither a ref nor a torch.nn.Module"),
    "a function": (lambda: F.relu, "is neither a ref nor a torch.nn.Module; give a module"),
    "nothing": (lambda: None, "None is neither a ref nor a torch.nn.Module"),
}
WAYS: dict[str, Any] = {
    "roofline": lambda m, path: zoo.estimate(m, "ethos-u55-128", input_shape=SHAPE),
    "measured": lambda m, path: zoo.estimate(m, "cpu", input_shape=SHAPE),
    "tflite": lambda m, path: zoo.export(m, path, format="tflite", input_shape=SHAPE),
    "onnx": lambda m, path: zoo.export(m, path, format="onnx", input_shape=SHAPE),
    "qdq": lambda m, path: zoo.export(
        m, path, format="onnx", int8=True, data=[inputs()], input_shape=SHAPE
    ),
}


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*quantize:UserWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", UNUSABLE)
def test_what_a_modules_own_code_raises_is_one_line(name: str, way: str, tmp_path: Path) -> None:
    if way in ("onnx", "qdq"):
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    make, message = UNUSABLE[name]
    with pytest.raises(MismatchError, match=message) as caught:
        WAYS[way](make(), tmp_path / "a")
    assert not {"\n", "\x1b"} & set(str(caught.value))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("dtype", "way"),
    [(torch.float16, way) for way in WAYS]
    + [(dtype, way) for dtype in (torch.bfloat16, torch.float64) for way in ("roofline", "tflite")],
)
def test_other_precisions_are_computed_in_float32_and_it_is_said(
    dtype: torch.dtype, way: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each way with one precision, and each precision in two ways."""
    if way in ("onnx", "qdq"):
        pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    torch.manual_seed(0)
    module = nn.Conv2d(2, 4, 3).to(dtype).eval()
    given = WAYS[way](module, tmp_path / "a")
    assert getattr(given, "snr_db", 99) > 30
    assert module.weight.dtype is dtype  # a copy was computed
    word = str(dtype).removeprefix("torch.")
    assert f"Conv2d has weights in {word}; it is computed in float32" in caplog.text


@pytest.mark.parametrize("way", ["roofline", "measured", "tflite", "qdq"])
def test_complex_numbers_are_named(way: str, tmp_path: Path) -> None:
    for module, name in (
        (after(lambda m, x: torch.fft.fft2(x).abs()), r"aten\.fft_fft2 at 1 "),
        (after(lambda m, x: torch.view_as_complex(x[..., :2]).real), r"aten\.view_as_complex at 1"),
    ):
        with pytest.raises(MismatchError, match=f"{name}.*complex numbers, which no device has"):
            WAYS[way](module, tmp_path / "a")


@pytest.mark.parametrize("format", ["tflite", "c", "onnx"])
def test_shapes_that_are_not_one_size(format: str, tmp_path: Path) -> None:
    module = nn.Conv2d(2, 4, 3).eval()
    for shape in ((1, 2, -1, 8), (1, 2, None, 8), (1, 2, 0, 8), (), 8, "1,2,8,8", (1, 2, 8.0, 8)):
        with pytest.raises(MismatchError, match="is not fixed; a deployed graph has one size"):
            zoo.export(module, tmp_path / "a", format=format, input_shape=shape)  # type: ignore[arg-type]
        with pytest.raises(MismatchError, match="is not fixed; a deployed graph has one size"):
            zoo.estimate(module, "ethos-u55-128", input_shape=shape)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match=r"has 12800000000 bytes.*below 2 GiB; export for a sm"):
        zoo.export(module, tmp_path / "a", format=format, input_shape=(1, 2, 40000, 40000))


def test_a_module_without_values_is_priced_but_not_written(tmp_path: Path) -> None:
    module = nn.Conv2d(2, 4, 3, device="meta").eval()
    assert zoo.estimate(module, "ethos-u55-128", input_shape=SHAPE).macs == 6 * 6 * 4 * 18
    for way in ("tflite", "onnx", "qdq"):
        with pytest.raises(MismatchError, match=r"Conv2d is on the meta device, .*: build it on"):
            WAYS[way](module, tmp_path / "a")
    priced = zoo.estimate(module, "ethos-u55-128", method="vela", input_shape=SHAPE)
    assert priced.latency_ms > 0
    assert any("drawn at random" in note for note in priced.notes)


def test_tuples_dicts_and_nests_of_outputs_are_files_with_several(tmp_path: Path) -> None:
    """Each structure as a file, and one in each way."""
    for function in (
        lambda m, x: (x.relu(), x + 1),
        lambda m, x: {"a": x.relu(), "b": x + 1},
        lambda m, x: [x.relu(), {"b": (x + 1,)}],
    ):
        assert WAYS["roofline"](after(function), None).macs > 0
        file = zoo.export(
            after(function), tmp_path / "b.tflite", format="tflite", input_shape=SHAPE
        )
        assert file.snr_db > 30
        assert len(zoo.load(file.path)(torch.rand(1, 8, 8, 2))) == 2
    for way in ("qdq", "onnx"):
        assert WAYS[way](after(function), tmp_path / "a").snr_db > 30


def test_one_convolution_with_two_norms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(2, 2, 3, padding=1)
    norms = [nn.BatchNorm2d(2), nn.BatchNorm2d(2)]
    nn.init.uniform_(norms[1].weight, 0.5, 2)
    module = nn.Sequential(shared, norms[0], nn.ReLU(), shared, norms[1]).eval()
    assert zoo.estimate(module, "ethos-u55-128", input_shape=SHAPE).macs == 2 * 64 * 2 * 18
    for way in ("tflite", "qdq", "onnx"):
        assert WAYS[way](module, tmp_path / "a").snr_db > 30
