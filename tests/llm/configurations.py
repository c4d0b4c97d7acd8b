"""Thirty-one tiny models of transformers: what the guide's table of configurations is made of.

`python tests/llm/configurations.py` prints the table; with a folder of packed models, it opens each
as its users do, and prints the distances of its logits from those stored beside it.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as t

COMMON = {"vocab_size": 256, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **COMMON}
LLAMA = {"intermediate_size": 64, "num_key_value_heads": 2, **SMALL}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **COMMON}
GEMMA = {**LLAMA, "head_dim": 8, "pad_token_id": 0}
OPT = {"hidden_size": 32, "num_hidden_layers": 2, "ffn_dim": 64, "num_attention_heads": 4,
       "max_position_embeddings": 64, **{**COMMON, "pad_token_id": 1}}  # fmt: skip
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
DEEPSEEK = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
            "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 32,
            "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
            "v_head_dim": 8, "num_key_value_heads": 4}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4, "image_size": 16, "patch_size": 8}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A configuration: the class that opens it, its making, an input, and what it is."""

    auto: str
    config: Callable[[], Any]
    inputs: Callable[[], dict[str, torch.Tensor]]
    kind: str = "decoder"

    def model(self) -> Any:
        """Return the model with random weights."""
        torch.manual_seed(0)
        return getattr(t, self.auto).from_config(self.config()).eval()


def ids(length: int = 40) -> torch.Tensor:
    """Return tokens (1, length)."""
    return torch.randint(2, 250, (1, length), generator=torch.Generator().manual_seed(1))


def picture(size: int = 16) -> torch.Tensor:
    """Return a picture (1, 3, size, size)."""
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))


def _text() -> dict[str, torch.Tensor]:
    return {"input_ids": ids()}


def _pair() -> dict[str, torch.Tensor]:
    return {"input_ids": ids(), "decoder_input_ids": ids(12)}


def _speech() -> dict[str, torch.Tensor]:
    sound = torch.rand(1, 8, 64, generator=torch.Generator().manual_seed(3))
    return {"input_features": sound, "decoder_input_ids": ids(12)}


def _picture_and_text(count: int) -> dict[str, torch.Tensor]:
    tokens = ids()
    tokens[0, :count] = 255  # the places of the picture's parts
    return {"input_ids": tokens, "pixel_values": picture()}


def _lm(kind: str, settings: dict[str, Any], family: str = "decoder") -> Case:
    return Case("AutoModelForCausalLM", lambda: getattr(t, kind)(**settings), _text, family)


def _whisper() -> Any:
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = {**COMMON, "pad_token_id": 0, "decoder_start_token_id": 1}
    return t.WhisperConfig(d_model=32, num_mel_bins=8, max_source_positions=32,
                           max_target_positions=64, **sizes, **heads, **tokens)  # fmt: skip


def _llava() -> Any:
    return t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(**LLAMA),
        image_token_index=255,
    )


def _gemma3() -> Any:
    return t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**VISION).to_dict(),
        text_config=t.Gemma3TextConfig(**GEMMA).to_dict(),
        image_token_index=255,
        mm_tokens_per_image=4,
    )


