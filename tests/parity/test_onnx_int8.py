"""Integer ONNX files: ONNX Runtime against our integers, network by network and op by op."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from zoo.deploy.formats import ONNX
from zoo.deploy.onnx_qdq import export_qdq, qdq_model
from zoo.errors import MismatchError
from zoo.quantization.int8.calibration import Options
from zoo.quantization.int8.post_training import quantize

onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")


def session(content: bytes) -> Any:
    settings = runtime.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    return runtime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


@pytest.fixture
def net() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6()]
    layers += [nn.MaxPool2d(2), nn.Conv2d(8, 4, 1), nn.PixelShuffle(2), nn.Flatten()]
    layers += [nn.Linear(14 * 14, 5), nn.Softmax(1)]
    return nn.Sequential(*layers).eval(), torch.rand(8, 3, 16, 16)


def test_one_network_end_to_end(net: tuple[nn.Module, Tensor], tmp_path: Path) -> None:
    module, x = net
    written = export_qdq(module, tmp_path / "a.onnx", (1, 3, 16, 16), [x], metadata={"zoo": "x"})
    assert written.max_steps is not None
    assert written.max_steps <= 2
    model = onnx.load(tmp_path / "a.onnx")
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(np.prod(t.dims) for t in weights) >= sum(p.numel() for p in module.parameters()) - 25
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    biases = [node.input[2] for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(biases) == 4
    for name in biases:
        assert kinds[f"{name.removesuffix('.real')}.integers"] == onnx.TensorProto.INT32
    scales = {t.name: tuple(t.dims) for t in model.graph.initializer if t.name.endswith(".scale")}
    assert (8,) in scales.values()  # per channel
    assert session(written.path.read_bytes()).run(None, {"input": x[:3].numpy()})[0].shape == (3, 5)


def test_what_has_no_integer_form_says_so(net: tuple[nn.Module, Tensor]) -> None:
    module, x = net
    graph = quantize(module, [x], (1, 3, 16, 16), Options(activations="int16"))
    with pytest.raises(MismatchError, match="not int16; int16 activations need --format tflite"):
        qdq_model(graph)


def test_a_wrong_result_is_refused(
    net: tuple[nn.Module, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = net
    monkeypatch.setitem(ONNX, "softmax", ONNX["relu"])
    with pytest.raises(MismatchError, match="steps away from the int8 Sequential"):
        export_qdq(module, tmp_path / "a.onnx", (1, 3, 16, 16), [x])
    assert not list(tmp_path.iterdir())
