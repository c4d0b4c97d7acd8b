"""Claim: with half of its pointwise filters ternary, a MobileNet sees nearly as well.

MobileNetV1 x0.25 on CIFAR-10 as JPEGs, 32x32: all filters real; every filter ternary itself; hybrid
filter banks with a quarter, three eighths and half of the filters real; and with a share for each
layer, in the bytes of half. The real network is trained first and teaches the others, which all
have the same settings. The test pictures are judged once a run.

Run: python -m benchmarks.ternary_mobilenet --pictures CIFAR10 --runs DIR [--steps 10000]

CIFAR10 has folders `train` and `test`, each with a folder for every class.
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


def made(way: str, dense: Path | None, data: Path) -> Recipe:
    """Return the recipe of a way to store the filters."""
    if way == ALLOCATED:
        assert dense is not None
        found = zoo.checkpoint(dense)
        return allocated(registry.find(HYBRID), found.load(), calibration(found.recipe, data))
    recipe = registry.find(DENSE if way == "real" else HYBRID)
    return dataclasses.replace(recipe, args={**recipe.args, **WAYS[way]})


def one(way: str, data: Path, place: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train a way, or go on with it; return what it reaches and takes."""
    dense = None if way == "real" else place / f"real-{seed}"
    recipe = made(way, dense, data).override({"train.seed": seed, "train.steps": steps})
    teacher = {} if dense is None else {"teacher": str(dense)}
    name = "".join(c if c.isalnum() else "-" for c in way)
    out = train(
        recipe, data, place / f"{name}-{seed}", license=LICENSE, eval_every=max(1, steps // 8),
        save_every=max(1, steps // 8), **teacher,
    )  # fmt: skip
    network = zoo.checkpoint(out).load()
    payload = sum(v.numel() * v.element_size() for v in network.state_dict().values())
    return {
        "accuracy": judged(out, data, SET),
        "alpha": recipe.args["alpha"],
        "file_numbers_bytes": payload,
        "bytes_1.6_bits": stored_bytes(network),
        "bytes_2_bits": stored_bytes(network, per_byte=4),
    }


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--steps", type=int, default=10_000, help="of each run")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="so many of each")
    parser.add_argument("--ways", nargs="+", default=[*WAYS, ALLOCATED], help="the first is real")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, found = [["filters", "accuracy", "bytes at 1.6 bits", "at 2 bits"]], {}
    for way in args.ways:
        runs = [one(way, args.pictures, args.runs, s, args.steps) for s in SEEDS[: args.seeds]]
        mean = statistics.mean(run["accuracy"] for run in runs)
        found[way] = {"accuracy": mean, "runs": runs}
        sizes = (str(runs[0][f"bytes_{bits}_bits"]) for bits in ("1.6", "2"))
        rows.append([way, percent(mean), *sizes])
        print(*rows[-1], flush=True)
    claim = "pictures by hybrid filter banks"
    report("ternary_mobilenet", 1, {"claim": claim, "steps": args.steps, "ways": found}, rows)


if __name__ == "__main__":
    main()
