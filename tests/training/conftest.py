"""Small pictures, a tiny language model, and runs so short that a test can do several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from zoo.cli import main

Run = Callable[..., int]


def draw(folder: Path, count: int, size: tuple[int, int] = (80, 72), seed: int = 0) -> Path:
    """Fill a folder with smooth pictures of (width, height)."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        noise = generator.integers(0, 256, (9, 10, 3)).astype(np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures: one is held out, five are trained on."""
    return draw(tmp_path_factory.mktemp("data") / "pictures", 6)


@pytest.fixture(scope="session")
def small(pictures: Path) -> Callable[..., list[str]]:
    """The command line of a short run of a small network, without the interpreter."""

    def command(out: Path, *words: str, name: str = "sesr-m3-x2", **settings: object) -> list[str]:
        chosen = {
            "steps": 8,
            "batch_size": 4,
            "warmup_steps": 2,
            "log_every": 1,
            "eval_every": 4,
            "save_every": 4,
            "options.expansion": 16,
            "options.patch_size": 16,
        } | settings
        data = () if "--data" in words else ("--data", str(pictures))
        sets = [word for k, v in chosen.items() for word in ("--set", f"train.{k}={v}")]
        return ["train", name, *data, "--out", str(out), "--device", "cpu", *sets, *words]

    return command


@pytest.fixture(scope="session")
def train(small: Callable[..., list[str]]) -> Run:
    """Run it in this process; return the exit code. What Accelerate keeps globally is undone."""

    def run(out: Path, *words: str, **settings: object) -> int:
        try:
            return main(small(out, *words, **settings))
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()
            torch.set_default_dtype(torch.float32)

    return run


def log(out: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> dict[int, float]:
    """The loss by step; a step that was logged twice is an error."""
    lines = [line for line in log(out) if "loss" in line]
    by_step = {int(line["step"]): line["loss"] for line in lines}
    assert len(by_step) == len(lines)
    return by_step


@pytest.fixture(scope="session")
def read_losses() -> Callable[[Path], dict[int, float]]:
    """See `losses`."""
    return losses


@pytest.fixture(scope="session")
def draw_pictures() -> Callable[..., Path]:
    """See `draw`."""
    return draw


# --- adapters -------------------------------------------------------------------------------------

WORDS = [(word, letter) for word in ("fox", "owl", "hen", "cat") for letter in "abcdefgh"]
FARM = "".join(f"{word} and {letter}, said the {word}.\n" for word, letter in WORDS) * 6
SETTINGS = {
    "train.steps": 6, "train.batch_size": 4, "train.warmup_steps": 2, "train.lr": 1e-2,
    "train.options.length": 16, "train.log_every": 1, "train.eval_every": 3,
    "train.save_every": 3, "mask.density": 0.1,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Llama of 20,000 weights and a tokenizer of characters."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base") / "tiny"
    symbols = ["?", *sorted(set(FARM))]
    tokenizer = Tokenizer(WordLevel({c: i for i, c in enumerate(symbols)}, unk_token="?"))
    tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(symbols), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def farm_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "farm.txt"
    file.write_text(FARM)
    return file


@pytest.fixture(scope="session")
def tiny_command(tiny: Path, farm_text: Path) -> Callable[..., list[str]]:
    """The command line of a short run."""

    def words(out: Path, *more: str, **settings: Any) -> list[str]:
        chosen = SETTINGS | {k.replace("__", "."): v for k, v in settings.items()}
        sets = [word for key, value in chosen.items() for word in ("--set", f"{key}={value}")]
        return ["adapter", "train", "farm", "--base", str(tiny), "--task", "causal-lm", "--data",
                str(farm_text), "--device", "cpu", "--out", str(out), *sets, *more]  # fmt: skip

    return words


@pytest.fixture(scope="session")
def train_tiny(tiny_command: Callable[..., list[str]]) -> Callable[..., int]:
    """Run it in this process; return the exit code."""

    def start(out: Path, *more: str, **settings: Any) -> int:
        try:
            return main(tiny_command(out, *more, **settings))
        finally:
            for state in (AcceleratorState, GradientState, PartialState):
                state._reset_state()

    return start