CASES = {
    "Llama": _lm("LlamaConfig", LLAMA),
    "Llama, tied": _lm("LlamaConfig", {**LLAMA, "tie_word_embeddings": True}),
    "Qwen2": _lm("Qwen2Config", LLAMA),
    "Qwen3": _lm("Qwen3Config", {**LLAMA, "head_dim": 8}),
    "Gemma2": _lm("Gemma2Config", GEMMA),
    "Gemma3": _lm("Gemma3TextConfig", GEMMA),
    "Phi": _lm("PhiConfig", LLAMA),
    "Phi3": _lm("Phi3Config", LLAMA),
    "Mistral": _lm("MistralConfig", LLAMA),
    "Mixtral": _lm("MixtralConfig", {**LLAMA, "num_local_experts": 4}, "mixture"),
    "Qwen2-MoE": _lm("Qwen2MoeConfig", {**LLAMA, **MOE, "shared_expert_intermediate_size": 32},
                     "mixture"),
    "Qwen3-MoE": _lm("Qwen3MoeConfig", {**LLAMA, **MOE, "head_dim": 8}, "mixture"),
    "DeepSeek-V3": _lm("DeepseekV3Config", {**LLAMA, **DEEPSEEK}, "mixture"),
    "OPT": _lm("OPTConfig", OPT),
    "OPT, projected": _lm("OPTConfig", {**OPT, "word_embed_proj_dim": 16}),
    "GPT-2": _lm("GPT2Config", GPT),
    "GPT-NeoX": _lm("GPTNeoXConfig", {**SMALL, "intermediate_size": 64}),
    "GPTBigCode": _lm("GPTBigCodeConfig", GPT),
    "Bloom": _lm("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **COMMON}),
    "Falcon": _lm("FalconConfig", SMALL),
    "Granite": _lm("GraniteConfig", LLAMA),
    "OLMo2": _lm("Olmo2Config", LLAMA),
    "SmolLM3": _lm("SmolLM3Config", LLAMA),
    "LFM2": _lm("Lfm2Config", {**LLAMA, "layer_types": ["conv", "full_attention"]}),
    "Mamba": _lm("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8,
                                 **COMMON}),
    "BERT": Case("AutoModelForMaskedLM",
                 lambda: t.BertConfig(**{**SMALL, "intermediate_size": 64, "pad_token_id": 0}),
                 _text, "encoder"),
    "T5": Case("AutoModelForSeq2SeqLM",
               lambda: t.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
                                  vocab_size=256, decoder_start_token_id=0),
               _pair, "encoder-decoder"),
    "ViT": Case("AutoModelForImageClassification", lambda: t.ViTConfig(**VISION),
                lambda: {"pixel_values": picture()}, "vision"),
    "Whisper": Case("AutoModelForSpeechSeq2Seq", _whisper, _speech, "encoder-decoder"),
    "LLaVA": Case("AutoModelForImageTextToText", _llava, lambda: _picture_and_text(4),
                  "vision-language"),
    "Gemma3-VL": Case("AutoModelForImageTextToText", _gemma3, lambda: _picture_and_text(4),
                      "vision-language"),
}  # fmt: skip


def answer(model: Any, case: Case) -> torch.Tensor:
    """Return the model's logits."""
    with torch.no_grad():
        logits: torch.Tensor = model(**case.inputs()).logits
    return logits


def compressed(name: str, folder: Path) -> str:
    """Save the model of a case, compress it into `folder / "packed"`; return its row of the table.

    The packed model's logits and the float model's are stored beside it.
    """
    from zoo.quantization.language import opening, whole
    from zoo.quantization.language.job import compress_model
    from zoo.quantization.language.source import Source
    from zoo.quantization.options import LayerOptions
    from zoo.quantization.plan import QuantizationPlan

    case, plan = CASES[name], QuantizationPlan(options=LayerOptions(method="rtn", bits=4))
    model = case.model()
    model.save_pretrained(folder / "model")
    report = compress_model(folder / "model", folder / "packed", plan, device="cpu")
    packed = opening.load(folder / "packed", dtype=torch.float32)
    torch.save({"packed": answer(packed, case), "float": answer(model, case)}, folder / EXPECTED)
    how = "whole" if whole.is_whole(Source(folder / "model"), plan) else "block by block"
    return f"| {name} | `{type(model).__name__}` | {case.kind} | {how} | {len(report['layers'])} |"


def opened(folders: Path) -> dict[str, tuple[float, float]]:
    """Return how far each model's logits are from those that were stored, and from the float's."""
    import zoo.quantization  # noqa: F401  # as the guide says: it makes transformers know them

    found = {}
    for index, (name, case) in enumerate(CASES.items()):
        folder = folders / str(index)
        if not (folder / "packed").is_dir():
            continue
        model = getattr(t, case.auto).from_pretrained(folder / "packed")
        logits, expected = answer(model, case), torch.load(folder / EXPECTED, weights_only=True)
        stored, plain = (
            float((logits - expected[key]).norm() / expected[key].norm())
            for key in ("packed", "float")
        )
        found[name] = stored, plain
    return found


EXPECTED = "expected.pt"
HEADER = """\
| configuration | class | kind | packed | layers of two blocks |
|---|---|---|---|---:|
"""


def table() -> str:
    """Return the guide's table: what was packed, how, and how many layers."""
    rows = []
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(compressed(name, Path(folder)))
    return HEADER + "\n".join(rows)


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]))) if sys.argv[1:] else table())
