"""Embedding and head in 8 bits: small files, exact loads, tied rows once."""

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.embeddings import PackedEmbedding, PackedHead, TiedHead, quantize_rows
from zoo.quantization.kernels.matvec import FEW
from zoo.quantization.language import opening
from zoo.quantization.language.job import compress_model
from zoo.quantization.options import LayerOptions
from zoo.quantization.packing import from_half_bits
from zoo.quantization.plan import QuantizationPlan

IDS = torch.arange(40)[None]
OPTIONS = LayerOptions(method="rtn", bits=4, group_size=16)
PLAN = QuantizationPlan(options=OPTIONS, embeddings=8)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def packed(request, tiny_model, byte_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    model = tiny_model(tie_word_embeddings=request.param)
    model.save_pretrained(folder / "base")
    byte_tokenizer.save_pretrained(folder / "base")
    report = compress_model(folder / "base", folder / "out", PLAN, device="cpu")
    return folder / "out", model, request.param, report


@given(st.integers(1, 9), st.integers(1, 40), st.sampled_from([1e-6, 1e-3, 1.0, 1e4]), st.data())
def test_rows_are_within_half_a_step(rows, columns, size, data):
    seed = data.draw(st.integers(0, 1000))
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * size
    weight[0] = 0.0
    stored = quantize_rows(weight)
    scale = from_half_bits(stored["scale"]).unsqueeze(1)
    error = (stored["codes"] * scale - weight).abs()
    # Half a step, and where rounding the scale cut off the largest number, half a scale's step.
    assert bool((error <= 0.5 * scale + 127 * scale * 2**-11 + 1e-30).all())
    assert stored["codes"].dtype == torch.int8
    assert not stored["codes"][0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, FEW, FEW + 1])
def test_a_head_multiplies_with_its_rows(dtype, tokens):
    torch.manual_seed(0)
    head = PackedHead(9000, 64, dtype)
    head.load_state_dict(quantize_rows(torch.randn(9000, 64)))
    head.bias = nn.Parameter(torch.randn(9000, dtype=dtype), requires_grad=False)
    x = torch.randn(2, tokens, 64, dtype=dtype)[:1]
    exact = x.double() @ head.dequantize().double().T + head.bias.double()
    found = head(x)
    assert found.dtype == dtype
    assert found.shape == (1, tokens, 9000)
    torch.testing.assert_close(
        found.double(), exact, rtol=0, atol=0.2 if dtype == torch.bfloat16 else 1e-4
    )
    compiled = torch.compile(head, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), found, rtol=0, atol=0.3 if tokens <= FEW else 0.0)


def test_a_checkpoint_computes_with_its_rows(packed):
    out, original, tied, _ = packed
    model = AutoModelForCausalLM.from_pretrained(out)
    assert type(model.model.embed_tokens) is PackedEmbedding
    assert type(model.lm_head) is (TiedHead if tied else PackedHead)
    table = model.model.embed_tokens.dequantize()
    assert 0 < (table - original.model.embed_tokens.weight).abs().max() < 0.01
    plain = copy.deepcopy(original)
    for name, layer in model.named_modules():
        if type(layer).__name__ == "PackedLinear":
            plain.get_submodule(name).weight.data = layer.dequantize()
    plain.model.embed_tokens.weight.data = table
    if not tied:
        plain.lm_head.weight.data = model.lm_head.dequantize()
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-5)
        body = AutoModel.from_pretrained(out)
        assert torch.equal(body(IDS).last_hidden_state, model.model(IDS).last_hidden_state)
    words = model.generate(IDS, max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert torch.equal(words, copy.deepcopy(model).generate(
        IDS, max_new_tokens=5, do_sample=False, pad_token_id=0))  # fmt: skip


def test_the_file_holds_integers_and_tied_rows_once(packed):
    out, original, tied, report = packed
    stored = load_file(out / "model.safetensors")
    names = [name for name in stored if "embed" in name or "head" in name]
    tables = ["model.embed_tokens"] if tied else ["lm_head", "model.embed_tokens"]
    assert sorted(names) == [f"{table}.{key}" for table in tables for key in ("codes", "scale")]
    rows, columns = original.model.embed_tokens.weight.shape
    size = sum(stored[name].nbytes for name in names)
    assert size == len(tables) * rows * (columns + 2)
    assert report["tensor_bytes"] == sum(value.nbytes for value in stored.values())


def test_saved_again_and_decoded_it_computes_the_same(packed, tmp_path):
    out, _, tied, _ = packed
    model = AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        logits = model(IDS).logits
        model.save_pretrained(tmp_path / "again")
        assert torch.equal(opening.load(tmp_path / "again")(IDS).logits, logits)
        plain = model.dequantize()
        assert type(plain.model.embed_tokens) is nn.Embedding
        assert (plain.lm_head.weight is plain.model.embed_tokens.weight) == tied
        plain.save_pretrained(tmp_path / "plain")
        assert (
            json.loads((tmp_path / "plain/config.json").read_text())["tie_word_embeddings"] == tied
        )
        again = opening.load(tmp_path / "plain")(IDS).logits
        torch.testing.assert_close(again, logits, rtol=1e-5, atol=1e-5)


def test_bfloat16_leaves_the_integers_and_gives_bfloat16(packed):
    out = packed[0]
    stored = load_file(out / "model.safetensors")
    for model in (opening.load(out, dtype=torch.bfloat16), opening.load(out).to(torch.bfloat16)):
        for name, value in model.state_dict().items():
            if name in stored and not stored[name].is_floating_point():
                assert torch.equal(value, stored[name]), name
        assert model.model.embed_tokens(IDS).dtype == torch.bfloat16
        with torch.no_grad():
            few, many = model(IDS[:, :4]).logits, model(IDS).logits[:, :4]
        assert few.dtype == torch.bfloat16
        torch.testing.assert_close(few, many, rtol=0, atol=0.05)


def test_damaged_rows_are_refused(packed, tmp_path):
    import shutil

    shutil.copytree(packed[0], tmp_path / "bad")
    tensors = load_file(tmp_path / "bad/model.safetensors")
    scale = tensors["model.embed_tokens.scale"]
    for value in (float("nan"), 0.0, -1.0):
        scale[3] = torch.tensor(value, dtype=torch.half).view(torch.int16)
        save_file(tensors, tmp_path / "bad/model.safetensors", {"format": "pt"})
        with pytest.raises(UnsafeFileError, match=r"embed_tokens: scale holds .*get the files"):
            opening.load(tmp_path / "bad")
    config = json.loads((tmp_path / "bad/config.json").read_text())
    config["quantization_config"]["embeddings"] = 4
    (tmp_path / "bad/config.json").write_text(json.dumps(config))
    with pytest.raises(MismatchError, match="embeddings is 4; this zoo reads 0 and 8 bits"):
        opening.load(tmp_path / "bad")


def test_what_is_more_than_a_table_is_refused_before_the_work(base, tmp_path, monkeypatch):
    from zoo.quantization.language.source import Source

    class Scaled(nn.Embedding):
        pass

    skeleton = Source.skeleton

    def other(self):
        model = skeleton(self)
        model.model.embed_tokens.__class__ = Scaled
        return model

    monkeypatch.setattr(Source, "skeleton", other)
    with pytest.raises(MismatchError, match=r"has a Scaled where a plain Embedding .*--embeddings"):
        compress_model(base, tmp_path / "out", PLAN, device="cpu")
    with pytest.raises(MismatchError, match="embeddings is 4; expected 0 or 8 bits"):
        QuantizationPlan(options=OPTIONS, embeddings=4)
