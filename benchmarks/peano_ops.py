"""Operators without division and root (PEANO-ViT) in a vision transformer and a language model.

    python -m benchmarks.peano_ops --data DIR --runs runs/vit-0 runs/vit-1 runs/vit-2
    python -m benchmarks.peano_ops --language ./smollm2 --text wikitext2_raw_test.txt

Goals: at most 0.5 point lost on Fashion-MNIST's 10,000 test pictures with tables of 4 bits in norms
and softmaxes and a GELU of 16 pieces, in floats and in whole numbers; perplexity of SmolLM2-135M at
most 1.02 times with 6 bits and a SiLU of 64 pieces. Networks as in `benchmarks.lowrank_vit`.
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import RESULTS, report
from benchmarks.lowrank_vit import accuracy, pictures
from zoo.models.approximate.layers import operations
from zoo.models.approximate.swap import swap_ops

NAME = "peano_ops"
VIT: dict[str, dict[str, Any]] = {
    "exact": {},
    "4, 4, 16": {"ops": {"layernorm": 4, "softmax": 4, "gelu": 16}},
    "4, 4, 16, fixed": {"ops": {"layernorm": 4, "softmax": 4, "gelu": 16}, "form": "fixed"},
    "4, 4, 16, mantissa": {"ops": {"layernorm": 4, "softmax": 4, "gelu": 16}, "root": "mantissa"},
    "3, 3, 8": {"ops": {"layernorm": 3, "softmax": 3, "gelu": 8}},
    "layernorm 4": {"ops": {"layernorm": 4}},
    "softmax 4": {"ops": {"softmax": 4}},
    "gelu 16": {"ops": {"gelu": 16}},
}
SIX = {"rmsnorm": 6, "softmax": 6, "silu": 64}
LANGUAGE: dict[str, dict[str, Any]] = {
    "exact": {},
    "6, 6, 64": {"ops": SIX},
    "6, 6, 64, mantissa": {"ops": SIX, "root": "mantissa"},
    "6, 6, 64, mantissa, fixed": {"ops": SIX, "root": "mantissa", "form": "fixed"},
}
LENGTH, WINDOWS = 512, 6


def changed(network: Any, arm: dict[str, Any]) -> Any:
    """Return a copy of a network with an arm's operators."""
    small = copy.deepcopy(network)
    if arm:
        swap_ops(small, **arm)
    return small


def vision(runs: list[Path], data: Path) -> dict[str, Any]:
    """Return the accuracies of each arm, one for each network."""
    found: dict[str, list[float]] = {name: [] for name in VIT}
    for run in runs:
        checkpoint = zoo.checkpoint(run)
        network = checkpoint.load()
        x, labels = pictures(checkpoint.recipe, data / "test")
        for name, arm in VIT.items():
            found[name].append(accuracy(changed(network, arm), x, labels))
            print(run.name, name, found[name][-1], flush=True)
    exact = found["exact"]
    return {
        name: {
            "accuracy": values,
            "lost_points": [a - b for a, b in zip(exact, values, strict=True)],
        }
        for name, values in found.items()
    }


def language(folder: str, text: Path) -> dict[str, Any]:
    """Return the perplexity of each arm."""
    from zoo.artifacts.base import load_base
    from zoo.data.text import read_text, tokenize
    from zoo.tasks.text_generation.perplexity import perplexity

    found: dict[str, Any] = {}
    for name, arm in LANGUAGE.items():
        base = load_base(folder)
        if arm:
            swap_ops(base.model, **arm)
        tokens = tokenize(Path(folder), read_text(text))
        with torch.inference_mode():
            value = perplexity(base.model, tokens, length=LENGTH, windows=WINDOWS)
        found[name] = {"perplexity": value["perplexity"]}
        found[name]["ratio"] = found[name]["perplexity"] / found["exact"]["perplexity"]
        print(name, found[name], flush=True)
    return found


def main() -> None:
    """Measure what is asked for; keep the other part of the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path, nargs="+")
    parser.add_argument("--language")
    parser.add_argument("--text", type=Path)
    args = parser.parse_args()
    file = RESULTS / f"{NAME}.json"
    result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    result.pop("machine", None)
    if args.runs and args.data:
        result["vision"] = vision(args.runs, args.data)
    if args.language and args.text:
        result["language"] = language(args.language, args.text)
    rows = [["arm", "accuracy or perplexity", "points lost, or ratio"]]
    for name, found in result.get("vision", {}).items():
        mean, lost = (statistics.fmean(found[key]) for key in ("accuracy", "lost_points"))
        rows.append([f"vit-tiny-fashion, {name}", f"{mean:.2f}", f"{lost:+.2f}"])
    for name, found in result.get("language", {}).items():
        rows.append([
            f"SmolLM2-135M, {name}", f"{found['perplexity']:.3f}", f"{found['ratio']:.4f}x",
        ])  # fmt: skip
    result["operations"] = {
        "softmax 4, a row of 16": operations("softmax", 4, 16),
        "layernorm 4, a row of 48": operations("layernorm", 4, 48),
        "gelu 16, 96 elements": operations("gelu", 16, 96),
    }
    result["goals"] = {"lost_points": 0.5, "perplexity_ratio": 1.02}
    report(NAME, torch.get_num_threads(), result, rows)


if __name__ == "__main__":
    main()
