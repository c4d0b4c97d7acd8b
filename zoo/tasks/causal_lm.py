"""Causal language modelling: go on in the style of a text.

The text is cut into blocks of `train.options.length` tokens; the last tenth is held out. A base
model goes through transformers; `zoo.adapters` feeds it.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.text import Texts, draw, fingerprint, forward, next_token_loss, read_text
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

__all__ = ["SELECT_BY", "batch", "evaluate", "forward", "loss", "training_data", "validate"]

SELECT_BY = "negative_loss_nats"
_HELD_OUT = 64  # blocks: enough for a standard error of about a hundredth of a nat
_BATCH = 8


def training_data(recipe: Recipe, source: str, tokenizer: Any) -> Texts:
    """Return the blocks `(length + 1,)` of a text file.

    Raises:
        MismatchError: no such file, or too short.

    """
    path, length = Path(source).expanduser(), int(recipe.train.options["length"])
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


def evaluate(model: nn.Module, recipe: Recipe, source: str, tokenizer: Any) -> dict[str, Any]:
    """Return the held-out metrics on a text file."""
    data = training_data(recipe, source, tokenizer)
    return {"blocks": len(data.held_out), **validate(model, data, recipe)}
