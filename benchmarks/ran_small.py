"""ran-e-32 against what it was, ran-e-32-ib: accuracy in float and int8, latency by Vela.

Both are trained alike, on CIFAR-10 stored as JPEG, a pair of runs for each seed; then quantized
without training. The goal: in int8 at least the accuracy of the network whose inverted bottlenecks
were left as they are, in less time. Runs are resumed, and what is there is not made again. Run:

    python -m benchmarks.ran_small --data DIR --runs DIR [--seeds 3]

DIR has `train/LABEL/*.jpg` and `test/LABEL/*.jpg`.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report

NAMES = ("ran-e-32", "ran-e-32-ib")
NPU = "ethos-u55-256"
STEPS, EVERY = 800, 200


def measured(name: str, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train, quantize and judge a network; return its accuracies."""
    out = runs / f"{name}-{seed}"
    made = zoo.train(
        name,
        out,
        data=data,
        data_license="not stated by its authors (CIFAR-10)",
        device="cpu",
        resume=out.is_dir(),
        seed=seed,
        steps=STEPS,
        eval_every=EVERY,
        save_every=EVERY,
    )
    small = Path(f"{out}-int8")
    if not (small / "config.json").is_file():
        zoo.compress(out, small, method="int8", data=data)
    found = {"held_out": made.metrics["held_out"]["accuracy"]}
    for kind, folder in (("float", out), ("int8", small)):
        found[kind] = zoo.evaluate(folder, data)["accuracy"]
    return found


def main() -> None:
    """Measure, store, and fail if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for name in NAMES:
        cost = zoo.estimate(name, NPU, method="vela")
        seeds = [measured(name, seed, args.data, args.runs) for seed in range(args.seeds)]
        results[name] = {
            "parameters": cost.total_parameters,
            "macs": cost.macs,
            "latency_ms": cost.latency_ms,
            "host": list(cost.host),
            "seeds": seeds,
        }
    rows = [["network", "parameters", "M MACs", f"ms on {NPU}", "float, each seed", "int8", "mean"]]
    for name, found in results.items():
        shown = [
            ", ".join(f"{100 * seed[kind]:.1f}" for seed in found["seeds"])
            for kind in ("float", "int8")
        ]
        found["mean_int8"] = statistics.mean(seed["int8"] for seed in found["seeds"])
        counts = [f"{found['parameters']:,}", f"{found['macs'] / 1e6:.2f}"]
        rows.append(
            [name, *counts, f"{found['latency_ms']:.3f}", *shown, f"{found['mean_int8']:.4f}"]
        )
    report("ran_small", 1, {"npu": NPU, "steps": STEPS, "networks": results}, rows)
    ours, parent = (results[name] for name in NAMES)
    if ours["host"] or ours["latency_ms"] >= parent["latency_ms"]:
        raise SystemExit("ran-e-32 is not faster, or not on the NPU alone")
    if ours["mean_int8"] < parent["mean_int8"]:
        raise SystemExit("ran-e-32 is less accurate than what it was")


if __name__ == "__main__":
    main()
