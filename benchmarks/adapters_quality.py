"""SHiRA against LoRA on three tasks: alone, and with all three fused. In parts, as time allows.

    python -m benchmarks.adapters_quality --runs RUNS --base ./smollm2 --glue GLUE --train
    python -m benchmarks.adapters_quality --runs RUNS --base ./smollm2 --glue GLUE

The first trains what is missing in RUNS, one run after the other (`--only sst2-wm-0,...` some of
them); killed and called again, it resumes. The second scores every finished run on GLUE's dev
files and stores each score as it comes. The base is SmolLM2-135M; every method trains 0.83 million
values (LoRA r4 on q, k, v, up and down; as many masked entries) in as many steps, few of them:
what a processor does in minutes. Three masks are tried with one seed; the one with the best mean
accuracy on the 200 held-out training examples of each task goes on to the others. Magnitude masks
are bands, so that the tasks' do not overlap. Rates were not searched for: the paper's ratio of
SHiRA's to LoRA's (2.5), rounded to 2.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, report

TASKS = {"sst2": "SST-2", "cola": "CoLA", "rte": "RTE"}
METHODS = {
    "wm": {"mask.kind": "wm", "train.lr": 2e-3},
    "lora": {"method": "lora", "rank": 4, "train.lr": 1e-3},
    "block": {"mask.kind": "block", "mask.score": "wm", "mask.block": 16, "train.lr": 2e-3},
    "snip": {"mask.kind": "snip", "train.lr": 2e-3},
    "rand": {"mask.kind": "rand", "train.lr": 2e-3},
}
MASKS = ("wm", "snip", "rand")  # to choose from
BANDED = ("wm", "block")
LAYERS = "*.q_proj.weight,*.k_proj.weight,*.v_proj.weight,*.up_proj.weight,*.down_proj.weight"
COMMON = {
    "mask.density": 0.0119, "mask.include": LAYERS, "train.precision": "bf16",
    "train.warmup_steps": 8, "train.save_every": 20, "train.log_every": 10,
    "train.options.length": 128,
}  # fmt: skip
STEPS = {
    "sst2": {"train.steps": 80, "train.eval_every": 40},
    "cola": {"train.steps": 160, "train.eval_every": 80},
    "rte": {"train.steps": 80, "train.eval_every": 40, "train.batch_size": 8},  # of 80 tokens each
}
SEEDS = (0, 1)


def settings(task: str, method: str, seed: int) -> dict[str, Any]:
    """Return the settings of a run."""
    number = list(TASKS).index(task)
    return {
        **COMMON, **STEPS[task], **METHODS[method],
        "mask.band": number if method in BANDED else 0, "mask.seed": seed * len(TASKS) + number,
        "train.options.format": task, "train.seed": seed,
    }  # fmt: skip


def held_out(folder: Path) -> float:
    """Return the best accuracy of a run on the held-out training examples: what it ships."""
    lines = map(json.loads, (folder / "log.jsonl").read_text(encoding="utf-8").splitlines())
    return max(line["held_out/accuracy"] for line in lines if "held_out/accuracy" in line)


def chosen(runs: Path) -> tuple[str, dict[str, float]]:
    """Return the mask with the best mean held-out accuracy with the first seed; and all means.

    The first of `MASKS` while runs are missing.
    """
    folders = {kind: [runs / f"{task}-{kind}-{SEEDS[0]}" for task in TASKS] for kind in MASKS}
    if not all(finished(folder) for parts in folders.values() for folder in parts):
        return MASKS[0], {}
    means = {kind: statistics.fmean(map(held_out, parts)) for kind, parts in folders.items()}
    return max(means, key=lambda kind: means[kind]), means


def compared(runs: Path, seed: int) -> list[str]:
    """Return the methods of a seed: with the first, every mask."""
    masks = list(MASKS) if seed == SEEDS[0] else [chosen(runs)[0]]
    return [*masks, "lora", "block"]


def train(runs: Path, base: str, glue: Path, only: set[str]) -> None:
    """Train what is missing, the first seed first."""
    from zoo.verbs.adapters import train_adapter

    for seed in SEEDS:
        for method in compared(runs, seed):
            for task, folder in TASKS.items():
                name = f"{task}-{method}-{seed}"
                if (only and name not in only) or finished(runs / name):
                    continue
                given = {k: str(v) for k, v in settings(task, method, seed).items()}
                train_adapter(
                    name, runs / name, data=str(glue / folder), base=base, task="text-choice",
                    data_license="not stated", resume=True, settings=given,
                )  # fmt: skip
                print(f"{name} trained", flush=True)


def finished(folder: Path) -> bool:
    """Say whether a run has ended."""
    try:
        config = json.loads((folder / "adapter.json").read_text(encoding="utf-8"))
        return bool(config["metrics"]["training"]["complete"])
    except (OSError, ValueError, KeyError):
        return False


def wanted(runs: Path) -> Iterator[tuple[str, str, dict[str, Path], str]]:
    """Yield (key, task, folders of the adapters to put in, method) of every score to be had."""
    for task in TASKS:
        yield f"{task} base - single", task, {}, "base"
    final = [chosen(runs)[0], "lora", "block"]
    for kind in ("single", "fused"):
        for seed in SEEDS:
            for method in compared(runs, seed) if kind == "single" else final:
                folders = {t: runs / f"{t}-{method}-{seed}" for t in TASKS}
                for task in TASKS:
                    needed = folders if kind == "fused" else {task: folders[task]}
                    if all(finished(folder) for folder in needed.values()):
                        yield f"{task} {method} {seed} {kind}", task, needed, method


def adapted(base: Any, folders: dict[str, Path], method: str) -> Any:
    """Return the base with adapters in it, all with weight 1."""
    if not folders:
        return base
    if method != "lora":
        from zoo.adapters import SparseAdapter, fuse
        from zoo.adapters.apply import apply

        # As they are shipped: deltas in bf16.
        found = {n: SparseAdapter.load(p).cast(torch.bfloat16) for n, p in folders.items()}
        return apply(base, fuse(found, base))
    from peft import PeftModel

    wrapped: Any = None
    for name, folder in folders.items():
        if wrapped is None:
            wrapped = PeftModel.from_pretrained(base, folder, adapter_name=name)
        else:
            wrapped.load_adapter(folder, adapter_name=name)
    wrapped.base_model.set_adapter(list(folders))
    return wrapped


def score(runs: Path, base: str, glue: Path) -> dict[str, Any]:
    """Score what has finished and was not scored yet; each score is stored at once."""
    from zoo.adapters.registry import recipe_for
    from zoo.artifacts.base import load_base
    from zoo.tasks import text_choice

    file = RESULTS / "adapters_quality.json"
    known: dict[str, Any] = json.loads(file.read_text())["scores"] if file.exists() else {}
    for key, task, folders, method in wanted(runs):
        if key in known:
            continue
        start = load_base(base)
        given = {k: str(v) for k, v in settings(task, "wm", 0).items()}
        item = start.task_recipe(recipe_for("x", base, "text-choice", given))
        model = adapted(start.model, folders, method)
        with torch.autocast("cpu", torch.bfloat16):
            known[key] = text_choice.evaluate(model, item, str(glue / TASKS[task]), start.tokenizer)
        known[key]["right"] = "".join(str(int(r)) for r in known[key]["right"])
        show(known, runs)
    return known


def interval(one: str, two: str) -> tuple[float, float, float]:
    """Return mean and 95 % interval of the paired differences of right answers, in points."""
    differences = [100.0 * (int(a) - int(b)) for a, b in zip(one, two, strict=True)]
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    half = 1.96 * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half


def show(scores: dict[str, Any], runs: Path) -> None:
    """Store the scores, the paired differences and the losses by fusion; print them."""
    element, means = chosen(runs)
    rows = [["run", "accuracy", "standard error"]]
    for key, found in scores.items():
        rows.append([key, f"{found['accuracy']:.4f}", f"{found['standard_error']:.4f}"])
    pairs, drops = {}, {}
    for key, found in scores.items():
        task, method, seed, kind = key.split()
        others = {mask: ("lora", "base") for mask in MASKS} | {"block": (element,)}
        for other in others.get(method, ()):
            against = (
                f"{task} base - single" if other == "base" else f"{task} {other} {seed} {kind}"
            )
            if against in scores:
                pairs[f"{key} - {against}"] = interval(found["right"], scores[against]["right"])
        if kind == "fused" and (alone := scores.get(f"{task} {method} {seed} single")):
            drops[f"{key} - single"] = interval(found["right"], alone["right"])
    for name, (mean, low, high) in (pairs | drops).items():
        rows.append([name, f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}]", ""])
    rows += [[f"held out, mean of the tasks: {kind}", f"{m:.4f}", ""] for kind, m in means.items()]
    result = {
        "mask": element,
        "held_out": means,
        "scores": scores,
        "paired_points": pairs,
        "fused_minus_single_points": drops,
    }
    report("adapters_quality", torch.get_num_threads(), result, rows)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--glue", type=Path, required=True)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--only", default="", help="names of runs, with commas between")
    args = parser.parse_args()
    if args.train:
        train(args.runs, args.base, args.glue, {name for name in args.only.split(",") if name})
    else:
        show(score(args.runs, args.base, args.glue), args.runs)


if __name__ == "__main__":
    main()
