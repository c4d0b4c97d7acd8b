"""Claim: how SESR is trained here was chosen on held-out pictures, one setting at a time.

Every row trains M5 x2 on the same number of input pixels from the same seed, and differs from the
recipe in what its name says. Scores are of the pictures held out of the training folder; test sets
have no part in it. Rows are kept in --work and resumed there.

Run: python -m benchmarks.sesr_ablation --data DIR --work runs/ablation
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import report
from zoo import registry
from zoo.checkpoint import Checkpoint

NAME = "sesr-m5-x2"
MEGAPIXELS = 30  # input pixels that every row learns from; the recipe itself sees 370
# Rounding and fusion as the shipped weights were trained: twice as fast on CPUs with bf16.
COMMON = {"train.compile": "true", "train.precision": "bf16"}
ADAMW = {"train.optimizer": "adamw", "train.lr": 5e-4}
ROWS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "AdamW at 5e-4 on factors of 256": {**ADAMW, "train.options.expansion": 256},
    "AdamW at 1e-3 on the kernels": {**ADAMW, "train.lr": 1e-3},
    "factors of 256: twice the time": {"train.lr": 3e-3, "train.options.expansion": 256},
    "rate 1e-2": {"train.lr": 1e-2},
    "rate 2.5e-3": {"train.lr": 2.5e-3},
    "2 of 64x64": {"train.batch_size": 2, "train.options.patch_size": 64},
    "8 of 64x64: a quarter of the steps": {
        "train.batch_size": 8,
        "train.options.patch_size": 64,
    },
    "no shrunk copies": {"train.options.shrunk_copies": 0},
    "no moving average": {"train.ema_decay": 0.0},
    "float32": {"train.precision": "no"},
}


def settings(changes: dict[str, Any]) -> dict[str, Any]:
    """Return what a row changes, and as many steps as its share of the pixels buys."""
    train = registry.find(NAME).train
    batch = changes.get("train.batch_size", train.batch_size)
    patch = changes.get("train.options.patch_size", train.options["patch_size"])
    steps = round(MEGAPIXELS * 1e6 / (batch * patch**2))
    often = {"train.eval_every": steps, "train.save_every": max(steps // 8, 1)}
    return {**COMMON, **changes, **often, "train.steps": steps}


def run(label: str, changes: dict[str, Any], data: str, work: Path) -> dict[str, Any]:
    """Train a row, or go on with it, or read what it gave."""
    chosen = settings(changes)
    out = work / "".join(c if c.isalnum() else "-" for c in label)
    words = [sys.executable, "-m", "zoo", "train", NAME, "--data", data, "--out", str(out)]
    words += ["--from", "none", "--threads", "1"]
    words += [word for k, v in chosen.items() for word in ("--set", f"{k}={v}")]
    if not _complete(out):
        resume = ["--resume"] if (out / "log.jsonl").exists() else []
        subprocess.run([*words, *resume], check=True, stdout=subprocess.DEVNULL)
    metrics = Checkpoint.read(out).metrics
    return {
        "row": label,
        "changes": changes,
        "steps": chosen["train.steps"],
        "held_out_db": metrics["held_out"]["psnr_y_db"],
        "hours": metrics["training"]["hours"],
    }


def _complete(out: Path) -> bool:
    file = out / "metrics.json"
    return file.exists() and json.loads(file.read_text())["training"]["complete"] is True


def main() -> None:
    """Train every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the training pictures")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    args = parser.parse_args()
    rows = [run(label, changes, args.data, args.work) for label, changes in ROWS.items()]
    base = rows[0]["held_out_db"]
    table = [["row", "steps", "held out dB", "against the recipe"]]
    for row in rows:
        score = row["held_out_db"]
        table.append([row["row"], str(row["steps"]), f"{score:.3f}", f"{score - base:+.3f}"])
    report("sesr_ablation", 1, {"megapixels": MEGAPIXELS, "rows": rows}, table)


if __name__ == "__main__":
    main()
