"""How fast a language model generates text."""

import statistics
import time
from typing import Any

import torch


@torch.no_grad()
def tokens_per_second(model: Any, *, tokens: int = 16, prompt: int = 8) -> float:
    """Return the tokens that `model` generates per second, batch 1, greedily, with its cache.

    The median over the steps after the prompt; the first step is a warm-up and is left out.
    """
    ids = torch.arange(prompt, device=model.device)[None] % model.config.vocab_size
    out = model(ids, use_cache=True)
    times = []
    for _ in range(tokens + 1):
        start = time.perf_counter()
        last = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=last, past_key_values=out.past_key_values, use_cache=True)
        times.append(time.perf_counter() - start)
    return 1 / statistics.median(times[1:])
