"""Claim: how SESR is trained here was chosen on held-out pictures, one setting at a time.

Every row trains M5 x2 on the same number of input pixels from the same seed, and differs from the
recipe in what its name says. Scores are of the pictures held out of the training folder; test sets
have no part in it. Rows are kept in --work and resumed there. With --photos, the folder that
`benchmarks.data.sesr_photos` makes, also how the trained network goes on from there: with what
pictures, and with which targets.

Run: python -m benchmarks.sesr_ablation --data BSDS500 --work runs/ablation [--photos DIR]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import zoo
from benchmarks.common import report
from zoo import registry
from zoo.registry.checkpoint import Checkpoint
from zoo.tasks import super_resolution
from zoo.tasks.super_resolution.enlarging import enlarge
from zoo.tasks.super_resolution.quality import psnr

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

START = f"{NAME}.bsds"
GOING_ON: dict[str, dict[str, Any]] = {  # "photos": the pictures of --photos, not of --data
    "wallpapers too, the XL as teacher": {"photos": True, "train.teacher": "sesr-xl-x2.photos"},
    "wallpapers too": {"photos": True},
    "the XL as teacher": {"train.teacher": "sesr-xl-x2.photos"},
    "neither": {},
}
GOING_ON_STEPS = 2500


def settings(changes: dict[str, Any]) -> dict[str, Any]:
    """Return what a row changes, and as many steps as its share of the pixels buys."""
    train = registry.find(NAME).train
    batch = changes.get("train.batch_size", train.batch_size)
    patch = changes.get("train.options.patch_size", train.options["patch_size"])
    steps = round(MEGAPIXELS * 1e6 / (batch * patch**2))
    often = {"train.eval_every": steps, "train.save_every": max(steps // 8, 1)}
    return {**COMMON, **changes, **often, "train.steps": steps}


def trained(label: str, chosen: dict[str, Any], data: str, start: str, work: Path) -> Checkpoint:
    """Train a row, or resume it, or read its result."""
    out = work / "".join(c if c.isalnum() else "-" for c in label)
    words = [sys.executable, "-m", "zoo", "train", NAME, "--data", data, "--out", str(out)]
    words += ["--from", start, "--threads", "1"]
    words += [word for k, v in chosen.items() for word in ("--set", f"{k}={v}")]
    if not _complete(out):
        resume = ["--resume"] if (out / "log.jsonl").exists() else []
        subprocess.run([*words, *resume], check=True, stdout=subprocess.DEVNULL)
    return Checkpoint.read(out)


def run(label: str, changes: dict[str, Any], data: str, work: Path) -> dict[str, Any]:
    """Return the result of a row."""
    chosen = settings(changes)
    metrics = trained(label, chosen, data, "none", work).metrics
    return {
        "row": label,
        "changes": changes,
        "steps": chosen["train.steps"],
        "held_out_db": metrics["held_out"]["psnr_y_db"],
        "hours": metrics["training"]["hours"],
    }


def going_on(label: str, changes: dict[str, Any], data: str, photos: str, work: Path) -> Any:
    """Return the result of a row of the second table, on the pictures held out of both folders."""
    chosen = {k: v for k, v in changes.items() if k != "photos"}
    chosen |= {**COMMON, "train.steps": GOING_ON_STEPS, "train.lr": 2e-3}
    chosen |= {"train.eval_every": GOING_ON_STEPS // 5}
    source = photos if "photos" in changes else data
    return {"row": label} | held_out(trained(label, chosen, source, START, work), photos)


def held_out(checkpoint: Checkpoint, photos: str) -> dict[str, float]:
    """Return mean Y-PSNR in dB over what is held out of BSDS500, and of the wallpapers."""
    model, recipe = checkpoint.load().eval(), checkpoint.recipe
    data, scale = super_resolution.training_data(recipe, photos), recipe.args["scale"]
    scores: dict[str, list[float]] = {"bsds500_db": [], "wallpapers_db": []}
    for name, planes in zip(data.facts["held_out"], data.held_out, strict=True):
        high, low = (super_resolution.to_tensor(plane) for plane in planes)
        kind = "wallpapers_db" if name.startswith("wallpaper_") else "bsds500_db"
        scores[kind].append(psnr(enlarge(model, low), high, border=scale))
    return {kind: sum(values) / len(values) for kind, values in scores.items()}


def _complete(out: Path) -> bool:
    file = out / "metrics.json"
    return file.exists() and json.loads(file.read_text())["training"]["complete"] is True


def main() -> None:
    """Train every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="the training pictures")
    parser.add_argument("--work", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--photos", help="the folder of benchmarks.data.sesr_photos")
    args = parser.parse_args()
    rows = [run(label, changes, args.data, args.work) for label, changes in ROWS.items()]
    base = rows[0]["held_out_db"]
    table = [["row", "steps", "held out dB", "against the recipe"]]
    for row in rows:
        score = row["held_out_db"]
        table.append([row["row"], str(row["steps"]), f"{score:.3f}", f"{score - base:+.3f}"])
    result: dict[str, Any] = {"megapixels": MEGAPIXELS, "rows": rows}
    if args.photos:
        result["going_on"] = [
            {"row": START} | held_out(zoo.checkpoint(START), args.photos),
            *(going_on(k, v, args.data, args.photos, args.work) for k, v in GOING_ON.items()),
        ]
        table.append([f"going on, {GOING_ON_STEPS} steps", "", "BSDS500 dB", "wallpapers dB"])
        for row in result["going_on"]:
            table.append([row["row"], "", *(f"{row[k]:.3f}" for k in list(row)[1:])])
    report("sesr_ablation", 1, result, table)


if __name__ == "__main__":
    main()
