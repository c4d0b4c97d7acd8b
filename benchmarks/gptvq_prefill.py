"""Claim: reading a long input costs a packed language model little more than one in bfloat16.

One forward pass over --tokens tokens (batch 1, logits of the last one) of the model in --model: in
bfloat16, with its linear layers at 2D 3 bit (codes drawn at random: the time does not depend on
their values), and rounded to 4 bits with a scale per 64 weights. Each weight is decoded once per
pass by the compiled kernel, and multiplied by all tokens. In turn, ratios round by round.
Run: python -m benchmarks.gptvq_prefill --model DIR
"""

import argparse
import functools
import statistics
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import alternate, ratio, report
from benchmarks.gptvq_decode import packed
from zoo.quantization.core import quantize_matrix
from zoo.quantization.kernels.matvec import library
from zoo.quantization.language import blocks
from zoo.quantization.language.opening import load
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear

GOAL = 1.25
STEPS = LayerOptions(method="rtn", bits=4)


def rounded(folder: Path, options: LayerOptions = STEPS) -> Any:
    """Return the model in bfloat16 with its linear layers rounded to 4 bits."""
    model = load(folder, dtype=torch.bfloat16)
    name, found = blocks.find_blocks(model)
    for inner, layer in list(blocks.linears(found).items()):
        matrix = quantize_matrix(layer.weight.float(), None, options)
        model.set_submodule(f"{name}.{inner}", PackedLinear.of(matrix, layer.bias))
    return model


@torch.no_grad()
def read(model: Any, tokens: int) -> None:
    """Read `tokens` tokens."""
    ids = torch.arange(tokens)[None] % model.config.vocab_size
    model(ids, use_cache=True, logits_to_keep=1)


def main() -> None:
    """Time them in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = {
        "bfloat16": load(args.model, dtype=torch.bfloat16),
        "2D 3 bit": packed(args.model)[0],
        "uniform 4 bit": rounded(args.model),
    }
    rows, results = [], {}
    for tokens in args.tokens:
        runs = {name: functools.partial(read, model, tokens) for name, model in models.items()}
        seconds = alternate(runs, args.rounds)
        found = {name: ratio(seconds, name, "bfloat16") for name in models if name != "bfloat16"}
        results[str(tokens)] = {"seconds": seconds, "over_bfloat16": found}
        for name, over in found.items():
            text = f"{over['median']:.2f}x ({over['min']:.2f} to {over['max']:.2f})"
            took = f"{statistics.median(seconds[name]):.2f} s"
            rows.append([f"{tokens} tokens, {name} / bfloat16", text, took])
    result = {"kernel": library() is not None, "goal": GOAL, "tokens": results}
    report("gptvq_prefill", args.threads, result, rows)
    worst = max(over["median"] for over in results[str(max(args.tokens))]["over_bfloat16"].values())
    if worst > GOAL:
        raise SystemExit(f"claim not met: expected {GOAL}x, the longest input took {worst:.2f}x")


if __name__ == "__main__":
    main()
