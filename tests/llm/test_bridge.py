"""Packed checkpoints in transformers: exact, whole, and nothing random in silence."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import zoo
import zoo.quantization
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.integrations import bridge
from zoo.quantization.core import quantize_matrix
from zoo.quantization.kernels.matvec import FEW
from zoo.quantization.language import opening
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear, layout, set_cache
from zoo.quantization.plan import QuantizationPlan

IDS = torch.arange(40)[None]
# Rounding needs no calibration, so each is made in no time.
METHODS = {
    "rtn": LayerOptions(method="rtn", bits=3, dim=1, group_size=16),
    "codebook-4-bit-index": LayerOptions(bits=2, dim=2, group_size=512),
    "codebook-6-bit-index": LayerOptions(bits=3, dim=2, group_size=2048),
    "codebook-8-bit-index": LayerOptions(bits=2, dim=4, group_size=4096),
    "codebook-1d": LayerOptions(bits=2, dim=1, group_size=256),
    "codebook-product": LayerOptions(bits=2, dim=1, group_size=100, codebook_rank=-1),
    "codebook-3-bit-index": LayerOptions(bits=3, dim=1, group_size=256),
    "codebook-half": LayerOptions(bits=2, dim=2, group_size=512, codebook_bits=16),
    "codebook-scales": LayerOptions(bits=2, dim=2, group_size=1024, scale_block=16),
    "order": LayerOptions(method="gptq", bits=4, dim=1, group_size=16, act_order=True),
}


@pytest.fixture(scope="module")
def packed(base, text, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "out"
    options = LayerOptions(bits=2, dim=2, group_size=1024, iterations=3)
    compress_model(
        base, out, QuantizationPlan(options=options, windows=2, length=32), text=text, device="cpu"
    )
    return out


@pytest.fixture
def copy(packed, tmp_path):
    shutil.copytree(packed, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("options", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("shape", [(40, 24), (33, 46)], ids=["even", "ragged"])
def test_a_layer_computes_with_the_decoded_weight(options, shape):
    torch.manual_seed(0)
    weight, x = torch.randn(shape), torch.randn(FEW + 1, shape[1])
    bias = torch.randn(shape[0])
    inputs = torch.randn(200, shape[1])
    matrix = quantize_matrix(weight, inputs.T @ inputs, options)
    layer = PackedLinear.of(matrix, bias)
    stored = matrix.tensors()
    assert layout(matrix.grid, options) == {
        name: (tuple(value.shape), value.dtype) for name, value in stored.items()
    }
    assert torch.equal(layer.dequantize(), matrix.dequantize())
    for dtype in (torch.float32, torch.bfloat16):
        y = layer.to(dtype)(x.to(dtype))
        expected = torch.nn.functional.linear(x.to(dtype), matrix.dequantize(dtype), bias.to(dtype))
        assert torch.equal(y, expected)
        assert set_cache(layer, "decoded") == 1
        assert torch.equal(layer(x.to(dtype)), expected)
        set_cache(layer, "none")
    assert all(torch.equal(value, stored[name]) for name, value in layer.stored().items())
    layer.check()


def test_stock_transformers_loads_saves_and_generates(packed, base, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(packed, device_map="cpu")
    assert type(model.model.layers[0].mlp.up_proj) is PackedLinear
    in_memory = AutoModelForCausalLM.from_pretrained(base)
    stored = load_file(packed / "model.safetensors")
    for name, layer in model.named_modules():
        if isinstance(layer, PackedLinear):  # bit for bit what the file's tensors decode to
            own = {k: stored[f"{name}.{k}"] for k in layer.names}
            from zoo.quantization.core import QuantizedMatrix

            shape = (layer.out_features, layer.in_features)
            weight = QuantizedMatrix.from_tensors(own, shape, layer.options).dequantize()
            in_memory.get_submodule(name).weight.data = weight
    with torch.no_grad():
        logits = model(IDS).logits
        assert torch.equal(logits, in_memory(IDS).logits)
    words = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert words.shape == (1, 45)
    model.save_pretrained(tmp_path / "again", max_shard_size="50KB")
    assert len(list((tmp_path / "again").glob("*.safetensors"))) > 1
    with torch.no_grad():
        assert torch.equal(opening.load(tmp_path / "again")(IDS).logits, logits)
    model.dequantize().save_pretrained(tmp_path / "plain")
    assert "quantization_config" not in json.loads((tmp_path / "plain/config.json").read_text())
    with torch.no_grad():
        assert torch.equal(opening.load(tmp_path / "plain")(IDS).logits, logits)


def test_codebooks_stored_as_a_product(base, text, tmp_path):
    options = LayerOptions(bits=2, dim=1, group_size=128, iterations=2, codebook_rank=-1)
    plan = QuantizationPlan(options=options, windows=2, length=32, row_parts=2)
    report = compress_model(base, tmp_path / "out", plan, text=text, device="cpu")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert {tuple(layer.names) for layer in layers} == {("codes", "factor", "basis")}
    stored = sum(t.numel() * t.element_size() for m in layers for t in m.stored().values())
    assert report["packed_bytes"] == stored
    few = IDS[:, :FEW]
    with torch.no_grad():
        logits = opening.load(tmp_path / "out", dtype=torch.float32)(few).logits
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        plain = model.dequantize()(few).logits
    torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-5)


def test_bfloat16_leaves_codes_and_codebooks_exact(packed):
    model = AutoModelForCausalLM.from_pretrained(packed, dtype=torch.bfloat16)
    stored = load_file(packed / "model.safetensors")
    assert model.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        if name in stored and not stored[name].is_floating_point():
            assert torch.equal(value, stored[name]), name


def test_without_its_head_too(packed):
    whole = AutoModelForCausalLM.from_pretrained(packed)
    body = AutoModel.from_pretrained(packed)
    with torch.no_grad():
        assert torch.equal(body(IDS).last_hidden_state, whole.model(IDS).last_hidden_state)


def test_compiled_gives_the_same(packed):
    layer = opening.load(packed).model.layers[0].mlp.up_proj
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for tokens in (1, FEW + 1):
        x = torch.randn(tokens, 64)
        assert torch.equal(compiled(x), layer(x))


FRESH = """
import sys
{first}
{second}
assert "transformers" in sys.modules
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(type(model.model.layers[0].mlp.up_proj).__name__)
"""
ORDERS = {
    "zoo-first": (
        "import zoo.quantization; assert 'transformers' not in sys.modules",
        "from transformers import AutoModelForCausalLM",
    ),
    "zoo-last": ("from transformers import AutoModelForCausalLM", "import zoo.quantization"),
}


@pytest.mark.parametrize(
    "order", [pytest.param(ORDERS["zoo-first"], marks=pytest.mark.slow), ORDERS["zoo-last"]],
    ids=ORDERS,
)  # fmt: skip
def test_importing_registers_in_a_fresh_process(packed, repository, order):
    code = FRESH.format(first=order[0], second=order[1])
    printed = subprocess.run(
        [sys.executable, "-c", code, str(packed)],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed == "PackedLinear\n"


def test_registering_twice_is_harmless():
    from zoo.integrations import registration

    registration.ensure()
    bridge.register()


# --- bad input ---


def rewritten(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_missing_and_surplus_tensors_are_refused(copy):
    name = "model.layers.1.mlp.up_proj.codes"
    kept = load_file(copy / "model.safetensors")[name]
    rewritten(copy, lambda tensors: tensors.pop(name))
    with pytest.raises(UnsafeFileError, match=r"up_proj: the codes are missing"):
        AutoModelForCausalLM.from_pretrained(copy)
    norm = load_file(copy / "model.safetensors")["model.norm.weight"]
    rewritten(copy, lambda t: (t.update({name: kept}), t.pop("model.norm.weight")))
    with pytest.raises(MissingWeightsError, match=r"model\.norm\.weight"):
        opening.load(copy)
    rewritten(copy, lambda t: t.update({"model.norm.weight": norm}))
    rewritten(copy, lambda t: t.update({name: kept, "model.extra": torch.zeros(1)}))
    with pytest.raises(MismatchError, match=r"unexpected keys: model.extra"):
        opening.load(copy)


def test_a_missing_scale_is_refused_by_stock_loading_too(copy):
    name = "model.layers.1.mlp.up_proj.codebook_scale"
    rewritten(copy, lambda tensors: tensors.update({name: torch.zeros_like(tensors[name])}))
    with pytest.raises(UnsafeFileError, match=r"model.layers.1.mlp.up_proj: codebook_scale"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_codes_out_of_range_are_refused():
    # 33 codes of 6 bits end within a byte: the last two bits of a row stay unset
    matrix = quantize_matrix(torch.randn(8, 66), None, LayerOptions(bits=3, dim=2))
    layer = PackedLinear.of(matrix)
    layer.check()
    layer.get_buffer("codes")[2, -1] |= 0x80
    with pytest.raises(UnsafeFileError, match="out of range"):
        layer.check()
    with pytest.raises(UnsafeFileError):
        layer.matrix()


def test_a_newer_format_is_refused(copy, rewrite):
    config = json.loads((copy / "config.json").read_text())["quantization_config"]
    rewrite(copy / "config.json", quantization_config={**config, "format_version": 3})
    with pytest.raises(MismatchError, match="format_version 3; this zoo reads 1 to 2"):
        opening.load(copy)
    rewrite(copy / "config.json", quantization_config={**config, "options": {"sharpness": 1}})
    with pytest.raises(zoo.errors.ZooError, match="sharpness"):
        opening.load(copy)


def test_another_shape_is_refused(copy):
    name = "model.layers.1.mlp.up_proj.codebook"
    rewritten(copy, lambda tensors: tensors.update({name: tensors[name][:, :, :8].contiguous()}))
    with pytest.raises(MismatchError, match=r"model.layers.1.mlp.up_proj.codebook|mismatch"):
        opening.load(copy)


def test_a_flipped_byte_of_codes_is_refused_by_plain_transformers(copy):
    name = "model.layers.1.mlp.up_proj.codes"

    def flip(tensors):
        tensors[name][3, 2] ^= 1

    rewritten(copy, flip)
    with pytest.raises(UnsafeFileError, match=r"up_proj: the codes are missing or not those"):
        AutoModelForCausalLM.from_pretrained(copy)
