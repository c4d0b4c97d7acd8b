"""Claim: a small model packed in four bits or three writes at the pace of llama.cpp's Q4_0.

The model in --model (SmolLM2-135M), batch 1, greedy, with its key-value cache, tokens per second
over --tokens after a prompt of eight: linear layers in 4 bits with a scale per 64 weights and
inputs of 8 bits, and at 2D 3 bit (codes drawn at random: the time does not depend on their values)
with inputs of 8 bits and in floats, all with embedding and head in 8 bits, with their tokens
through the compiled step; the first and the last also through transformers alone; in bfloat16
through transformers; and by llama.cpp (xllamacpp) with Q4_0 and a Q8_0 embedding, a file made from
--gguf. In turn, with the same threads; ratios round by round.
Run: python -m benchmarks.low_bits_decode --model DIR --gguf FILE
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from benchmarks.gptvq_decode import OPTIONS as BOOKS
from benchmarks.gptvq_decode import packed
from benchmarks.gptvq_prefill import rounded
from benchmarks.peers.llama_cpp import LlamaCpp, q4_0
from zoo.quantization.embeddings import pack as pack_rows
from zoo.quantization.embeddings import quantize_rows
from zoo.quantization.kernels.matvec import library
from zoo.quantization.language.opening import load
from zoo.quantization.language.step import quicken
from zoo.quantization.options import LayerOptions

INT4 = "int4 g64, inputs int8"
PLANES = "gptvq 2D 3 bit, inputs int8"
FLOATS = "gptvq 2D 3 bit, inputs float"
TODAY = f"{FLOATS}, transformers"
PEER = "llama.cpp Q4_0"
GOALS = {(INT4, PEER): 0.6, (PLANES, PEER): 0.5, (PLANES, TODAY): 1.6, (FLOATS, TODAY): 1.6}
OPTIONS = LayerOptions(method="rtn", bits=4, activations="int8")


def in_four_bits(folder: Path) -> Any:
    """Return the model with its layers rounded to 4 bits, embedding and head to 8."""
    model = rounded(folder, OPTIONS)
    stored = quantize_rows(model.get_input_embeddings().weight)
    pack_rows(model, tied=True)
    model.get_input_embeddings().load_state_dict(stored, assign=True)
    model.get_input_embeddings().like = torch.empty(0, dtype=torch.bfloat16)
    return model


@torch.no_grad()
def speed(model: Any, tokens: int) -> float:
    """Return the tokens per second, over all of them, as llama.cpp counts its own."""
    ids = torch.arange(1, 9)[None]
    out = model(ids, use_cache=True)
    start = time.perf_counter()
    for _ in range(tokens):
        last = out.logits[:, -1:].argmax(-1)
        out = model(input_ids=last, past_key_values=out.past_key_values, use_cache=True)
    return tokens / (time.perf_counter() - start)


def contestants(folder: Path) -> dict[str, Any]:
    """Return the models by name, those with a compiled step first."""
    planes = replace(BOOKS, activations="int8")
    models = {
        INT4: in_four_bits(folder),
        PLANES: packed(folder, planes, rows=True)[0],
        FLOATS: packed(folder, rows=True)[0],
    }
    for model in models.values():
        if not quicken(model):
            raise SystemExit("there is no compiled step: is there a C compiler?")
    models[f"{INT4}, transformers"] = in_four_bits(folder)
    models[TODAY] = packed(folder, rows=True)[0]
    models["bfloat16, transformers"] = load(folder, dtype=torch.bfloat16)
    return models


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True, help="a GGUF file of the same model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=16, help="timed per round")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = contestants(args.model)
    speeds: dict[str, list[float]] = {name: [] for name in (*models, PEER)}
    with tempfile.TemporaryDirectory() as folder:
        peer = LlamaCpp(q4_0(args.gguf, Path(folder) / "q4_0.gguf"), args.threads)
        for turn in range(args.rounds + 1):  # the first warms up
            for name, model in models.items():
                found = speed(model, args.tokens)
                speeds[name] += [found] if turn else []
            found = peer.tokens_per_second(args.tokens)
            speeds[PEER] += [found] if turn else []
        peer.close()
    rows, ratios = [], {}
    for (name, other), goal in GOALS.items():
        every = [a / b for a, b in zip(speeds[name], speeds[other], strict=True)]
        ratios[f"{name} / {other}"] = {"median": statistics.median(every), "goal": goal,
                                       "min": min(every), "max": max(every)}  # fmt: skip
        text = f"{statistics.median(every):.2f}x ({min(every):.2f} to {max(every):.2f})"
        rows.append([f"{name} / {other}", text, f"goal {goal:.1f}x"])
    rows += [
        [name, f"{statistics.median(v):.1f}", "tokens per second"] for name, v in speeds.items()
    ]
    result = {"kernel": library() is not None, "tokens_per_s": speeds, "ratios": ratios}
    name = "low_bits_decode" + ("" if args.threads == 1 else f"_{args.threads}_threads")
    report(name, args.threads, result, rows)
    missed = [name for name, found in ratios.items() if found["median"] < found["goal"]]
    if missed:
        raise SystemExit(f"claim not met: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
