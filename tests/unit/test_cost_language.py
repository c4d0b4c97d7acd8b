"""Language models by their sizes: weights, caches, tokens a second."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import zoo
from zoo import cost
from zoo.cost import Decoder
from zoo.cost.estimators.llm import token_ms
from zoo.cost.language_graph import decoder_graph
from zoo.errors import MismatchError

LLAMA_3 = Decoder.of_config(
    "Llama-3-8B",
    {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    },
    bits_per_weight=4.125, output_bits=8,
)  # fmt: skip


def test_the_sizes_of_llama_3_8b() -> None:
    # Its card: 8.03 B parameters (norms are 0.3 M of them); 128 KiB of keys and values a token.
    assert LLAMA_3.parameters == pytest.approx(8.03e9, rel=1e-3)
    assert LLAMA_3.cache_bytes(1) == 128 * 1024
    assert LLAMA_3.cache_bytes(1000, bits=8) == 1000 * 64 * 1024
    tied = Decoder.of_config(
        "SmolLM2-135M",
        {
            "num_hidden_layers": 30, "hidden_size": 576, "intermediate_size": 1536,
            "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
    )  # fmt: skip
    assert tied.parameters == pytest.approx(134.5e6, rel=1e-3)


def test_a_token_reads_all_weights_and_the_cache() -> None:
    device = cost.target("galaxy-s24-executorch")
    speed = device.get("bytes_per_s") or 0.0
    assert token_ms(LLAMA_3, device, 0) == pytest.approx(1e3 * LLAMA_3.read_bytes / speed)
    more = token_ms(LLAMA_3, device, 1000) - token_ms(LLAMA_3, device, 0)
    assert more == pytest.approx(1e3 * 1000 * 128 * 1024 / speed)


def test_a_codebook_costs_time_of_its_own() -> None:
    # GPTVQ's table 1: 3.52 GB, 26.15 tokens a second; bytes alone would give 29.3.
    sizes = {**vars(LLAMA_3), "bits_per_weight": 3.434, "codebook": True}
    device = cost.target("phone-llm-gptvq")
    rate = 1e3 / token_ms(Decoder(**sizes), device, 0)
    assert rate == pytest.approx(26.15, rel=0.02)
    assert 1e3 / token_ms(Decoder(**{**sizes, "codebook": False}), device, 0) > 28.5


def test_an_adapter_that_is_not_fused_is_read_with_every_token() -> None:
    device = cost.target("galaxy-s24-executorch")
    beside = Decoder(**{**vars(LLAMA_3), "adapter_bytes": 80_000_000})
    slower = token_ms(beside, device, 0) / token_ms(LLAMA_3, device, 0)
    assert slower == pytest.approx(1 + 80e6 / LLAMA_3.read_bytes)


def test_a_request_is_priced_whole() -> None:
    device = cost.target("galaxy-s24-executorch")
    short = cost.estimate(LLAMA_3, device, prompt_tokens=32, new_tokens=64)
    long = cost.estimate(LLAMA_3, device, prompt_tokens=512, new_tokens=10)
    assert (short.method, short.bound) == ("llm", "dram")
    place = next(n for n, op in enumerate(short.ops) if op.module.endswith("mlp.up_proj"))
    assert long.ops[place].latency_ms > short.ops[place].latency_ms
    assert long.ops[place].bound == "compute"
    assert short.weight_bytes == LLAMA_3.packed_bytes
    assert "tokens a second" in short.notes[-1]
    json.dumps(short.to_json(), allow_nan=False)


def test_what_is_no_language_model_is_told_so() -> None:
    with pytest.raises(MismatchError, match=r"expected the config\.json of a decoder"):
        Decoder.of_config("x", {"hidden_size": 8, "num_attention_heads": 2})
    with pytest.raises(MismatchError, match="layers is 0"):
        Decoder(**{**vars(LLAMA_3), "layers": 0})
    with pytest.raises(MismatchError, match="take method llm and a target for it"):
        cost.estimate(LLAMA_3, cost.target("ethos-u55-128"), method="roofline")
    with pytest.raises(MismatchError, match="at least 1 and 0"):
        cost.estimate(LLAMA_3, cost.target("galaxy-s24-executorch"), prompt_tokens=0)


def test_a_folder_of_transformers_is_priced_by_its_config(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "tiny")
    given = zoo.estimate(tmp_path / "tiny", "galaxy-s24-executorch")
    assert given.total_parameters == sum(p.numel() for p in model.parameters())
    assert given.dtype == "32 bits"


LLAMA = {
    "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "vocab_size": 101, "max_position_embeddings": 64,
}  # fmt: skip
ROLES = {  # the fused layer of GPT-NeoX is queries, keys and values
    "q_proj": ["q_proj"], "k_proj": ["k_proj"], "v_proj": ["v_proj"], "o_proj": ["o_proj"],
    "gate_proj": ["gate_proj"], "up_proj": ["up_proj"], "down_proj": ["down_proj"],
    "lm_head": ["lm_head"], "embed_out": ["lm_head"], "dense": ["o_proj"],
    "query_key_value": ["q_proj", "k_proj", "v_proj"],
    "dense_h_to_4h": ["up_proj"], "dense_4h_to_h": ["down_proj"],
}  # fmt: skip


def tiny(kind: str) -> Any:
    """Return a small random model of transformers, whose attention can be looked at."""
    transformers = pytest.importorskip("transformers")
    shared = {} if kind == "GPTNeoX" else {"num_key_value_heads": 2}
    if kind == "Qwen3":
        shared["head_dim"] = 16
    made = getattr(transformers, f"{kind}Config")(**LLAMA, **shared)
    made._attn_implementation = "eager"
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}ForCausalLM")(made).eval()


def counted(model: Any, tokens: int, past: int) -> tuple[Counter[str], Counter[str]]:
    """Return multiply-accumulates and weights by role, as a pass of the module has them."""
    macs: Counter[str] = Counter()
    weights: Counter[str] = Counter()

    def seen(name: str) -> Callable[..., None]:
        def hook(layer: torch.nn.Linear, given: tuple[torch.Tensor], out: torch.Tensor) -> None:
            role = ROLES[name.split(".")[-1]]
            macs[role[0]] += out.numel() * layer.in_features
            weights[role[0]] += layer.weight.numel()

        return hook

    cache = None
    with torch.no_grad():
        if past:
            cache = model(torch.zeros(1, past, dtype=torch.long), use_cache=True).past_key_values
        for name, layer in model.named_modules():
            if isinstance(layer, torch.nn.Linear):
                layer.register_forward_hook(seen(name))
        out = model(
            torch.zeros(1, tokens, dtype=torch.long), past_key_values=cache, logits_to_keep=1,
            output_attentions=True,
        )  # fmt: skip
    width = getattr(model.config, "head_dim", None) or 32 // 4
    allowed = sum(int((a > 0).sum()) for a in out.attentions)
    macs |= {"scores": allowed * width, "context": allowed * width}
    return macs, weights


@pytest.mark.parametrize("kind", ["Llama", "Qwen2", "Qwen3", "GPTNeoX"])
@pytest.mark.parametrize(("tokens", "past"), [(7, 0), (1, 9), (3, 5)])
def test_operators_are_what_transformers_computes(kind: str, tokens: int, past: int) -> None:
    model = tiny(kind)
    sizes = Decoder.of_config(kind, model.config.to_dict(), bits_per_weight=8, output_bits=4)
    graph = decoder_graph(sizes, tokens, past)
    macs: Counter[str] = Counter()
    read: Counter[str] = Counter()
    for op in graph.ops:
        role = op.module.split(".")[-1]
        if kind == "GPTNeoX" and role in ("k_proj", "v_proj"):
            role = "q_proj"
        macs[role] += op.macs
        read[role] += op.attributes["encoded_bytes"]
    wanted, weights = counted(model, tokens, past)
    assert {role: n for role, n in macs.items() if n} == dict(wanted)
    for role, count in weights.items():
        assert read[role] == count * (0.5 if role == "lm_head" else 1), role
    caches = sum(op.attributes["cache_bytes"] for op in graph.ops)
    assert caches == sizes.cache_bytes(past)
    ours = sum(t.elements for t in graph.tensors.values() if t.kind == "weight")
    assert ours == sum(weights.values())


def test_the_rows_of_a_request_are_its_operators() -> None:
    device = cost.target("galaxy-s24-executorch")
    found = cost.estimate(LLAMA_3, device, prompt_tokens=128, new_tokens=32)
    assert sum(op.latency_ms for op in found.ops) == pytest.approx(found.latency_ms)
    assert sum(op.macs for op in found.ops) == found.macs
    bounds = {op.module: op.bound for op in found.ops}
    assert bounds["prompt: layers.*.mlp.up_proj"] == "compute"  # 128 tokens share the weights
    assert bounds["new tokens: layers.*.mlp.up_proj"] == "dram"
    assert bounds["prompt: lm_head"] == "dram"  # of the last token alone


def test_a_packed_folder_is_priced_by_its_bytes(tmp_path: Path) -> None:
    config = {"model_type": "llama", **LLAMA, "num_key_value_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plain = Decoder.of_folder("x", tmp_path)
    assert plain.bits_per_weight == 16
    codes = {f"model.layers.{n}.w.codes": plain.layer_weights // 3 // 2 for n in range(3)}
    head = {"lm_head.weight": 101 * 32, "model.embed_tokens.weight": 101 * 64}
    save_file(
        {k: np.zeros(n, np.uint8) for k, n in (codes | head).items()},
        tmp_path / "model.safetensors",
    )
    packed = Decoder.of_folder("x", tmp_path)
    assert (packed.bits_per_weight, packed.output_bits, packed.codebook) == (4, 8, False)
    assert not packed.tied
    alone = {"model.embed_tokens.codes": 101 * 64}  # the output layer too
    save_file(
        {k: np.zeros(n, np.uint8) for k, n in (codes | alone).items()},
        tmp_path / "model.safetensors",
    )
    assert Decoder.of_folder("x", tmp_path).tied
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(MismatchError, match="or damaged"):
        Decoder.of_folder("x", tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(MismatchError):
        Decoder.of_folder("x", tmp_path)


def test_heads_that_do_not_share_evenly_are_refused() -> None:
    with pytest.raises(MismatchError, match="6 heads share 4 keys"):
        Decoder(**{**vars(LLAMA_3), "heads": 6, "kv_heads": 4})


def test_mixtures_of_experts_are_refused() -> None:
    with pytest.raises(MismatchError, match="num_local_experts 8"):
        Decoder.of_config("mix", {**LLAMA, "num_local_experts": 8})


def test_a_config_that_names_its_sizes_otherwise_is_named_with_what_to_give() -> None:
    config = {"model_type": "gpt2", "n_head": 12, "n_embd": 768, "n_layer": 12}
    with pytest.raises(MismatchError, match=r"gpt2\) has no 'num_attention.*zoo\.cost\.Decoder"):
        Decoder.of_config("mine", config)
