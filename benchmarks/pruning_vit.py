"""Pruning by magnitude on a vision transformer, beside low rank at the same share of its weights.

The question: what do zeros, and whole filters, lose at 40 % and at 70 % of the weights of the
blocks, in one shot and with 60 steps of repair by kl, where low rank loses what `lowrank_vit` says?
Three networks, trained as there; each is judged on all test pictures. Zeros keep 100 % of the bytes
and MACs; filters go from the blocks' inner layers alone, since what the residuals add is tied to
the normalisations, and cannot keep less than a half of the blocks. Run:
python -m benchmarks.pruning_vit --data DIR --runs runs/vit-0 runs/vit-1 ...
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report
from benchmarks.lowrank_vit import accuracy, pictures
from zoo.compression.methods import lowrank, magnitude
from zoo.compression.network import calibrated
from zoo.compression.repair import repair

BLOCKS = ("blocks.*",)
TUNED: dict[str, Any] = {"repair": "gradient", "repair_loss": "kl"}


def zeros(keep: float, **changes: Any) -> magnitude.Options:
    """Return the options of single weights."""
    return magnitude.Options(keep=keep, layers=BLOCKS, **changes)


def low(keep: float, **changes: Any) -> lowrank.Options:
    """Return the options of low rank."""
    return lowrank.Options(keep=keep, layers=BLOCKS, **changes)


def filters(keep: float, **changes: Any) -> magnitude.Options:
    """Return the options of whole filters; `keep` is that of the layers that make or read them."""
    return magnitude.Options(keep=keep, structured=True, layers=("blocks.*.fc1",), **changes)


ARMS = {
    "zeros, 40 %": zeros(0.4),
    "zeros, 40 %, 60 steps in 5 stages": zeros(0.4, **TUNED),
    "low rank, 40 %": low(0.4),
    "low rank, 40 %, 60 steps": low(0.4, **TUNED),
    "zeros, 70 %": zeros(0.7),
    "filters of the inner layers, 40 % of these": filters(0.4),
    "the same, 60 steps": filters(0.4, **TUNED),
    "low rank, 70 %": low(0.7),
    "low rank, 70 %, 60 steps": low(0.7, **TUNED),
}  # 40 % of the inner layers, which are half of the blocks' weights, leave 70 % of the blocks


def measured(run: Path, data: Path) -> dict[str, Any]:
    """Return the accuracy of each arm on one network, its numbers, and the CPU seconds it took."""
    checkpoint = zoo.checkpoint(run)
    network, recipe = checkpoint.load(), checkpoint.recipe
    batches, (x, labels) = calibrated(recipe, data), pictures(recipe, data / "test")
    whole = sum(p.numel() for p in network.parameters())
    found: dict[str, Any] = {"float": {"accuracy": accuracy(network, x, labels), "numbers": whole}}
    for name, options in ARMS.items():
        start = time.process_time()
        if isinstance(options, lowrank.Options):
            small = lowrank.replaced(network, lowrank.truncated(network, batches, options))
            if options.repair:
                repair(small, network, batches, options)
        elif options.structured:
            small, _, _ = magnitude.shrunk(network, recipe.input_shape, batches, options)
        else:
            small, _ = magnitude.thinned(network, batches, options)
        found[name] = {
            "accuracy": accuracy(small, x, labels),
            "numbers": sum(p.numel() for p in small.parameters()),
            "nonzero": sum(int(p.count_nonzero()) for p in small.parameters()),
            "cpu_s": round(time.process_time() - start, 2),
        }
        print(f"{run.name}  {name:44}{found[name]}", flush=True)
    return found


def main() -> None:
    """Measure every arm on every network, print the means, and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {run.name: measured(run, args.data) for run in args.runs}
    rows = [["arm", "numbers", "not zero", "accuracy", "below float: mean", "each"]]
    for name in ARMS:
        each = [one["float"]["accuracy"] - one[name]["accuracy"] for one in runs.values()]
        means = {
            what: statistics.fmean(one[name][what] for one in runs.values())
            for what in ("numbers", "nonzero", "accuracy")
        }
        counts = [f"{means['numbers']:,.0f}", f"{means['nonzero']:,.0f}"]
        lost = [f"{statistics.fmean(each):.2f}", ", ".join(f"{one:.2f}" for one in each)]
        rows.append([name, *counts, f"{means['accuracy']:.2f}", *lost])
    report("pruning_vit", 1, {"runs": runs}, rows)


if __name__ == "__main__":
    main()
