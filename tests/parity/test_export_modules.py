"""What modules do that exporters get wrong: shared layers, other precisions, several outputs."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from tests.runtimes import TFLITE, open_everywhere
from zoo.deploy.onnx import export_onnx
from zoo.deploy.onnx_qdq import export_qdq
from zoo.deploy.tflite import export_tflite, load_tflite
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError
from zoo.graph.lower import lower
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.qat import training_form
from zoo.runtime.integer import IntegerNetwork
from zoo.runtime.kernels import FLOAT, INTEGER

SHAPE = (1, 4, 12, 12)


class Two(nn.Module):
    """A layer, an activation and a layer: the same, or another with the same numbers."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.first if shared else nn.Conv2d(4, 4, 3, padding=1)
        self.second.load_state_dict(self.first.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))  # type: ignore[no-any-return]


class Heads(nn.Module):
    """A head over two levels of a pyramid, with a norm of its own for each level, or one."""

    def __init__(self, *, norms: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4) for _ in range(norms)])
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(norm.bias, -1, 1)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.norms[0](self.head(x))
        return fine, self.norms[-1](self.head(F.max_pool2d(x, 2)))


class Several(nn.Module):
    """Three outputs, two of them the same and one an input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        return y, x, y


def batch() -> Tensor:
    return torch.randn(8, *SHAPE[1:], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("activations", ["int8", "int16"])
def test_a_layer_used_twice_is_as_good_as_two(activations: Any, tmp_path: Path) -> None:
    options = Options(activations=activations)
    found = [
        export_tflite(
            Two(shared=shared).eval(), tmp_path / f"{shared}", SHAPE, [batch()], options=options
        )
        for shared in (True, False)
    ]
    assert found[0].snr_db == found[1].snr_db > 30
    sizes = [one.path.stat().st_size for one in found]
    assert sizes[0] < sizes[1] - 100  # the weights are there once


def test_a_layer_used_twice_in_integer_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    found = [
        export_qdq(Two(shared=shared).eval(), tmp_path / "a.onnx", SHAPE, [batch()])
        for shared in (True, False)
    ]
    assert found[0].snr_db == found[1].snr_db > 30


@pytest.mark.parametrize("norms", [1, 2])
def test_a_head_over_a_pyramid(norms: int, tmp_path: Path) -> None:
    module = Heads(norms=norms).eval()
    assert export_tflite(module, tmp_path / "a", SHAPE, [batch()]).snr_db > 30
    weights = [t for t in lower(module, SHAPE).tensors.values() if t.kind == "weight"]
    assert len(weights) == norms


def test_training_keeps_a_shared_layer_one() -> None:
    form = training_form(Two(shared=True).eval(), [batch()], "int8")
    assert len([p for name, p in form.named_parameters() if name.startswith("weights")]) == 2
    with torch.no_grad():
        for parameter in form.weights.values():
            parameter += 0.01
    deployed = form.eval().deployed()
    torch.testing.assert_close(deployed(batch()), form(batch()), atol=0.05, rtol=0)
    module = Two(shared=False).eval()
    assert torch.equal(deployed.first.weight, module.first.weight + 0.01)


def test_training_refuses_one_layer_of_two_forms() -> None:
    class Summed(Heads):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return self.norms[0](self.head(x)) + self.norms[1](self.head(x * 0.5))

    with pytest.raises(MismatchError, match=r"head.weight is used in several forms.*; give each"):
        training_form(Summed(norms=2).eval(), [batch()], "int8")


@pytest.mark.parametrize("int8", [False, True])
def test_a_convolution_without_bias_opens_everywhere(int8: bool, tmp_path: Path) -> None:
    module = nn.Conv2d(4, 8, 3, bias=False).eval()
    open_everywhere(
        export_tflite(module, tmp_path / "a", SHAPE, [batch()], int8=int8).path.read_bytes()
    )


def test_what_a_runtime_refuses_fails_the_test_that_wrote_it() -> None:
    """The check of every written file (tests/conftest.py) sees it, whatever the test is of."""
    pytest.importorskip("ai_edge_litert.interpreter")
    graph = lower(nn.Conv2d(4, 8, 3).eval(), SHAPE)
    ops = [dataclasses.replace(op, inputs=op.inputs[:2]) for op in graph.ops]
    with pytest.raises(AssertionError, match=r"litert-reference cannot open .*has_bias"):
        serialize_tflite(dataclasses.replace(graph, ops=tuple(ops)))


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"scale_factor": 1.7, "mode": "bilinear"}, r"size=\(11, 11\)"),
        ({"scale_factor": 2.1, "mode": "nearest"}, r"size=\(14, 14\)"),
        ({"scale_factor": (1, 2.1), "mode": "nearest-exact"}, r"size=\(7, 14\)"),
    ],
)
def test_a_factor_that_no_device_samples_by_is_refused(options: Any, size: str) -> None:
    class Enlarging(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, **options)

    whole = nn.Sequential()
    whole.add_module("up", Enlarging())
    with pytest.raises(MismatchError, match=rf"interpolate at up enlarges by .*: give {size}"):
        lower(whole.eval(), (1, 4, 7, 7))
    options["recompute_scale_factor"] = True
    assert lower(Enlarging().eval(), (1, 4, 7, 7)).ops[0].kind.startswith("resize")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Conv2d(4, 8, 3).to(dtype).eval()
    assert export_tflite(module, tmp_path / "a", SHAPE, [batch()], int8=False).snr_db > 100
    assert export_tflite(module, tmp_path / "a", SHAPE, [batch()]).snr_db > 30
    assert module.weight.dtype is dtype


@pytest.mark.parametrize("int8", [False, True])
def test_several_outputs(int8: bool, tmp_path: Path) -> None:
    module, x = Several().eval(), batch()
    file = export_tflite(module, tmp_path / "a", SHAPE, [x], int8=int8)
    assert file.snr_db > 30
    network = load_tflite(file.path)
    given = x.permute(0, 2, 3, 1)
    given = (given / 0.05).round().to(torch.int8) if int8 else given
    wanted = network(given)
    assert len(wanted) == 3
    for runtime in TFLITE.values():
        for ours, theirs in zip(wanted, runtime(file.path.read_bytes())(given), strict=True):
            # XNNPACK rounds halves otherwise.
            near = 1 if int8 else 1e-5
            a, b = theirs.astype(np.float64), ours.numpy().astype(np.float64)
            np.testing.assert_allclose(a, b, atol=near)


@pytest.mark.parametrize("int8", [False, True])
def test_several_outputs_in_onnx(int8: bool, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    module, path = Several().eval(), tmp_path / "a.onnx"
    if int8:
        export_qdq(module, path, SHAPE, [batch()])
    else:
        export_onnx(module, path, SHAPE, dynamic=False)
    names = [item.name for item in runtime.InferenceSession(path).get_outputs()]
    assert names == ["output0", "output1", "output2"]


def test_a_returned_parameter_is_named() -> None:
    class Anchors(Several):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return self.conv(x), self.conv.bias

    with pytest.raises(MismatchError, match=r"returns its own 'conv.bias' unchanged; leave"):
        lower(Anchors().eval(), SHAPE)


def test_modules_without_values_are_estimated() -> None:
    module = nn.Conv2d(4, 8, 3, device="meta").eval()
    assert zoo.estimate(module, "ethos-u55-128", method="vela", input_shape=SHAPE).macs
    assert zoo.estimate(module, "ethos-u55-128", method="roofline", input_shape=SHAPE).macs


RIGHT = INTEGER["max_pool2d"]


def wrong(graph: Any, op: Any) -> Any:
    kernel = RIGHT(graph, op)
    return lambda x: kernel(x.flip(3))


def test_a_wrong_file_is_refused_with_its_worst_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)).eval()
    monkeypatch.setitem(INTEGER, "max_pool2d", wrong)
    message = r"SNR -?\d.* int8 files have at least 10; max_pool2d at 1 loses most: \d\d dB before"
    with pytest.raises(MismatchError, match=message):
        export_tflite(module, tmp_path / "a", SHAPE, [batch()])
    monkeypatch.setitem(FLOAT, "max_pool2d", lambda graph, op, x: x[:, ::2, ::2])
    for int8 in (True, False):
        with pytest.raises(MismatchError, match="a fault of the export, not of rounding"):
            export_tflite(module, tmp_path / "a", SHAPE, [batch()], int8=int8)
    assert not list(tmp_path.iterdir())


class Cancels(nn.Module):
    """What is left after a large sum is taken off again has the large sum's steps."""

    def forward(self, x: Tensor) -> Tensor:
        large = torch.cat([x[:, 2:], x[:, :2]], 1) * 14
        return (x + large) - large


