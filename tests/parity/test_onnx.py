"""ONNX files against the modules they came from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from zoo.deploy import onnx as exporter
from zoo.deploy.onnx import export_onnx
from zoo.errors import MismatchError, MissingExtraError
from zoo.models.sesr import SESR

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")


def network() -> SESR:
    """Build a small SESR with weights that make the PReLUs matter."""
    torch.manual_seed(0)
    module = SESR(channels=16, blocks=2, scale=2).eval()
    for act in module.act:
        nn.init.uniform_(act.weight, -0.5, 0.5)  # type: ignore[arg-type]
    return module


def test_file_equals_the_module_at_any_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = network()
    path = tmp_path / "sesr.onnx"
    written = export_onnx(module, path, (1, 1, 16, 24), metadata={"zoo.recipe": "tiny"})
    assert written.path == path
    assert written.max_abs_error < 1e-5
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    model = onnx.load(path)
    assert {item.key: item.value for item in model.metadata_props} == {"zoo.recipe": "tiny"}
    assert str(Path(__file__).parents[2]) not in str(model)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["input"]
    for shape in ((1, 1, 5, 7), (3, 1, 40, 8)):
        x = torch.rand(shape)
        given = torch.from_numpy(session.run(["output"], {"input": x.numpy()})[0])
        with torch.no_grad():
            torch.testing.assert_close(given, module(x), atol=1e-5, rtol=1e-5)


def test_fixed_shape(tmp_path: Path) -> None:
    path = export_onnx(network(), tmp_path / "a.onnx", (1, 1, 8, 8), dynamic=False).path
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 1, 8, 8]


def test_a_wrong_result_is_refused_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(exporter, "_convert", lambda module, shape, dynamic: identity())
    with pytest.raises(MismatchError, match="differs from Sigmoid: SNR"):
        export_onnx(nn.Sigmoid().eval(), path, (1, 1, 4, 4))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def identity() -> "onnx.ModelProto":
    """Build an ONNX model that returns its input."""
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 1, "h", "w"])
        for name in ("input", "output")
    ]
    node = onnx.helper.make_node("Identity", ["input"], ["output"])
    graph = onnx.helper.make_graph([node], "identity", values[:1], values[1:])
    opsets = [onnx.helper.make_opsetid("", exporter.OPSET)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_data_dependent_control_flow_is_refused(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(MismatchError, match="cannot export Branch"):
        export_onnx(Branch().eval(), tmp_path / "a.onnx", (1, 1, 4, 4), dynamic=False)
    assert not list(tmp_path.iterdir())


def test_meta_and_training_modules_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        module = SESR(channels=16, blocks=1, scale=2).eval()
    with pytest.raises(MismatchError, match="on the meta device"):
        export_onnx(module, tmp_path / "a.onnx", (1, 1, 8, 8))
    with pytest.raises(MismatchError, match="training mode"):
        export_onnx(nn.ReLU(), tmp_path / "a.onnx", (1, 1, 8, 8))


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[export\]"):
        export_onnx(network(), tmp_path / "a.onnx", (1, 1, 8, 8))
