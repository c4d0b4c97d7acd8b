"""GGUF files, judged by llama.cpp itself: the same integers, the same logits, the same tokens."""

import math

import gguf
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

import zoo
from tests.llm.llama_cpp import LlamaCpp
from tests.llm.small import FACTS, LINEAR, MODELS, PLAYS, byte_pairs, random_model
from zoo.cli import main
from zoo.deploy.gguf import convert
from zoo.deploy.language.blocks import blocks
from zoo.deploy.language.gguf_file import export
from zoo.deploy.language.weights import IntegerMatrix
from zoo.errors import MismatchError, MissingWeightsError


@pytest.fixture
def packed(tokens, tmp_path, capsys):
    """Return a function: options of `zoo compress` -> the folder of a packed model."""
    base = tmp_path / "base"

    def make(options, **changes):
        random_model("llama", **changes).save_pretrained(base)
        byte_pairs("gpt-2").save_pretrained(base)
        out = tmp_path / "packed"
        assert main(f"compress {base} --out {out} --license mit {options}".split()) == 0
        capsys.readouterr()
        return out

    return make


def distance(model, file, ids):
    """How far logarithms of probabilities in llama.cpp lie from the model's."""
    runtime = LlamaCpp(file)
    with torch.no_grad():
        wanted = torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)
    found = [runtime.log_probabilities(ids[:count], wanted.shape[1]) for count in (1, 7, len(ids))]
    return max(
        float((row - wanted[count - 1]).abs().max())
        for row, count in zip(found, (1, 7, len(ids)), strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_does(name, tokens, tmp_path):
    model = random_model(name)
    file = export(model, tokens, tmp_path / "tiny.gguf", facts=FACTS)
    assert file.max_abs_error == 0
    ids = [1, *torch.randint(2, 300, (39,)).tolist()]
    assert distance(model, file.path, ids) < MODELS[name][2]


@given(
    bits=st.integers(1, 8), span=st.sampled_from([32, 64, 96, 1000]), high=st.integers(0, 255),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_blocks_hold_the_numbers(bits, span, high, seed):
    draw, top = torch.Generator().manual_seed(seed), (1 << bits) - 1
    groups = math.ceil(192 / span)
    matrix = IntegerMatrix(
        codes=torch.randint(0, top + 1, (5, 192), generator=draw, dtype=torch.uint8),
        scale=torch.rand(5, groups, generator=draw).add(1e-4).half(),
        zero=torch.randint(0, min(high, top) + 1, (5, groups), generator=draw, dtype=torch.uint8),
        bits=bits,
        span=span,
    )
    try:
        kind, data = blocks(matrix, "w")
    except MismatchError as error:
        reason = str(error)
        kind, data = "", np.empty(0)
    if not kind:
        assert bits == 8
        assert "--bits 7" in reason
        return
    found = gguf.dequantize(data, gguf.GGMLQuantizationType[kind])
    exact = matrix.floats().numpy()
    if kind in ("Q4_1", "Q5_1"):
        least = (matrix.spread(matrix.scale.float() * matrix.zero.float())).numpy()
        bound = least * 2.0**-11 + 1e-6 * np.abs(exact) + 1e-6 * least + 2.0**-25
        assert (np.abs(found - exact) <= bound).all()
    else:
        assert np.array_equal(found, exact)
    assert bits > 3 or kind == "Q4_0"


@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        ("--method rtn --bits 3 --group-size 32", {"Q4_0"}),
        ("--method rtn --bits 4 --group-size 64 --embeddings 8", {"Q4_1", "Q8_0"}),
        ("--method rtn --bits 5 --group-size 32 --skip *mlp*", {"Q5_1"}),
        ("--method rtn --bits 6 --group-size 1000", {"Q8_0"}),
    ],
)
def test_packed_models_run_in_llama_cpp(options, kinds, packed, tmp_path, capsys):
    folder, file = packed(options), tmp_path / "packed.gguf"
    assert main(["export", str(folder), "--out", str(file)]) == 0
    said = capsys.readouterr().out
    assert str(file) in said
    assert all(kind in said for kind in kinds)
    reader = gguf.GGUFReader(file)
    found = {tensor.tensor_type.name for tensor in reader.tensors}
    assert found - {"F32"} == kinds
    assert reader.get_field("general.license").contents() == "mit"
    assert "messages" in reader.get_field("tokenizer.chat_template").contents()
    model = zoo.load(folder, dtype="float32")
    ids = [1, *torch.randint(2, 300, (29,)).tolist()]
    # llama.cpp rounds what it multiplies such matrices with to 8 bits, in blocks of 32
    assert distance(model, file, ids) < 0.35
    back = zoo.load(zoo.import_gguf(file, tmp_path / "back"))
    for name, part in model.named_modules():
        if name.endswith("_proj"):
            weight = part.weight.detach()
            least = float(weight.abs().max())
            torch.testing.assert_close(
                back.get_submodule(name).weight, weight, rtol=0, atol=least * 2.0**-11
            )


def test_what_it_generates_is_what_transformers_generates(packed, tmp_path):
    folder, file = packed("--method rtn --bits 6 --group-size 32"), tmp_path / "packed.gguf"
    zoo.export(folder, file)
    prompt = [1, 60, 70, 80, 90]
    model = zoo.load(folder, dtype="float32")
    with torch.no_grad():
        wanted = model.generate(torch.tensor([prompt]), max_new_tokens=4, do_sample=False)
    assert LlamaCpp(file).generate(prompt, 4) == wanted[0, len(prompt) :].tolist()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--method rtn --bits 4 --group-size 48", "--group-size 32 or 64"),
        ("--method rtn --bits 8 --group-size 32", "--bits 7"),
        ("--method gptvq-2d-3b --set iterations=1 --data {plays} --windows 1 --length 32",
         "has codebooks, which GGUF cannot hold"),
        ("--method gptq --bits 4 --group-size 32 --set act_order=true --data {plays} --windows 1 "
         "--length 32", "act_order"),
    ],
)  # fmt: skip
def test_what_a_block_cannot_hold_is_refused(options, reason, packed, tmp_path, capsys):
    folder, file = packed(options.format(plays=PLAYS), num_hidden_layers=1), tmp_path / "x.gguf"
    assert main(["export", str(folder), "--out", str(file)]) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not file.exists()


