"""bf16 weights without loss: every bit comes back, through files and transformers."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, UnsafeFileError, ZooError
from zoo.quantization.coded import CodedEmbedding, CodedLinear


@pytest.fixture(scope="module")
def brain(tiny_model, byte_tokenizer, tmp_path_factory):
    """A bf16 model with numbers that only bits can tell apart."""
    folder = tmp_path_factory.mktemp("brain") / "tiny"
    model = tiny_model().to(torch.bfloat16)
    with torch.no_grad():
        odd = torch.tensor([0x0001, 0x8000, 0x807F, 0x7F7F, 0x0080, -0x7FFF], dtype=torch.int32)
        odd = odd.to(torch.int16).view(torch.bfloat16)  # subnormals, minus zero, the largest
        model.model.layers[0].mlp.up_proj.weight[:1, : len(odd)] = odd * 0 + odd
        model.model.layers[1].mlp.up_proj.weight[5, :2] = torch.tensor([float("nan"), -torch.inf])
    model.save_pretrained(folder)
    byte_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def coded(brain, tmp_path_factory):
    out = tmp_path_factory.mktemp("coded") / "out"
    assert main(["compress", str(brain), "--method", "dfloat11", "--out", str(out)]) == 0
    return out


def bits(tensor):
    return tensor.detach().contiguous().view(torch.int16)


def test_every_bit_comes_back(brain, coded):
    before = AutoModelForCausalLM.from_pretrained(brain, dtype="auto")
    after = AutoModelForCausalLM.from_pretrained(coded, dtype="auto")
    assert isinstance(after.model.layers[0].mlp.up_proj, CodedLinear)
    assert isinstance(after.get_input_embeddings(), CodedEmbedding)
    for name, weight in before.named_parameters():
        assert torch.equal(bits(after.get_submodule(name.rpartition(".")[0]).weight), bits(weight))
    plain = after.dequantize()
    for name, weight in before.named_parameters():
        assert torch.equal(bits(plain.get_parameter(name)), bits(weight))
    assert plain.lm_head.weight is plain.model.embed_tokens.weight


def test_it_answers_as_before_and_is_smaller(tiny_model, tmp_path, byte_tokenizer):
    base = tmp_path / "base"
    model = tiny_model(hidden_size=128, intermediate_size=352).to(torch.bfloat16)
    model.save_pretrained(base)
    byte_tokenizer.save_pretrained(base)
    made = zoo.compress(base, tmp_path / "out", method="dfloat11")
    facts = made.metrics["compression"]
    assert facts["share"] > 0.99
    assert 10.0 < facts["bits_per_weight"] < 11.5
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (base, made.path)]
    assert sizes[1] < 0.73 * sizes[0]
    ids = torch.arange(60)[None]
    for dtype in (torch.bfloat16, torch.float32):
        before, after = (AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
                         for folder in (base, made.path))  # fmt: skip
        for some in (ids, ids[:, :3]):  # the whole table, and a few of its chunks
            assert torch.equal(after(some).logits, before(some).logits)
    wrote = after.generate(ids[:, :4], max_new_tokens=4, do_sample=False)
    assert torch.equal(wrote, before.generate(ids[:, :4], max_new_tokens=4, do_sample=False))
    after.save_pretrained(tmp_path / "again")
    again = AutoModel.from_pretrained(tmp_path / "again", dtype=torch.bfloat16)  # without its head
    assert torch.equal(bits(again.layers[1].mlp.down_proj.weight),
                       bits(model.model.layers[1].mlp.down_proj.weight))  # fmt: skip
    assert zoo.load(made.path).config.model_type == "llama"


def test_weights_that_are_no_bf16_numbers_are_refused_or_cast(base, tmp_path, capsys):
    with pytest.raises(MismatchError, match=r"float32 and not made of bf16 numbers.*--cast"):
        zoo.compress(base, tmp_path / "no", method="dfloat11")
    assert not (tmp_path / "no" / "config.json").exists()
    made = zoo.compress(base, tmp_path / "yes", method="dfloat11", cast=True)
    rounded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(made.path, dtype="auto")
    weight = model.model.layers[2].self_attn.q_proj.weight
    assert torch.equal(bits(weight), bits(rounded.model.layers[2].self_attn.q_proj.weight))


def test_it_is_not_made_twice_nor_measured(coded, brain, text, tmp_path):
    with pytest.raises(MismatchError, match="give the model it was made from"):
        zoo.compress(coded, tmp_path / "no", method="dfloat11")
    with pytest.raises(MismatchError, match="holds a finished model"):
        zoo.compress(brain, coded, method="dfloat11")
    with pytest.raises(MismatchError, match="nothing to measure"):
        zoo.compress(brain, tmp_path / "no", method="dfloat11", test=text)


def test_damaged_files_are_refused(coded, tmp_path, rewrite):
    from safetensors.torch import load_file, save_file

    name = "model.layers.1.mlp.gate_proj"
    for part, place in (("stream", 7), ("starts", 1), ("lengths", 126), ("rest", 0)):
        folder = tmp_path / part
        shutil.copytree(coded, folder)
        tensors = load_file(folder / "model.safetensors")
        tensors[f"{name}.{part}"][place] += 1
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnsafeFileError, match=f"{name}: .*get the files again"):
            AutoModelForCausalLM.from_pretrained(folder)
    config = json.loads((coded / "config.json").read_text())
    facts = config["quantization_config"]
    for change in ({"format_version": 2}, {"streams": {**facts["streams"], name: -4}}):
        folder = tmp_path / f"config{len(change)}{next(iter(change))}"
        shutil.copytree(coded, folder)
        rewrite(folder / "config.json", quantization_config={**facts, **change})
        with pytest.raises(ZooError):
            AutoModelForCausalLM.from_pretrained(folder)
