"""Perplexity of a causal language model on a text, with its protocol."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import MismatchError

CHUNK = 16  # tokens that see each other in full precision: few, as in writing


@torch.no_grad()
def perplexity(
    model: nn.Module,
    ids: Tensor,
    *,
    length: int = 1024,
    stride: int | None = None,
    windows: int | None = None,
    cache_bits: int = 0,
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
        cache_bits: 4 or 8: read each window `CHUNK` tokens at a time, with keys and values of the
            tokens before in so many bits; 0: in one go, in full precision.

    Returns:
        `perplexity`, the number of predicted `tokens`, and `protocol` in words; with `cache_bits`,
        also `cache_bytes` after one window.

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
    total, count, facts = 0.0, 0, dict[str, Any]()
    for start in starts:
        window = ids[start : start + length].to(device)
        new = length - 1 if start == 0 else min(stride, length - 1)
        if cache_bits:
            logits, facts["cache_bytes"] = _through_cache(model, window, cache_bits)
        else:
            logits = model(window[None]).logits[0]
        losses = F.cross_entropy(logits[-new - 1 : -1].float(), window[-new:], reduction="none")
        total += losses.double().sum().item()
        count += new
    mean = total / count
    rounded = f", keys and values in {cache_bits} bits" if cache_bits else ""
    return {
        "perplexity": math.exp(mean) if mean < 700 else math.inf,
        "tokens": count,
        "protocol": f"{len(starts)} windows of {length} tokens, stride {stride}, {count} tokens "
        f"predicted, {str(next(model.parameters()).dtype).removeprefix('torch.')}{rounded}",
        **facts,
    }


def _through_cache(model: nn.Module, window: Tensor, bits: int) -> tuple[Tensor, int]:
    """Return the logits (length, vocabulary) of a window, and the bytes of its keys and values."""
    from zoo.tasks.text_generation.cache import cache_for

    cache = cache_for(model, bits)
    parts = [
        model(part[None], past_key_values=cache, use_cache=True).logits[0]
        for part in window.split(CHUNK)
    ]
    return torch.cat(parts), cache.nbytes