def test_odd_widths_are_refused(packed, tmp_path):
    folder = packed("--method rtn --bits 4", num_hidden_layers=1, intermediate_size=100)
    with pytest.raises(MismatchError, match=r"has 100 columns.*--skip '\*down_proj'"):
        zoo.export(folder, tmp_path / "x.gguf")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("llama", {"hidden_act": "gelu"}, "activation 'gelu'"),
        ("llama", {"rope_parameters": {**LINEAR, "rope_type": "dynamic"}}, "'dynamic'"),
        ("mistral", {"sliding_window": 64}, "sliding_window 64"),
        ("qwen3", {"attention_bias": True}, "attention_bias True"),
        ("gemma2", {"query_pre_attn_scalar": 16}, "query_pre_attn_scalar 16"),
        ("gemma3", {"layer_types": ["full_attention"] * 6}, "layer_types"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "every fourth"),
    ],
)
def test_configurations_that_llama_cpp_lacks_are_refused(name, changes, reason, tokens, tmp_path):
    with pytest.raises(MismatchError, match=reason):
        export(random_model(name, **changes), tokens, tmp_path / "x.gguf", facts=FACTS)
    assert not list(tmp_path.iterdir())


def test_other_models_and_folders_are_refused(tokens, tmp_path, capsys):
    config = transformers.OPTConfig(
        vocab_size=320, hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=64,
    )  # fmt: skip
    with pytest.raises(MismatchError, match=r"OPTForCausalLM is not written as GGUF.*Qwen3"):
        export(transformers.OPTForCausalLM(config), tokens, tmp_path / "x.gguf", facts=FACTS)
    model = random_model("llama", num_hidden_layers=1)
    with pytest.raises(MissingWeightsError, match=r"no tokenizer.json.*save_pretrained"):
        export(model, tmp_path, tmp_path / "x.gguf", facts=FACTS)
    small = random_model("llama", num_hidden_layers=1, vocab_size=100)
    with pytest.raises(MismatchError, match="another model's tokenizer"):
        export(small, tokens, tmp_path / "x.gguf", facts=FACTS)
    for words_, reason in {
        "export sesr-m3-x2 --format gguf": "is no language model",
        f"export {tmp_path} --format gguf --out x.tflite": "named like tflite",
        f"export {tmp_path} --out x.ggml": "gguf (.gguf)",
        f"export {tmp_path} --format gptq --out x.gguf": "named like gguf",
        f"export {tmp_path} --format awq --out x": "known: onnx, tflite, c, gguf, gptq",
    }.items():
        assert main(words_.split()) == 1
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
    with pytest.raises(MismatchError, match="takes no --int8"):
        zoo.export(tmp_path, tmp_path / "x.gguf", int8=True)
    with pytest.raises(MismatchError, match="a module"):
        zoo.export(model, tmp_path / "x.gguf")


def test_damaged_files_are_refused(tokens, tmp_path, capsys):
    file = export(random_model("llama"), tokens, tmp_path / "x.gguf", facts=FACTS).path
    data = file.read_bytes()
    for place in (40, len(data) // 2):
        (tmp_path / "cut.gguf").write_bytes(data[:place])
        assert main(f"import {tmp_path}/cut.gguf --out {tmp_path}/back".split()) == 1
        said = capsys.readouterr().err
        assert "cut.gguf" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "back").exists()
    for word in (b"blk.3.ffn_up.weight", b"general.architecture"):
        (tmp_path / "cut.gguf").write_bytes(data.replace(word, word[:-1] + b"x"))
        assert main(f"import {tmp_path}/cut.gguf --out {tmp_path}/back".split()) == 1
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "what"),
    [("llama-3", "rope_freqs"), ("qwen2-yarn", "scaled"), ("llama-biases", "bias")],
)
def test_what_transformers_would_not_read_is_refused(name, what, tokens, tmp_path):
    file = export(random_model(name), tokens, tmp_path / "x.gguf", facts=FACTS).path
    with pytest.raises(MismatchError, match=what):
        convert(file, tmp_path / "back")
