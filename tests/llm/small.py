"""Small random language models, and tokenizers, of every kind that GGUF files are written of."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from zoo.deploy.language import words

FACTS = {"recipe": "tiny", "license": "apache-2.0"}
PLAYS = Path(__file__).parents[2] / "docs" / "samples" / "text" / "plays.txt"
SENTENCES = [
    "Hello world, 2024 costs 12.5% of 100,000!",
    "  def f(x):\n\t\treturn x**2\n\n\n",
    "I'll can't WE'RE naïve café 你好世界 😀😀  end   ",
    "\r\n\r\n a\n b ... <|end|>x",
    "ünïcödé ٣٤٥ ½ 1234567 x1y2 foo_bar __init__ 'S 's'D",
    " leading",
    "\u00a0nbsp\u2003em a\u0301b ⅷ x² 3²",
]
SMALL = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
    "rope_theta": 10000.0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64, "rope_theta": 500000.0,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
PART = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}
PHI = {"sliding_window": None, "original_max_position_embeddings": 256}
MULTIPLIERS = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
    "attention_multiplier": 0.2,
}  # fmt: skip
# Name: configuration, what is unusual, and how far logits may lie apart: the GELU of llama.cpp is a
# table of 16-bit numbers.
MODELS: dict[str, tuple[str, dict[str, Any], float]] = {
    "llama": ("LlamaConfig", {}, 1e-4),
    "llama-tied": ("LlamaConfig", {"tie_word_embeddings": True}, 1e-4),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}, 1e-4),
    "llama-3": ("LlamaConfig", {"rope_parameters": LLAMA3}, 1e-4),
    "llama-linear": ("LlamaConfig", {"rope_parameters": LINEAR}, 1e-4),
    "llama-yarn": ("LlamaConfig", {"rope_parameters": YARN}, 1e-4),
    "llama-head": ("LlamaConfig", {"head_dim": 32}, 1e-4),
    "mistral": ("MistralConfig", {"sliding_window": None}, 1e-4),
    "qwen2": ("Qwen2Config", {}, 1e-4),
    "qwen2-yarn": ("Qwen2Config", {"rope_parameters": YARN}, 1e-4),
    "qwen3": ("Qwen3Config", {"head_dim": 32}, 1e-4),
    "gemma2": ("Gemma2Config", GEMMA, 5e-3),
    "gemma3": ("Gemma3TextConfig", {**GEMMA, "num_hidden_layers": 6}, 5e-3),
    "phi3": ("Phi3Config", PHI, 1e-4),
    "phi3-part": ("Phi3Config", {**PHI, "rope_parameters": PART}, 1e-4),
    "smollm3": ("SmolLM3Config", {}, 1e-4),
    "granite": ("GraniteConfig", MULTIPLIERS, 1e-4),
    "olmo2": ("Olmo2Config", {"vocab_size": 333}, 1e-4),
}


def random_model(name: str, **changes: Any) -> Any:
    """A small model whose vectors, too, are not what they are at first."""
    kind, unusual, _ = MODELS[name]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**SMALL, **unusual, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(5) if value.dim() > 1 else value.add_(torch.randn_like(value) * 0.3)
    return model


def byte_pairs(cut: str, size: int = 320) -> Any:
    """A tokenizer that cuts texts as one of llama.cpp's names says."""
    start = Tokenizer(models.BPE())
    content = json.loads(start.to_str())
    words.cut_as(content, cut)
    whole = content["model"].pop("ignore_merges")
    made = Tokenizer.from_str(json.dumps(content))
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<|start|>"], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([PLAYS.read_text()[:20000], *SENTENCES * 20], trainer)
    content = json.loads(made.to_str())
    content["model"]["ignore_merges"] = whole
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        bos_token="<|start|>",
        eos_token="<|end|>",
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return tokenizer


def sentence_pieces(first: bool) -> Any:
    """A tokenizer as SentencePiece makes them: pairs that make a piece are all there."""
    start = Tokenizer(models.BPE())
    start.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    start.train_from_iterator([PLAYS.read_text()[:20000]], trainer)
    made = json.loads(start.to_str())["model"]
    pieces = list(dict.fromkeys(left + right for left, right in made["merges"]))
    single = [name for name in made["vocab"] if len(name) == 1]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *single]
    vocab = {name: row for row, name in enumerate(names)}
    merges = []
    for piece in pieces:
        pairs = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    pieced = Tokenizer(model)
    marks = [normalizers.Replace(" ", "▁")]
    pieced.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * first + marks)
    pieced.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    pieced.add_special_tokens([AddedToken(name, special=True) for name in names[:3]])
    pieced.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=pieced, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
