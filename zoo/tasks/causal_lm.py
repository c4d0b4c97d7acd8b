"""Causal language modelling: continue in the style of a text.

The text is cut into blocks of `train.options.length` tokens; the last tenth is held out. A base
model goes through transformers; `zoo.adapters` feeds it.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.text import Texts, draw, fingerprint, forward, next_token_loss, read_text
from zoo.data.texts import text_file
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Demo, Metric, TaskFacts, Trial, recipe_of, short
from zoo.tasks.text_generation import demo

__all__ = [
    "FACTS",
    "batch",
    "demo",
    "evaluate",
    "forward",
    "loss",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="causal-lm",
    pipeline_tag="text-generation",
    sample="block",
    metrics=(
        Metric(key="negative_loss_nats", name="minus cross entropy", unit="nats"),
        Metric(key="perplexity", name="perplexity", better="lower", hub_type="perplexity"),
    ),
    select_by="negative_loss_nats",
    adapter=Train(
        steps=200, batch_size=8, lr=1e-3, warmup_steps=10, clip_norm=1.0, log_every=10,
        eval_every=50, save_every=25, options={"length": 64},
    ),
    demo=Demo(
        kind="text", title="Text", takes="prompt", gives="text",
        packages=("transformers", "gguf"),
    ),
)  # fmt: skip
_HELD_OUT = 64  # blocks: enough for a standard error of about a hundredth of a nat
_BATCH = 8


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> Texts:
    """Return the blocks `(length + 1,)` of a text: a file, or what `zoo.data.texts` has a name for.

    Raises:
        MismatchError: there is no such file, or it is too short.

    """
    path, length = text_file(source), int(recipe.train.options["length"])
    text = read_text(path)
    cut = len(text) * 9 // 10
    train, held = (_blocks(tokenizer, part, length) for part in (text[:cut], text[cut:]))
    if not len(train) or not len(held):
        raise MismatchError(
            f"{path} holds {len(text)} characters; too short for blocks of {length}"
        )
    held = held[:: max(1, len(held) // _HELD_OUT)][:_HELD_OUT]
    digest = fingerprint(length, text, train.tolist()[:4])
    facts = {"source": path.name, "blocks": len(train), "held_out": len(held), "sha256": digest}
    return Texts(train, held, digest, facts)


def _blocks(tokenizer: Any, text: str, length: int) -> Tensor:
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    count = max(0, (len(ids) - 1) // length)
    return ids[: count * length + 1].unfold(0, length + 1, length) if count else ids[:0]


def batch(data: Texts, recipe: Recipe, step: int, rows: range, total: int) -> tuple[Tensor, Tensor]:
    """Return inputs and next tokens, both `(len(rows), length)`."""
    numbers = draw(total, len(data.train), recipe.train.seed, step)[rows.start : rows.stop]
    blocks = data.train[numbers]
    return blocks[:, :-1], blocks[:, 1:]


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy of the next token, in nats."""
    return next_token_loss(output, target)


@torch.no_grad()
def validate(model: nn.Module, data: Texts, recipe: Recipe) -> dict[str, float]:
    """Return loss (nats per token) and perplexity on the held-out blocks."""
    device = next(model.parameters()).device
    rows = torch.as_tensor(data.held_out)
    total = 0.0
    for first in range(0, len(rows), _BATCH):
        part = rows[first : first + _BATCH].to(device)
        total += float(loss(forward(model, part[:, :-1]).float(), part[:, 1:])) * len(part)
    mean = total / len(rows)
    return {"negative_loss_nats": -mean, "perplexity": math.exp(min(mean, 700))}


def evaluate(
    model: nn.Module, recipe: Recipe, data: Path | str, tokenizer: Any = None
) -> dict[str, Any]:
    """Return the held-out metrics on a text file."""
    texts = training_data(recipe, str(data), tokenizer)
    length = texts.held_out.shape[1] - 1
    return {
        "blocks": len(texts.held_out),
        **validate(model, texts, recipe),
        "protocol": f"blocks of {length} tokens of the last tenth of the text, each on its own",
    }


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write a text, and a tiny language model that knows its words."""
    from zoo.tasks.text_generation.tiny import TEXT, tiny_model

    assert FACTS.adapter is not None
    model, tokenizer = tiny_model(folder / "model", TEXT)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    own = short(recipe or recipe_of(model, FACTS, FACTS.adapter), length=8)
    return Trial(recipe=own, model=model, data=folder / "text.txt", tokenizer=tokenizer)
