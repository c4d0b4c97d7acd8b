"""Packed models as ONNX: codes in the file, the same weights, the same logits in ONNX Runtime."""

import numpy as np
import pytest
import torch

import zoo
from zoo.cli import main
from zoo.deploy.onnx_language import Gathered
from zoo.errors import MismatchError
from zoo.quantization.core import quantize_matrix
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

OPTIONS = {
    "rtn": LayerOptions(method="rtn", bits=3, group_size=16),
    "codebook-1d": LayerOptions(bits=3, dim=1, group_size=256),
    "codebook-product": LayerOptions(bits=3, dim=1, group_size=100, codebook_rank=-1),
    "codebook-2d": LayerOptions(bits=3, dim=2, group_size=1024),
    "codebook-4d": LayerOptions(bits=2, dim=4, group_size=4096),
    "codebook-half": LayerOptions(bits=2, dim=2, group_size=512, codebook_bits=16),
    "order": LayerOptions(method="gptq", bits=4, group_size=16, act_order=True),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [(40, 24), (33, 46)], ids=["even", "ragged"])
def test_the_graph_decodes_the_same_bits(options, shape):
    torch.manual_seed(0)
    inputs = torch.randn(200, shape[1])
    matrix = quantize_matrix(torch.randn(shape), inputs.T @ inputs, options)
    layer = PackedLinear.of(matrix, torch.randn(shape[0]))
    gathered = Gathered(layer)
    assert torch.equal(gathered.weight(), layer.dequantize())
    assert all(not b.is_floating_point() or b.dtype == torch.half for b in gathered.buffers())


def test_block_scales_are_refused():
    options = LayerOptions(bits=2, dim=2, group_size=1024, scale_block=16)
    with pytest.raises(MismatchError, match="scale_block"):
        Gathered(PackedLinear.of(quantize_matrix(torch.randn(16, 32), None, options)))


@pytest.mark.parametrize(
    "embeddings",
    ["", pytest.param("--embeddings 8", marks=pytest.mark.slow)],
    ids=["floats", "8 bit rows"],
)
def test_the_command_writes_codes_that_onnx_runtime_looks_up(
    base, text, tmp_path, capsys, embeddings
):
    out, file = tmp_path / "out", tmp_path / "model.onnx"
    words = f"compress {base} --out {out} --data {text} --method gptvq-2d-3b --windows 2 "
    words += f"--length 32 --set iterations=2 {embeddings}"
    assert main(words.split()) == 0
    assert main(["export", str(out), "--out", str(file)]) == 0
    capsys.readouterr()
    graph = onnx.load(file).graph
    kept = {item.name: item for item in graph.initializer}
    codes = [item for name, item in kept.items() if name.endswith("up_proj.codes")]
    assert [item.data_type for item in codes] == [onnx.TensorProto.UINT8] * 3
    floats = [item for item in kept.values() if item.data_type == onnx.TensorProto.FLOAT]
    assert not [item.name for item in floats if list(item.dims) in ([172, 64], [64, 172])]
    tables = [item for item in kept.values() if list(item.dims) == [256, 64]]
    kind = onnx.TensorProto.INT8 if embeddings else onnx.TensorProto.FLOAT
    assert [item.data_type for item in tables] == [kind]  # tied: once
    ids = np.arange(2 * 50).reshape(2, 50)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input_ids": ids})[0]
    with torch.no_grad():
        wanted = zoo.load(out)(torch.from_numpy(ids)).logits
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)
    assert main(["export", str(out), "--out", str(file.with_suffix(".tflite"))]) == 1
    assert "--format gguf, onnx, gptq or compressed-tensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ("--method rtn --bits 4 --group-size 32 --embeddings 8", {(4, 32), (8, 64)}),
        pytest.param(
            "--method rtn --bits 3 --group-size 48 --skip *mlp*", {(4, 16)}, marks=pytest.mark.slow
        ),
        pytest.param("--method rtn --bits 8", {(8, 64)}, marks=pytest.mark.slow),
        pytest.param(
            "--method gptq --bits 4 --group-size 16 --set act_order=true --data {text} --windows 2 "
            "--length 32", {(4, 16)}, marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_integers_are_multiplied_by_the_operator_of_onnx_runtime(
    base, text, tmp_path, capsys, options, blocks
):
    out, file = tmp_path / "out", tmp_path / "model.onnx"
    assert main(f"compress {base} --out {out} {options.format(text=text)}".split()) == 0
    assert main(["export", str(out), "--out", str(file)]) == 0
    capsys.readouterr()
    model = onnx.load(file)
    nodes = [node for node in model.graph.node if node.op_type == "MatMulNBits"]
    given = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    assert {(each["bits"], each["block_size"]) for each in given} == blocks
    kept = {item.name: item for item in model.graph.initializer}
    halves = [kept[node.input[1]].data_type for node in nodes]
    assert set(halves) == {onnx.TensorProto.UINT8}
    floats = {tuple(x.dims) for x in kept.values() if x.data_type == onnx.TensorProto.FLOAT}
    assert ((256, 64) in floats) == ("--embeddings" not in options)
    assert ((172, 64) in floats) == ("--skip" in options)
    ids = np.arange(2 * 50).reshape(2, 50)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input_ids": ids})[0]
    with torch.no_grad():
        wanted = zoo.load(out)(torch.from_numpy(ids)).logits
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-4)


def test_inputs_of_eight_bits_are_floats_in_the_file(base, tmp_path):
    out, file = tmp_path / "out", tmp_path / "model.onnx"
    words = f"compress {base} --out {out} --method rtn --bits 4 --activations int8"
    assert main(words.split()) == 0
    assert main(["export", str(out), "--out", str(file)]) == 0
    ids = np.arange(2 * 20).reshape(2, 20)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"input_ids": ids})[0])
    with torch.no_grad():
        rounded = zoo.load(out)(torch.from_numpy(ids)).logits
    assert 0 < (found - rounded).norm() < 0.05 * rounded.norm()
