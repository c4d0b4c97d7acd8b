"""A tiny language model with a word tokenizer, for trials of the text tasks."""

from pathlib import Path
from typing import Any

import torch

from zoo.errors import MissingExtraError

SENTENCES = tuple(f"The {animal} {does}." for animal in ("fox", "owl", "hen") for does in
                  ("sleeps", "sees the moon", "runs to the barn", "eats corn"))  # fmt: skip
TEXT = "\n".join(SENTENCES * 8)


def tiny_model(folder: Path, text: str) -> tuple[Any, Any]:
    """Save a random Llama of 10,000 weights that knows the words of a text; return both."""
    try:
        from tokenizers import Regex, Tokenizer
        from tokenizers.models import WordLevel
        from tokenizers.pre_tokenizers import Split
        from transformers import (
            AutoModelForCausalLM,
            AutoTokenizer,
            LlamaConfig,
            LlamaForCausalLM,
            PreTrainedTokenizerFast,
        )
    except ImportError as error:
        raise MissingExtraError.of(str(error.name), "llm") from error
    cut = Split(Regex(r"\s?\w+|\s|[^\w\s]"), "isolated")
    words = ["?", *sorted({word for word, _ in cut.pre_tokenize_str(text)} - {"?"})]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    tokens.pre_tokenizer = cut
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token="?").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )
