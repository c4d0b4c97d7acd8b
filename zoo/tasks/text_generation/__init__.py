"""Language models: perplexity on a text, and text that follows a prompt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.errors import MismatchError
from zoo.files import sha256, write_bytes
from zoo.registry.recipe import Recipe


@dataclass(frozen=True)
class Generated:
    """What a language model wrote.

    Attributes:
        prompt: what it was given.
        text: the prompt and what follows it.
        tokens: how many were generated.
        seconds: how long that took, the prompt included.

    """

    prompt: str
    text: str
    tokens: int
    seconds: float

    def save(self, path: Path) -> None:
        """Write the text."""
        write_bytes(path, f"{self.text}\n".encode())

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return dict(vars(self))


def run(
    model: Any, recipe: Recipe | None, source: Any, out: Path | None = None, *, tokens: int = 64
) -> Generated:
    """Return the likeliest continuation of a prompt, token by token, `tokens` at most."""
    from zoo.data.text import tokenizer

    if not isinstance(source, str) or not source:
        raise MismatchError(f"the prompt is {source!r}; expected a text")
    words = tokenizer(Path(model.name_or_path))
    ids = words(source, return_tensors="pt")["input_ids"].to(model.device)
    start = time.perf_counter()
    with torch.no_grad():
        answer = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=words.pad_token_id or words.eos_token_id or 0,
        )[0]
    seconds = time.perf_counter() - start
    new = words.decode(answer[ids.shape[1] :], skip_special_tokens=True)
    result = Generated(source, source + new, len(answer) - ids.shape[1], seconds)
    if out is not None:
        result.save(out)
    return result


def evaluate(
    model: Any,
    recipe: Recipe | None,
    data: Path,
    *,
    length: int = 1024,
    stride: int | None = None,
    windows: int | None = None,
    tasks: Sequence[str] = (),
    limit: int | None = None,
) -> dict[str, Any]:
    """Return the perplexity on a text file: see `zoo.tasks.text_generation.perplexity`.

    With `tasks`, also the metrics of those of lm-eval: see `zoo.tasks.text_generation.zero_shot`.
    """
    from zoo.data.text import read_text, tokenize, tokenizer
    from zoo.tasks.text_generation.perplexity import perplexity
    from zoo.tasks.text_generation.zero_shot import zero_shot

    ids = tokenize(Path(model.name_or_path), read_text(data))
    longest = getattr(model.config, "max_position_embeddings", length)
    facts = perplexity(model, ids, length=min(length, longest), stride=stride, windows=windows)
    facts |= {"data": data.name, "sha256": sha256(data)}
    if tasks:
        words = tokenizer(Path(model.name_or_path))
        facts["tasks"] = zero_shot(model, words, tasks, limit=limit)
    return facts
