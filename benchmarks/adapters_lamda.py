"""LaMDA, PaCA and S2FT against LoRA: SST-2, what is kept for the backward pass, and step time.

    python -m benchmarks.adapters_lamda --runs RUNS --base ./smollm2 --glue GLUE
    python -m benchmarks.adapters_lamda

The first trains SmolLM2-135M on SST-2 as `benchmarks.adapters_quality` does (80 steps, the same
layers, bf16), one run after the other, and stores each score on GLUE's dev file as it comes; killed
and called again, it resumes. `--only core-0,lamda-0` takes some of the runs; LoRA's are those that
`adapters_quality` has stored. The second counts, on a Llama of eight layers, the bytes that
autograd keeps, each storage once, and times steps in turn.
Goals: LaMDA within 1.5 points of LoRA r4 with at most a tenth of its trained values; at most 0.75
of the bytes that LoRA keeps.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapters_quality import finished, interval, settings
from benchmarks.common import RESULTS, alternate, ratio, report

NAME, TASK = "adapters_lamda", "sst2"
LAMDA = {"method": "lamda", "rank": 16, "train.lr": 1e-3}
METHODS: dict[str, dict[str, Any]] = {
    "core": LAMDA | {"options.freeze": 0.0},
    "lamda": LAMDA,
    "random": LAMDA | {"options.freeze": 0.0, "options.init": "random"},
    "energy": LAMDA | {"options.freeze": 0.0, "options.allocation": "energy"},
}
SEEDS = (0, 1)
LORA_VALUES = 4 * 30 * (2 * 576 + 2 * (576 + 192) + 2 * (576 + 1536))  # r4 on five layers a block
# Of the cost: name, method, options. LaMDA's rank is 4 times LoRA's; numbers of the rest are close.
COSTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora r8": ("lora", {"rank": 8}),
    "lamda r32": ("lamda", {"rank": 32}),
    "lamda r32, B frozen": ("lamda", {"rank": 32, "freeze": 0.0}),
    "paca, 16 columns": ("paca", {"rank": 16}),
    "s2ft, a head, 64 channels": ("s2ft", {"rank": 64}),
}


def chosen(method: str, seed: int) -> dict[str, Any]:
    """Return the settings of a run."""
    return settings(TASK, "lora", seed) | METHODS[method]


def train(runs: Path, base: str, glue: Path, name: str) -> None:
    """Train one run to its end."""
    from zoo.verbs.adapters import train_adapter

    method, _, seed = name.rpartition("-")
    given = {key: str(value) for key, value in chosen(method, int(seed)).items()}
    train_adapter(
        f"sst2-{name}", runs / name, data=str(glue / "SST-2"), base=base, task="text-choice",
        data_license="not stated", resume=True, settings=given,
    )  # fmt: skip


def score(folder: Path, base: str, glue: Path) -> dict[str, Any]:
    """Return a run's accuracy on GLUE's dev file, its right answers, and what it trained."""
    from peft import PeftModel

    from zoo.adapters.folder import AdapterFolder
    from zoo.adapters.registry import recipe_for
    from zoo.artifacts.base import load_base
    from zoo.tasks import text_choice

    start = load_base(base)
    given = {k: str(v) for k, v in settings(TASK, "lora", 0).items()}
    item = start.task_recipe(recipe_for("x", base, "text-choice", given))
    model: Any = PeftModel.from_pretrained(start.model, folder)
    with torch.autocast("cpu", torch.bfloat16):
        found = text_choice.evaluate(model, item, str(glue / "SST-2"), start.tokenizer)
    found["right"] = "".join(str(int(r)) for r in found["right"])
    found["trained_values"] = AdapterFolder.read(folder).metrics["trained_values"]
    return dict(found)


def quality(runs: Path, base: str, glue: Path, only: set[str]) -> None:
    """Train and score what is missing; store each score at once."""
    for name in (f"{method}-{seed}" for seed in SEEDS for method in METHODS):
        if name in stored()["scores"] or (only and name not in only):
            continue
        if not finished(runs / name):
            train(runs, base, glue, name)
        found = score(runs / name, base, glue)
        known = stored()
        known["scores"][name] = found
        show(known)


def stored() -> dict[str, Any]:
    """Return the result so far."""
    file = RESULTS / f"{NAME}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    theirs = json.loads((RESULTS / "adapters_quality.json").read_text(encoding="utf-8"))["scores"]
    scores = {
        f"lora-{seed}": theirs[f"{TASK} lora {seed} single"] | {"trained_values": LORA_VALUES}
        for seed in SEEDS
    }
    return {"scores": scores | known.get("scores", {}), "cost": known.get("cost", {})}


def show(result: dict[str, Any]) -> None:
    """Store the result; print it."""
    rows = [["run", "accuracy", "trained", "of LoRA's", "points above LoRA"]]
    pairs = {}
    for name, found in result["scores"].items():
        lora = result["scores"].get(f"lora-{name.rpartition('-')[2]}")
        cells = ["", ""]
        if lora is not None:
            mean, low, high = interval(found["right"], lora["right"])
            pairs[name] = (mean, low, high)
            share = found["trained_values"] / lora["trained_values"]
            cells = [f"{share:.3f}", f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"]
        rows.append([name, f"{found['accuracy']:.4f}", f"{found['trained_values']:,}", *cells])
    rows.append(["cost", "bytes kept", "trained", "bytes of LoRA's", "step of LoRA's"])
    for name, found in result["cost"].items():
        rows.append([
            name, f"{found['kept_bytes']:,}", f"{found['trained_values']:,}",
            f"{found['kept_ratio']:.2f}x", f"{found['step_ratio']['median']:.2f}x",
        ])  # fmt: skip
    goals = {"points_below_lora": 1.5, "share_of_values": 0.1, "kept_ratio": 0.75}
    whole = {**result, "points_above_lora": pairs, "goals": goals}
    report(NAME, torch.get_num_threads(), whole, rows)


def kept_bytes(model: Any, frozen: list[torch.Tensor], run: Callable[[], Any]) -> int:
    """Return the bytes that a backward pass will need besides weights, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *frozen]}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
    del loss
    return sum(seen.values())


