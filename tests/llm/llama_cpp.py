"""llama.cpp itself, by its wheel xllamacpp, as a judge of files."""

import json
import math
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


class LlamaCpp:
    """A server of one file, in this process, on one core."""

    def __init__(self, file: Path, *, context: int = 512) -> None:
        import xllamacpp

        settings: Any = xllamacpp.CommonParams()
        settings.model.path = str(file)
        settings.n_ctx, settings.n_parallel, settings.n_gpu_layers = context, 1, 0
        settings.warmup = settings.fit_params = False
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        settings.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        settings.verbosity = 1  # errors only
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
        self._server = xllamacpp.Server(settings)

    def ask(self, path: str, **body: Any) -> Any:
        """Return the answer of the server to a request."""
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, with those that every text begins or ends with."""
        ids: list[int] = self.ask("/tokenize", content=text, add_special=True)["tokens"]
        return ids

    def generate(self, prompt: "str | Sequence[int]", count: int) -> list[int]:
        """Return the likeliest next tokens."""
        answer = self.ask(
            "/completion", prompt=prompt, n_predict=count, temperature=0.0, return_tokens=True
        )
        ids: list[int] = answer["tokens"]
        return ids

    def log_probability(self, ids: Sequence[int], token: int) -> float:
        """Return the logarithm of the probability of `token` after `ids`."""
        answer = self.ask(
            "/completion", prompt=list(ids), n_predict=1, n_probs=1, temperature=0.0,
            logit_bias=[[token, 1e4]],  # it is what is said; probabilities are without the bias
        )  # fmt: skip
        (found,) = answer["completion_probabilities"]
        assert found["id"] == token
        value: float = found["logprob"]
        return value

    def log_probabilities(self, ids: Sequence[int], vocabulary: int) -> torch.Tensor:
        """Return what follows `ids`: (vocabulary,) logarithms of probabilities."""
        plain = self.ask("/tokenize", content="a", add_special=False)["tokens"][-1]
        answer = self.ask(
            "/completion", prompt=list(ids), n_predict=1, n_probs=vocabulary, temperature=0.0,
            logit_bias=[[plain, 1e4]],  # what is said, lest it be an end or half a character
        )  # fmt: skip
        found = torch.full((vocabulary,), math.nan)
        for item in answer["completion_probabilities"][0]["top_logprobs"]:
            found[item["id"]] = item["logprob"]
        return found
