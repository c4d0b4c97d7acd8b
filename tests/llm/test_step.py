"""Single tokens through compiled code: what a model answers, its cache, and when it must itself."""

import copy
import shutil

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from transformers import (  # noqa: E402
    DynamicCache,
    LlamaForCausalLM,
    MistralForCausalLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from zoo.quantization import embeddings  # noqa: E402
from zoo.quantization.core import quantize_matrix  # noqa: E402
from zoo.quantization.kernels import int8, matvec  # noqa: E402
from zoo.quantization.kernels.decoder import TokenStep  # noqa: E402
from zoo.quantization.language import step  # noqa: E402
from zoo.quantization.language.step import quicken  # noqa: E402
from zoo.quantization.options import LayerOptions  # noqa: E402
from zoo.quantization.packed import PackedLinear, set_cache  # noqa: E402

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on the PATH")

SIZES = {
    "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 2048,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
INT8 = LayerOptions(method="rtn", bits=4, group_size=32, activations="int8")
ORDERED = LayerOptions(method="gptq", bits=4, activations="int8", act_order=True)
TABLE = LayerOptions(method="rtn", bits=4, grid="posit4", activations="int8")
PLANES = LayerOptions(bits=3, dim=2, group_size=512, iterations=1)
ENTRIES = LayerOptions(bits=3, dim=2, group_size=512, iterations=1, activations="int8")
KINDS = {
    "llama": (LlamaForCausalLM, {"tie_word_embeddings": True}),
    "llama3": (LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True, "rope_parameters": {
        "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
    "mistral": (MistralForCausalLM, {"sliding_window": None, "head_dim": 24}),
    "qwen2": (Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3ForCausalLM, {"head_dim": 16}),
}  # fmt: skip


def made(kind: str = "llama", dtype: torch.dtype = torch.float32, **more: object) -> nn.Module:
    cls, changes = KINDS[kind]
    torch.manual_seed(1)
    config = cls.config_class(**{**SIZES, **changes, **more})
    model = cls(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():  # biases and norms too
            value.copy_(torch.randn_like(value) * (0.2 if value.ndim > 1 else 0.1))
            if "norm" in name:
                value.add_(1)
    return model.to(dtype)


def packed(options: LayerOptions, *, rows: bool = False, **more: object) -> nn.Module:
    """The model with its layers packed, and embedding and head too."""
    model = made(**more)
    for name, layer in list(model.model.layers.named_modules()):
        if isinstance(layer, nn.Linear):
            columns = layer.in_features
            seen = torch.randn(200, columns)
            matrix = quantize_matrix(layer.weight.float(), seen.T @ seen, options)
            model.model.layers.set_submodule(name, PackedLinear.of(matrix, layer.bias))
    if rows:
        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        stored = [embeddings.quantize_rows(part.weight) for part in (table, head)]
        tied = bool(model.config.tie_word_embeddings)
        embeddings.pack(model, tied=tied)
        model.get_input_embeddings().load_state_dict(stored[0], assign=True)
        model.get_input_embeddings().like = torch.empty(0, dtype=model.dtype)
        if not tied:
            model.get_output_embeddings().load_state_dict(stored[1], assign=True)
    return model


@torch.no_grad()
def answers(model: nn.Module, tokens: int = 5) -> Tensor:
    """The logits of tokens, one after the other, after a prompt of three."""
    ids = torch.tensor([[5, 7, 60]])
    out = model(ids, use_cache=True)
    logits = []
    for token in range(tokens):
        last = torch.tensor([[token * 11 % 61]])
        out = model(input_ids=last, past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits[0, -1])
    return torch.stack(logits).float()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The positions at which compiled code was asked."""
    asked: list[int] = []
    plain = TokenStep.__call__

    def counted(self: TokenStep, x: Tensor, position: int, *rooms: Tensor) -> Tensor:
        asked.append(position)
        return plain(self, x, position, *rooms)

    monkeypatch.setattr(TokenStep, "__call__", counted)
    return asked


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_answers_what_the_model_answers(kind, threads, steps):
    model = made(kind)
    expected = answers(model)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert quicken(model)
        steps.clear()
        torch.testing.assert_close(answers(model), expected, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(before)
    assert steps == [3, 4, 5, 6, 7]
    assert quicken(model)  # again: it is already
    assert torch.equal(answers(model), answers(model))


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "options",
    [INT8, ORDERED, TABLE, PLANES, ENTRIES],
    ids=["int8", "ordered", "table", "planes", "entries"],
)
def test_packed_weights_are_multiplied_as_they_are(options, tied, rows, steps):
    model = packed(options, rows=rows, tie_word_embeddings=tied)
    expected = answers(model)
    assert quicken(model)
    steps.clear()
    found = answers(model)
    # An input of 8 bits that falls on the other side of a half moves a little more.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-2)
    assert (found - expected).norm() < 3e-3 * expected.norm()
    assert len(steps) == 5


def test_bfloat16_has_hidden_states_of_float32(steps):
    model = made(dtype=torch.bfloat16)
    exact = answers(copy.deepcopy(model).float())
    own = answers(model)
    assert quicken(model)
    steps.clear()
    found = answers(model)
    assert len(steps) == 5
    assert (found - exact).norm() <= (own - exact).norm()
    cache = DynamicCache()
    with torch.no_grad():
        model(torch.tensor([[1, 2]]), past_key_values=cache)
        out = model(input_ids=torch.tensor([[3]]), past_key_values=cache)
    assert out.logits.dtype == cache.layers[1].keys.dtype == torch.bfloat16


def test_text_is_that_of_transformers(steps):
    model = packed(INT8, rows=True)
    ids = torch.tensor([[1, 2, 3]])
    for options in ({}, {"repetition_penalty": 1.3}, {"do_sample": True, "temperature": 0.7}):
        texts = []
        for compiled in (False, True):
            other = copy.deepcopy(model)
            assert not compiled or quicken(other)
            steps.clear()
            torch.manual_seed(0)
            texts.append(other.generate(ids, max_new_tokens=12, **{"do_sample": False, **options}))
            assert len(steps) == (11 if compiled else 0)
        assert torch.equal(*texts)


@torch.no_grad()
def test_a_cache_stays_that_of_transformers(monkeypatch, steps):
    monkeypatch.setattr(step, "AHEAD", 2)  # grows soon
    model, own = made(), made()
    assert quicken(model)
    steps.clear()
    caches = DynamicCache(), DynamicCache()
    generator = torch.Generator().manual_seed(3)
    for count in (4, 1, 1, 1, 1, 3, 1, -2, 1, 1, 5, 1):
        if count < 0:
            for cache in caches:
                cache.crop(count)
            continue
        ids = torch.randint(0, 61, (1, count), generator=generator)
        found, expected = (
            m(input_ids=ids, past_key_values=c).logits
            for m, c in zip((model, own), caches, strict=True)
        )
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert caches[0].get_seq_length() == caches[1].get_seq_length()
        for a, b in zip(*(cache.layers for cache in caches), strict=True):
            torch.testing.assert_close(a.keys, b.keys, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(a.values, b.values, rtol=1e-4, atol=1e-4)
    assert steps == [4, 5, 6, 7, 11, 10, 11, 17]


@torch.no_grad()
def test_copies_of_a_cache_part(steps):
    model = made()
    assert quicken(model)
    cache = DynamicCache()
    model(torch.tensor([[1, 2, 3]]), past_key_values=cache)
    model(input_ids=torch.tensor([[4]]), past_key_values=cache)
    other = copy.deepcopy(cache)
    one = model(input_ids=torch.tensor([[5]]), past_key_values=cache).logits
    model(input_ids=torch.tensor([[9]]), past_key_values=other)
    two = model(input_ids=torch.tensor([[6]]), past_key_values=cache).logits
    again = made()(torch.tensor([[1, 2, 3, 4, 5, 6]])).logits
    torch.testing.assert_close(torch.cat([one, two], 1), again[:, 4:], rtol=1e-4, atol=1e-4)


def test_weights_that_change_are_seen(steps):
    model = packed(INT8)
    assert quicken(model)
    assert quicken(other := copy.deepcopy(model)) is True
    for change in (
        lambda m: m.model.norm.weight.data.mul_(2),
        lambda m: m.model.layers[0].input_layernorm.weight.mul_(0.5),
        lambda m: m.model.layers[1].mlp.up_proj.codes.bitwise_xor_(3),
        lambda m: m.model.layers[1].self_attn.set_submodule("o_proj", nn.Linear(48, 48)),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to(torch.float32),
    ):
        torch.manual_seed(5)
        with torch.no_grad():
            change(model)
        plain = copy.deepcopy(model)
        vars(plain).pop("forward")
        found, expected = answers(model), answers(plain)
        near = 0.05 if model.dtype == torch.bfloat16 else 3e-3
        assert (found - expected).norm() < near * expected.norm()
    assert vars(other)["_zoo_quick"] is not vars(model)["_zoo_quick"]


def test_what_asks_for_more_goes_the_way_of_before(steps):
    model = made()
    assert quicken(model)
    steps.clear()
    last = {"input_ids": torch.tensor([[3]]), "use_cache": True}
    with torch.no_grad():
        kept = model(torch.tensor([[1, 2]]), use_cache=True).past_key_values
    model(**last, past_key_values=copy.deepcopy(kept))  # with gradients
    with torch.no_grad():
        states = model(**last, past_key_values=copy.deepcopy(kept), output_hidden_states=True)
        assert len(states.hidden_states) == 3
        assert model(**last, past_key_values=copy.deepcopy(kept), return_dict=False)[0].ndim == 3
        assert model(**last, past_key_values=copy.deepcopy(kept), labels=last["input_ids"]).loss
        hidden = torch.tensor([[0, 1, 1]])
        model(**last, past_key_values=copy.deepcopy(kept), attention_mask=hidden)
        model(last["input_ids"], past_key_values=copy.deepcopy(kept))
        model(**last)
        model(torch.tensor([[1], [2]]), use_cache=True)
        seen: list[nn.Module] = []
        handle = model.model.layers[0].mlp.up_proj.register_forward_hook(
            lambda module, *_: seen.append(module)
        )
        model(**last, past_key_values=copy.deepcopy(kept))
        handle.remove()
        assert len(seen) == 1
        assert not steps
        model(**last, past_key_values=copy.deepcopy(kept))
        assert steps == [2]
        model.train()
        model(**last, past_key_values=copy.deepcopy(kept))
        assert steps == [2]


def test_models_that_have_no_such_step(monkeypatch):
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 32}
    assert not quicken(GPT2LMHeadModel(GPT2Config(**sizes)).eval())
    assert not quicken(made(hidden_act="gelu"))
    assert not quicken(made("mistral", sliding_window=8))
    assert not quicken(
        made("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=0)
    )
    assert not quicken(made(dtype=torch.float16))
    assert not quicken(
        made(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2})
    )
    decoded = packed(INT8)
    set_cache(decoded, "decoded")
    assert not quicken(decoded)
    odd = packed(LayerOptions(method="rtn", bits=4))  # inputs in floats: decoded in torch
    assert not quicken(odd)

    class Other(LlamaForCausalLM):
        """Of the name of another."""

    Other.__name__ = "LlamaForCausalLM"
    assert not quicken(Other(made().config).eval())
    scaled, other = made(), made()
    scaled.model.layers[1].self_attn.scaling *= 3
    assert not quicken(scaled)
    other.model.layers[1].mlp.act_fn = nn.Tanh()  # not what the configuration says
    assert not quicken(other)
    assert "forward" not in vars(other)
    monkeypatch.setattr(matvec, "library", lambda: None)
    assert not quicken(made())


@pytest.mark.parametrize("span", [1, 32, 33, 100, 1000])
def test_inputs_are_rounded_as_in_torch(span):
    torch.manual_seed(0)
    x = torch.randn(6, 100)
    x[1], x[2, 3], x[3, 4], x[4] = 0, torch.nan, -torch.inf, 1e-41
    x[5] = (torch.arange(100) - 50.5).clamp(max=127 / 2)
    x[5, 0] = 127.0  # halves: ties to even
    found, expected = int8.inputs(x, span), int8.inputs_in_torch(x, span)
    assert torch.equal(found[0], expected[0])
    assert found[1].shape == (6, -(-100 // span))
    assert torch.equal(found[1].isnan(), expected[1].isnan())
    assert torch.equal(found[1].nan_to_num(), expected[1].nan_to_num())
    assert found[1].isnan().any(1).tolist() == [False, False, True, True, False, False]