def cost(runs: int) -> None:
    """Count the bytes kept, and time steps."""
    from benchmarks.adapters_training import BATCH, LENGTH, model_of
    from zoo.adapters.methods import contract
    from zoo.adapters.recipe import MaskOptions

    torch.set_num_threads(1)
    ids = torch.randint(0, 8192, (BATCH, LENGTH))
    mask = MaskOptions(include=("model.layers.*_proj.weight",))
    found: dict[str, Any] = {}
    steps = {}
    for name, (method, given) in COSTS.items():
        way = contract.method(method)
        options = getattr(way, "Options", contract.Options)(mask=mask, **given)
        route = way.attach(model_of(), {}, options)
        optimizer = torch.optim.AdamW(route.trained.parameters(), lr=1e-4)
        frozen = [t for pair in getattr(route, "factors", []) for t in pair]

        def forward(route: Any = route) -> Any:
            return route.model(input_ids=ids, labels=ids).loss

        def step(route: Any = route, optimizer: Any = optimizer, forward: Any = forward) -> None:
            forward().backward()
            route.collect()
            optimizer.step()
            optimizer.zero_grad()
            route.use()

        trained = sum(p.numel() for p in route.trained.parameters())
        bytes_ = kept_bytes(route.model, [*frozen, *route.trained.parameters()], forward)
        found[name], steps[name] = {"kept_bytes": bytes_, "trained_values": trained}, step
    times = alternate(steps, runs)
    first = next(iter(COSTS))
    for name, facts in found.items():
        facts["kept_ratio"] = facts["kept_bytes"] / found[first]["kept_bytes"]
        facts["step_seconds"] = statistics.median(times[name])
        facts["step_ratio"] = ratio(times, name, first)
    show(stored() | {"cost": found})


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="where runs are kept; without it, the cost")
    parser.add_argument("--base")
    parser.add_argument("--glue", type=Path)
    parser.add_argument("--only", default="", help="names of runs, with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="of timed steps")
    args = parser.parse_args()
    if args.runs is None:
        cost(args.rounds)
    elif args.base is None or args.glue is None:
        parser.error("--runs needs --base and --glue")
    else:
        quality(args.runs, args.base, args.glue, {n for n in args.only.split(",") if n})


if __name__ == "__main__":
    main()
