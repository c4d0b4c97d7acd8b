"""Perplexity of a causal language model on a text, with its protocol."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError


@torch.no_grad()
def perplexity(
    model: nn.Module,
    ids: Tensor,
    *,
    length: int = 1024,
    stride: int | None = None,
    windows: int | None = None,
) -> dict[str, Any]:
    """Return exp(mean negative log-likelihood) of the tokens `ids` (n,).

    The stream is cut into windows of `length` tokens that start every `stride` tokens. Each
    predicts all its tokens but the first, and only those that no earlier window predicted; a
    remainder shorter than a window is left out.

    Args:
        model: called with ids (1, length), returns `.logits` (1, length, vocabulary).
        ids: the tokens of a whole text.
        length: tokens of a window.
        stride: tokens from window to window; `length` if None, so that windows do not overlap.
        windows: at most this many; all if None.

    Returns:
        `perplexity`, the number of predicted `tokens`, and `protocol` in words.

    """
    stride = stride or length
    if not 0 < stride <= length or length < 2:
        raise MismatchError(
            f"length is {length} and stride {stride}; expected 0 < stride <= length"
        )
    if len(ids) < length:
        raise MismatchError(
            f"the text has {len(ids)} tokens, less than one window of {length}; give a longer text "
            "or a shorter length"
        )
    starts = list(range(0, len(ids) - length + 1, stride))[:windows]
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for start in starts:
        window = ids[start : start + length].to(device)
        new = length - 1 if start == 0 else min(stride, length - 1)
        logits = model(window[None]).logits[0]
        losses = F.cross_entropy(logits[-new - 1 : -1].float(), window[-new:], reduction="none")
        total += losses.double().sum().item()
        count += new
    mean = total / count
    return {
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "tokens": count,
        "protocol": f"{len(starts)} windows of {length} tokens, stride {stride}, {count} tokens "
        f"predicted, {str(next(model.parameters()).dtype).removeprefix('torch.')}",
    }
