"""Low rank on a vision transformer: 40 % of the block weights, with and without repair.

Claim: ranks by the gradient of the outputs, on factors that see the layers' inputs, lose at most
2.3 points of accuracy untuned and 1.3 after 60 steps without labels; plain singular values at
uniform ranks lose far more. Three networks, trained from three seeds by

    zoo train vit-tiny-fashion --data DIR --out runs/vit-SEED --set train.seed=SEED

each judged on all test pictures. `DIR/train/LABEL/*.png` and `DIR/test/LABEL/*.png` are
Fashion-MNIST. Run: python -m benchmarks.lowrank_vit --data DIR --runs runs/vit-0 runs/vit-1 ...
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zoo
from benchmarks.common import RESULTS, report
from zoo.compression.methods import lowrank
from zoo.compression.network import calibrated
from zoo.compression.repair import repair
from zoo.data import images
from zoo.registry.recipe import Recipe
from zoo.tasks import image_classification as task

BLOCKS = lowrank.Options(layers=("blocks.*",))
ARMS: dict[str, dict[str, Any]] = {
    "plain SVD, uniform": {"ranks": "uniform", "whiten": False},
    "plain SVD, by gradient": {"whiten": False},
    "aware, uniform": {"ranks": "uniform"},
    "aware, by gradient": {},
    "+ 60 steps, mse": {"repair": "gradient", "repair_loss": "mse"},
    "+ 60 steps, kl": {"repair": "gradient", "repair_loss": "kl"},
    "+ 60 trials of evolution, kl": {
        "repair": "evolve", "repair_loss": "kl", "repair_rate": 0.05,
    },
}  # fmt: skip


def pictures(recipe: Recipe, folder: Path) -> tuple[Tensor, Tensor]:
    """Return all pictures of a folder of labels, as a network takes them, and their labels."""
    found = [
        (task.fitted(path, recipe), number)
        for number, label in enumerate(recipe.preprocessing["labels"])
        for path in images.find(folder / label)
    ]
    pixels = torch.from_numpy(np.stack([one for one, _ in found]))
    return task.inputs(pixels, recipe), torch.tensor([number for _, number in found])


@torch.inference_mode()
def accuracy(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return the share of pictures whose likeliest label is theirs, in percent."""
    guesses = torch.cat([network(part).argmax(1) for part in x.split(500)])
    return 100 * float((guesses == labels).float().mean())


def measured(run: Path, data: Path, keep: float) -> dict[str, Any]:
    """Return the accuracy of each arm on one network, and the CPU seconds it took."""
    checkpoint = zoo.checkpoint(run)
    network, recipe = checkpoint.load(), checkpoint.recipe
    batches = calibrated(recipe, data)
    x, labels = pictures(recipe, data / "test")
    found: dict[str, Any] = {"float": {"accuracy": accuracy(network, x, labels)}}
    for name, changes in ARMS.items():
        options = dataclasses.replace(BLOCKS, keep=keep, **changes)
        start = time.process_time()
        small = lowrank.replaced(network, lowrank.truncated(network, batches, options))
        if options.repair:
            repair(small, network, batches, options)
        seconds = time.process_time() - start
        found[name] = {"accuracy": accuracy(small, x, labels), "cpu_s": round(seconds, 2)}
        print(f"{run.name}  keep {keep:.0%}  {name:32}{found[name]}", flush=True)
    return found


def main() -> None:
    """Measure every arm on every network, print the means, and record them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = known()
    rows = [["keep", "arm", "networks", "accuracy", "below float"]]
    for keep in args.keep:
        runs = results.setdefault(f"{keep:g}", {})
        runs |= {run.name: measured(run, args.data, keep) for run in args.runs}
        for name in runs[args.runs[0].name]:
            found = [one[name]["accuracy"] for one in runs.values()]
            lost = [one["float"]["accuracy"] - one[name]["accuracy"] for one in runs.values()]
            means = (f"{statistics.fmean(values):.2f}" for values in (found, lost))
            rows.append([f"{keep:.0%}", name, str(len(runs)), *means])
    report("lowrank_vit", 1, {"keep": results}, rows)


def known() -> dict[str, Any]:
    """Return what was measured before, by share and network: one network after another will do."""
    file = RESULTS / "lowrank_vit.json"
    if not file.is_file():
        return {}
    kept: dict[str, Any] = json.loads(file.read_text())["keep"]
    return kept


if __name__ == "__main__":
    main()
