"""Tiny language models: a random one, and one that tells stories (real data)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.stories import story_model

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all. "


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose 256 tokens are the bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def _tiny_model(blocks: int = 3, **changes: object) -> LlamaForCausalLM:
    """A random model of 64 channels."""
    settings = {
        "hidden_size": 64,
        "intermediate_size": 172,  # no multiple of 8: ragged groups
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()


@pytest.fixture(scope="session", autouse=True)
def _no_bars() -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the random model and its tokenizer."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    _tiny_model().save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer of 320 pairs of bytes."""
    from tests.llm.small import byte_pairs

    folder = tmp_path_factory.mktemp("tokens")
    byte_pairs("gpt-2").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text to calibrate on."""
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(TEXT * 40)
    return path


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """The 260K-parameter TinyStories model as a folder, without tokenizer."""
    folder = tmp_path_factory.mktemp("stories") / "stories260k"
    story_model(shared_data / "lm" / "stories260K.bin").save_pretrained(folder)
    return folder


def _rewrite(path: Path, **changes: object) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., LlamaForCausalLM]:
    """Makes random models: `tiny_model(blocks, **changes of the configuration)`."""
    return _tiny_model


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are bytes."""
    return _byte_tokenizer()


@pytest.fixture(scope="session")
def rewrite() -> Callable[..., None]:
    """Changes entries of a JSON file: `rewrite(path, key=value)`."""
    return _rewrite
