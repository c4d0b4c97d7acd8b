"""Claim: with half of its pointwise filters ternary, a MobileNet sees nearly as well.

MobileNetV1 x0.25 on CIFAR-10 as JPEGs, 32x32: all filters real; every filter ternary itself; hybrid
filter banks with a quarter, three eighths and half of the filters real; and with a share for each
layer, in the bytes of half. The real network is trained first and teaches the others, which all
have the same settings. The test pictures are judged once a run. What is stored is what is
finished; differences are those of the seeds that both ways have.

Run: python -m benchmarks.ternary_mobilenet --pictures CIFAR10 --runs DIR [--steps 1500]

CIFAR10 has folders `train` and `test`, each with a folder for every class. With --finished nothing
is trained: runs that ended are judged, and stored.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report
from benchmarks.keywords import judged, percent, train
from zoo import registry
from zoo.compression.shares import allocated
from zoo.models.blocks.ternary import stored_bytes
from zoo.registry.recipe import Recipe
from zoo.tasks import calibration

DENSE, HYBRID = "mobilenet-v1-025", "mobilenet-v1-025-hybrid"
# The recipe's average, of ten thousand steps, would remember how a short run began.
SETTINGS = {"ema_decay": 0.99}
LICENSE, SET, SEEDS = "not stated by its authors (CIFAR-10)", "CIFAR-10 test, as JPEG", (0, 1, 2)
# alpha and bank; a bank of 0 has no sums of products: the filters are ternary themselves.
WAYS: dict[str, dict[str, float]] = {
    "real": {"alpha": 1.0},
    "all ternary": {"alpha": 0.0, "bank": 0.0},
    "hybrid 1/4": {"alpha": 0.25},
    "hybrid 3/8": {"alpha": 0.375},
    "hybrid 1/2": {"alpha": 0.5},
}
ALLOCATED = "hybrid, shares by layer"
STUDENT = {2: 12.706, 3: 4.303}  # two-sided 95 % quantiles, by how many seeds there are


def made(way: str, dense: Path | None, data: Path) -> Recipe:
    """Return the recipe of a way to store the filters."""
    if way == ALLOCATED:
        assert dense is not None
        found = zoo.checkpoint(dense)
        return allocated(registry.find(HYBRID), found.load(), calibration(found.recipe, data))
    recipe = registry.find(DENSE if way == "real" else HYBRID)
    return dataclasses.replace(recipe, args={**recipe.args, **WAYS[way]})


def run_of(way: str, place: Path, seed: int) -> Path:
    """Return the folder of a way's run."""
    return place / f"{''.join(c if c.isalnum() else '-' for c in way)}-{seed}"


def is_finished(run: Path) -> bool:
    """Whether a run has ended."""
    return (run / "metrics.json").is_file() and bool(
        zoo.checkpoint(run).metrics["training"]["complete"]
    )


def trained(way: str, data: Path, place: Path, seed: int, steps: int) -> Path:
    """Train a way, or go on with it; return its run."""
    dense = None if way == "real" else run_of("real", place, seed)
    recipe = made(way, dense, data).override({"train.seed": seed, "train.steps": steps})
    often = max(1, steps // 8)
    settings: dict[str, Any] = {**SETTINGS, "eval_every": often, "save_every": often}
    if dense is not None:
        settings["teacher"] = str(dense)
    return train(recipe, data, run_of(way, place, seed), license=LICENSE, **settings)


def facts(run: Path, data: Path) -> dict[str, Any]:
    """Return what a run reaches and takes."""
    found = zoo.checkpoint(run)
    network = found.load()
    return {
        "seed": found.recipe.train.seed,
        "steps": found.recipe.train.steps,
        "accuracy": judged(run, data, SET),
        "alpha": found.recipe.args["alpha"],
        "file_numbers_bytes": sum(
            v.numel() * v.element_size() for v in network.state_dict().values()
        ),
        "bytes_1.6_bits": stored_bytes(network),
        "bytes_2_bits": stored_bytes(network, per_byte=4),
    }


def differences(
    runs: dict[str, list[dict[str, Any]]], way: str, other: str
) -> dict[str, float | None]:
    """Return by how much one way is better than another, seed by seed, and the 95 % interval."""
    if way not in runs or other not in runs:
        return {}
    theirs = {run["seed"]: run["accuracy"] for run in runs[other]}
    more = [run["accuracy"] - theirs[run["seed"]] for run in runs[way] if run["seed"] in theirs]
    quantile = STUDENT.get(len(more))
    spread = None if quantile is None else quantile * statistics.stdev(more) / len(more) ** 0.5
    return {"mean": statistics.mean(more), "interval": spread, "seeds": len(more)}


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--steps", type=int, default=1500, help="of each run")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="so many of each")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, ALLOCATED], help="the first is real")
    parser.add_argument("--finished", action="store_true", help="train nothing more")
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS[: args.seeds]:
        for way in args.ways:
            if not args.finished:
                trained(way, args.pictures, args.runs, seed, args.steps)
            if is_finished(run := run_of(way, args.runs, seed)):
                runs.setdefault(way, []).append(facts(run, args.pictures))
                print(way, seed, percent(runs[way][-1]["accuracy"]), flush=True)
    rows = [["filters", "seeds", "accuracy", "bytes at 1.6 bits", "at 2 bits"]]
    for way, found in runs.items():
        mean = statistics.mean(run["accuracy"] for run in found)
        sizes = (str(found[0][f"bytes_{bits}_bits"]) for bits in ("1.6", "2"))
        rows.append([way, str(len(found)), percent(mean), *sizes])
    result = {
        "claim": "pictures by hybrid filter banks",
        "settings": SETTINGS,
        "ways": runs,
        "half_over_real": differences(runs, "hybrid 1/2", "real"),
        "half_over_ternary": differences(runs, "hybrid 1/2", "all ternary"),
    }
    report("ternary_mobilenet", 1, result, rows)


if __name__ == "__main__":
    main()