def test_a_coarse_file_is_written_with_a_warning_that_names_the_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    module = nn.Sequential(Cancels())
    assert 10 < export_tflite(module.eval(), tmp_path / "a", SHAPE, [batch()]).snr_db < 20
    message = r"the file has an SNR of 1\d\.\d dB against Sequential; sub at 0 loses most"
    assert re.search(message, caplog.text)


def test_outputs_below_a_step_are_no_fault(tmp_path: Path) -> None:
    """A thousand classes that are all as probable: every probability is 0 in int8."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(4 * 144, 1000), nn.Softmax(1)).eval()
    assert export_tflite(module, tmp_path / "a", SHAPE, [batch() * 0.01]).snr_db < 10


def test_zoo_export_takes_modules(tmp_path: Path) -> None:
    module = Two(shared=True).eval()
    path = tmp_path / "a.tflite"
    with pytest.raises(MismatchError, match=r"Two is a module.*; add input_shape="):
        zoo.export(module, path, format="tflite")
    with pytest.raises(MismatchError, match=r"give a module's as data=\[batch, \.\.\.\]"):
        zoo.export(module, path, format="tflite", int8=True, input_shape=SHAPE)
    assert zoo.export(module, path, format="tflite", input_shape=SHAPE).snr_db > 100
    for kind in ("int8", "int16"):
        file = zoo.export(
            module, path, format="tflite", input_shape=SHAPE, data=[batch()], **{kind: True}
        )
        assert 30 < file.snr_db < 60
        assert isinstance(zoo.load(path), IntegerNetwork)
    zoo.export(module, tmp_path / "a.c", format="c", input_shape=SHAPE, data=batch(), int8=True)
    assert "a_size" in (tmp_path / "a.c").read_text()
    with pytest.raises(MismatchError, match=r"call \.eval"):
        zoo.export(Two(shared=True), path, format="tflite", input_shape=SHAPE)
