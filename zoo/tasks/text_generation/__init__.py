"""Language models: perplexity on a text, and text that follows a prompt."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import MismatchError
from zoo.files import sha256, write_bytes
from zoo.registry.recipe import Compress, Recipe
from zoo.tasks.contract import Metric, TaskFacts, Trial, recipe_of

FACTS = TaskFacts(
    name="text-generation",
    pipeline_tag="text-generation",
    sample="token",
    metrics=(Metric(key="perplexity", name="perplexity", better="lower", hub_type="perplexity"),),
)
DEMO_TOKENS = 24


@dataclass(frozen=True)
class Generated:
    """What a language model wrote.

    Attributes:
        prompt: what it was given.
        text: the prompt and what follows it.
        tokens: number of generated tokens.
        seconds: how long that took, the prompt included.

    """

    prompt: str
    text: str
    tokens: int
    seconds: float

    def save(self, path: str | Path) -> Path:
        """Write the text."""
        write_bytes(Path(path), f"{self.text}\n".encode())
        return Path(path)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return dict(vars(self))


def run(
    model: Any,
    recipe: Recipe | None,
    source: Any,
    out: Path | None = None,
    *,
    tokens: int = 64,
    cache_bits: int = 0,
) -> Generated:
    """Return the likeliest continuation of a prompt, token by token, at most `tokens` of them.

    With `cache_bits`, 4 or 8, keys and values of older tokens take so many bits: see
    `zoo.tasks.text_generation.cache`.
    """
    from zoo.data.text import tokenizer

    if not isinstance(source, str) or not source:
        raise MismatchError(f"the prompt is {source!r}; expected a text")
    words = tokenizer(Path(model.name_or_path))
    ids = words(source, return_tensors="pt")["input_ids"].to(model.device)
    start = time.perf_counter()
    answer = _likeliest(model, words, ids, tokens, cache_bits)
    seconds = time.perf_counter() - start
    new = words.decode(answer, skip_special_tokens=True)
    result = Generated(source, source + new, len(answer), seconds)
    if out is not None:
        result.save(out)
    return result


@torch.no_grad()
def _likeliest(model: Any, tokenizer: Any, ids: Tensor, tokens: int, cache_bits: int = 0) -> Tensor:
    """Return the tokens `(n,)`, n <= `tokens`, that follow those of `ids` `(1, m)`."""
    more: dict[str, Any] = {}
    if cache_bits:
        from zoo.tasks.text_generation.cache import cache_for

        more["past_key_values"] = cache_for(model, cache_bits)
    answer: Tensor = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id or 0,  # a single text needs no padding
        **more,
    )
    return answer[0, ids.shape[1] :]


def ends(model: Any, tokenizer: Any) -> set[int]:
    """Return the tokens that end what a model writes."""
    known = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}


@torch.no_grad()
def written(model: Any, ids: Tensor, tokens: int, ends: Collection[int]) -> Iterator[int]:
    """Yield the likeliest tokens after those of `ids` `(1, m)`, at most `tokens`.

    One of `ends` is the last. Whoever waits between two of them holds nothing: the model may be
    used, or changed, meanwhile.
    """
    cache = None
    for _ in range(tokens):
        out = model(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
        yield int(ids)
        if int(ids) in ends:
            return


def demo(model: Any, recipe: Recipe | None, tokenizer: Any, given: str) -> Iterator[str]:
    """Yield the likeliest continuation of a prompt as it grows, at most `DEMO_TOKENS` tokens."""
    ids = torch.tensor([tokenizer(given, add_special_tokens=False)["input_ids"]])
    answer = list[int]()
    for token in written(model, ids, DEMO_TOKENS, ends(model, tokenizer)):
        answer.append(token)
        yield str(tokenizer.decode(answer, skip_special_tokens=True))


def evaluate(
    model: Any,
    recipe: Recipe | None,
    data: Path,
    tokenizer: Any = None,
    *,
    length: int = 1024,
    stride: int | None = None,
    windows: int | None = None,
    tasks: Sequence[str] = (),
    limit: int | None = None,
    cache_bits: int = 0,
) -> dict[str, Any]:
    """Return the perplexity on a text: see `zoo.tasks.text_generation.perplexity`.

    A text is a file, or what `zoo.data.texts` has a name for.

    With `tasks`, also return the metrics of those lm-eval tasks: see
    `zoo.tasks.text_generation.zero_shot`.
    """
    from zoo.data.text import read_text, tokenize
    from zoo.data.text import tokenizer as read_tokenizer
    from zoo.data.texts import text_file
    from zoo.tasks.text_generation.perplexity import perplexity
    from zoo.tasks.text_generation.zero_shot import zero_shot

    data = text_file(data, test=True)
    ids = tokenize(Path(model.name_or_path), read_text(data))
    longest = getattr(model.config, "max_position_embeddings", length)
    facts = perplexity(
        model, ids, length=min(length, longest), stride=stride, windows=windows,
        cache_bits=cache_bits,
    )  # fmt: skip
    facts |= {"data": data.name, "sha256": sha256(data)}
    if tasks:
        words = tokenizer or read_tokenizer(Path(model.name_or_path))
        facts["tasks"] = zero_shot(model, words, tasks, limit=limit)
    return facts


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write a text, and a tiny language model that knows its words."""
    from zoo.tasks.text_generation.tiny import SENTENCES, TEXT, tiny_model

    model, _ = tiny_model(folder / "model", TEXT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    own = recipe or recipe_of(model, FACTS, Compress(base="trial", method="rtn"))
    return Trial(recipe=own, model=model, data=folder / "text.txt", source=SENTENCES[0])
