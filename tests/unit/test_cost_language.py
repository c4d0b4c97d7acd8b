"""Language models by their sizes: weights, caches, tokens a second."""

import json
from pathlib import Path

import pytest

import zoo
from zoo import cost
from zoo.cost import Decoder
from zoo.cost.estimators.llm import token_ms
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
    assert [op.kind for op in short.ops] == ["prefill", "decode"]
    assert long.ops[0].latency_ms > short.ops[0].latency_ms
    assert long.ops[0].bound == "compute"
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
    LlamaForCausalLM(config).save_pretrained(tmp_path / "tiny")
    given = zoo.estimate(tmp_path / "tiny", "galaxy-s24-executorch")
    assert given.total_parameters == 2 * (2 * 32 * 8 * 6 + 3 * 32 * 64) + 2 * 128 * 32
