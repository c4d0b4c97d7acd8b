"""Fine-tuning before one-shot compression: sharpness-aware steps against AdamW in equal time.

    python -m benchmarks.sharpness --data DIR --runs runs/vit-0 runs/vit-1 runs/vit-2 --work WORK

Each network of `benchmarks.lowrank_vit` is tuned on, from its own weights, in 150 sharpness-aware
steps and in 300 plain ones, which take as long; then pruned by magnitude, layer by layer, or its
weights rounded to 3 bits, one scale a tensor (linear layers of the blocks). All 10,000 test
pictures. Runs in WORK are not made again. Goal (CrAFT, arXiv 2305.04526): 2 points more where
pruning has cost AdamW 10 to 20. `sharpness` is what the loss of 1,000 test pictures rises by along
the gradient, at a radius of 0.1.
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zoo
from benchmarks.common import RESULTS, report
from benchmarks.lowrank_vit import accuracy, pictures
from zoo.training.updates import climb

NAME = "sharpness"
COMMON = {"lr": 1e-3, "batch_size": 128, "warmup_steps": 0, "eval_every": 10_000, "ema_decay": 0.0,
          "save_every": 10_000, "log_every": 50}  # fmt: skip
ARMS: dict[str, dict[str, Any]] = {
    "adamw, 300 steps": {"steps": 300},
    "radius 0.2, 150 steps": {"steps": 150, "sharpness": 0.2},
    "radius 0.05, 150 steps": {"steps": 150, "sharpness": 0.05},
}
PRUNED = (0.5, 0.7, 0.8)
RADIUS, SEEN = 0.1, 1000


def matrices(network: nn.Module) -> list[Tensor]:
    """Return the weights that are compressed."""
    return [
        m.weight
        for name, m in network.named_modules()
        if isinstance(m, nn.Linear) and name.startswith("blocks.")
    ]


@torch.no_grad()
def pruned(network: nn.Module, share: float) -> nn.Module:
    """Return a copy without the smallest weights of each layer."""
    small = copy.deepcopy(network)
    for weight in matrices(small):
        bound = weight.abs().flatten().kthvalue(int(share * weight.numel())).values
        weight.mul_(weight.abs() > bound)
    return small


@torch.no_grad()
def rounded(network: nn.Module, bits: int) -> nn.Module:
    """Return a copy with weights of so many bits, each tensor's scale the best of many."""
    small = copy.deepcopy(network)
    top = 2 ** (bits - 1) - 1
    for weight in matrices(small):
        candidates = []
        for part in torch.linspace(0.3, 1.0, 36):
            scale = weight.abs().max() * part / top
            candidates.append((weight / scale).round().clamp(-top - 1, top) * scale)
        weight.copy_(min(candidates, key=lambda one: float((one - weight).square().sum())))
    return small


def sharpness(network: nn.Module, x: Tensor, labels: Tensor) -> float:
    """Return how much the loss rises along its gradient."""
    there = copy.deepcopy(network).requires_grad_(True)
    loss = F.cross_entropy(there(x), labels)
    loss.backward()
    climb([p for p in there.parameters() if p.grad is not None], RADIUS)
    with torch.no_grad():
        return float(F.cross_entropy(there(x), labels) - loss)


def measured(network: nn.Module, x: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracies and sharpness of a network."""
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:SEEN]
    return {
        "float": accuracy(network, x, labels),
        "3 bits": accuracy(rounded(network, 3), x, labels),
        **{f"pruned {p:.0%}": accuracy(pruned(network, p), x, labels) for p in PRUNED},
        "sharpness": sharpness(network, x[mixed], labels[mixed]),
    }


def arm_of(run: Path, name: str, data: Path, work: Path, seed: int) -> tuple[Path, float | None]:
    """Tune a network; return its folder, and the CPU seconds if it was made now."""
    out = work / f"{run.name}-{name.replace(' ', '-').replace(',', '')}"
    if (out / "metrics.json").is_file():
        return out, None
    start = time.process_time()
    zoo.train(
        zoo.find("vit-tiny-fashion"), out, init=str(run), data=data, device="cpu", seed=100 + seed,
        **COMMON, **ARMS[name],
    )  # fmt: skip
    return out, time.process_time() - start


def main() -> None:
    """Tune and measure what is missing; print the means."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    file = RESULTS / f"{NAME}.json"
    known = json.loads(file.read_text(encoding="utf-8"))["networks"] if file.exists() else {}
    for seed, run in enumerate(args.runs):
        found = known.setdefault(run.name, {})
        checkpoint = zoo.checkpoint(run)
        x, labels = pictures(checkpoint.recipe, args.data / "test")
        found.setdefault("start", measured(checkpoint.load(), x, labels))
        for name in ARMS:
            if name not in found:
                out, seconds = arm_of(run, name, args.data, args.work, seed)
                found[name] = measured(zoo.load(out), x, labels)
                if seconds is not None:
                    found[name]["cpu_s"] = seconds
                print(run.name, name, found[name], flush=True)
            show(known)


def show(known: dict[str, Any]) -> None:
    """Store what was measured; print the means."""
    columns = ["float", "3 bits", *(f"pruned {p:.0%}" for p in PRUNED), "sharpness"]
    rows = [["arm", "networks", *columns]]
    means: dict[str, dict[str, float]] = {}
    for name in ("start", *ARMS):
        found = [one[name] for one in known.values() if name in one]
        if found:
            means[name] = {c: statistics.fmean(f[c] for f in found) for c in columns}
            cells = [f"{means[name][c]:.2f}" for c in columns[:-1]]
            rows.append([name, str(len(found)), *cells, f"{means[name]['sharpness']:.4f}"])
    result = {"networks": known, "means": means, "goal_points": 2.0}
    report(NAME, 1, result, rows)


if __name__ == "__main__":
    main()
