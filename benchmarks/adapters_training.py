"""Training an adapter: peak memory and step time beside LoRA and PEFT; quality, as far as run.

    python -m benchmarks.adapters_training              # memory and time, on a small Llama
    python -m benchmarks.adapters_training --quality RUNS --base DIR --glue DIR

Memory is measured in a fresh process per method: the growth of the resident peak over what the
loaded model holds. Steps are timed in one process, in turn. `--quality` reads every finished run
folder `RUNS/<task>-<method>-<seed>` that `zoo adapter train` wrote, scores it on GLUE's dev
files, alone and fused with the others of its method and seed, and can be called again when more
have finished.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, alternate, ratio, report

METHODS = ("shira", "peft-shira", "lora")
HIDDEN, LAYERS, BATCH, LENGTH = 512, 8, 4, 64
RANK = 32
DENSITY = 0.01


def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192, hidden_size=HIDDEN, intermediate_size=HIDDEN * 11 // 4,
            num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=8,
        )
    )  # fmt: skip


def _stepper(method: str) -> Any:
    """Return a function that does one training step."""
    from zoo.adapters import masks
    from zoo.adapters.recipe import AdapterRecipe, MaskOptions
    from zoo.adapters.routes import HookRoute, PeftRoute, peft_counts
    from zoo.recipe import Train

    model = _model()
    options = MaskOptions(kind="rand", density=DENSITY, include=("model.layers.*_proj.weight",))
    recipe = AdapterRecipe(
        name="bench", summary="", base="bench", task="causal-lm", method=method, mask=options,
        rank=RANK if method == "lora" else 5, train=Train(steps=1, batch_size=BATCH, lr=1e-4),
    )  # fmt: skip
    route: HookRoute | PeftRoute
    if method == "shira":
        route = HookRoute(model, masks.choose(model, options))
    else:
        counts = peft_counts(model, options, recipe.rank) if method == "peft-shira" else None
        indices = masks.choose(model, options, counts=counts) if counts else {}
        route = PeftRoute(model, recipe, indices)
    optimizer = torch.optim.AdamW(route.trained.parameters(), lr=1e-4)
    ids = torch.randint(0, 8192, (BATCH, LENGTH))

    def step() -> None:
        route.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(route, HookRoute):
            route.use()

    step.trained = sum(p.numel() for p in route.trained.parameters())  # type: ignore[attr-defined]
    return step


def _resident() -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in x)
    return int(line.split()[1]) * 1024


def _memory(method: str) -> None:
    """Print the peak of three steps above the loaded model, in bytes; for a process of its own."""
    torch.set_num_threads(1)
    step = _stepper(method)
    before = _resident()
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    for _ in range(3):
        step()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    peak = int(line.split()[1]) * 1024
    print(json.dumps({"peak": peak - before, "trained": step.trained}))


def measure(runs: int) -> None:
    """Measure memory and time."""
    torch.set_num_threads(1)
    memory = {}
    for method in METHODS:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.adapters_training", "--memory", method],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        memory[method] = json.loads(done.stdout.splitlines()[-1])
    steps = {method: _stepper(method) for method in METHODS}
    times = alternate(steps, runs)
    rows = [["method", "trained", "peak MB", "of LoRA r32", "step s", "of LoRA r32"]]
    ratios = {method: ratio(times, method, "lora") for method in METHODS}
    for method in METHODS:
        peak = memory[method]["peak"]
        rows.append([
            method, f"{memory[method]['trained']:,}", f"{peak / 1e6:.0f}",
            f"{peak / memory['lora']['peak']:.2f}x", f"{statistics.median(times[method]):.3f}",
            f"{ratios[method]['median']:.2f}x",
        ])  # fmt: skip
    result = {"memory": memory, "step_seconds": times, "step_ratio_to_lora": ratios,
              "goals": {"memory_ratio": 1.0, "step_ratio": 1.1}}  # fmt: skip
    report("adapters_training", 1, result, rows)


# --- quality --------------------------------------------------------------------------------


def _fused(base: Any, folders: dict[str, Path], method: str) -> Any:
    """Return the base with all adapters of one method in it."""
    from zoo.adapters import SparseAdapter, fuse
    from zoo.adapters.apply import apply

    if method == "shira":
        found = {
            n: SparseAdapter.load(f / "sparse_adapter.safetensors") for n, f in folders.items()
        }
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


def interval(differences: list[int]) -> tuple[float, float, float]:
    """Return mean and 95 % interval of paired differences of right answers."""
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    half = 1.96 * math.sqrt(variance / len(differences))
    return mean, mean - half, mean + half


def quality(runs: Path, base: str, glue: Path) -> None:
    """Score what has finished."""
    from zoo.adapters.base import load_base
    from zoo.adapters.folder import AdapterFolder
    from zoo.tasks import text_choice

    names = {"rte": "RTE", "sst2": "SST-2", "cola": "CoLA"}
    file = RESULTS / "adapters_quality.json"
    known = json.loads(file.read_text())["scores"] if file.exists() else {}
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for folder in sorted(runs.glob("*-*-*")):
        task, _, rest = folder.name.partition("-")
        method, _, seed = rest.rpartition("-")
        if task not in names or not (folder / "adapter.json").is_file():
            continue
        if AdapterFolder.read(folder).metrics["training"]["complete"]:
            groups.setdefault((method, seed), {})[task] = folder
    for (method, seed), folders in groups.items():
        choices = [(task,) for task in folders]
        if len(folders) == len(names):
            choices.append(tuple(folders))
        for chosen in choices:
            model = None
            for task in chosen:
                key = f"{task} {method} {seed} {'fused' if len(chosen) > 1 else 'single'}"
                if key in known:
                    continue
                start = load_base(base)
                item = start.task_recipe(AdapterFolder.read(folders[task]).recipe)
                if model is None:
                    model = _fused(start.model, {t: folders[t] for t in chosen}, method)
                known[key] = text_choice.evaluate(
                    model, item, str(glue / names[task]), start.tokenizer
                )
    rows = [["run", "accuracy", "standard error"]]
    for key, score in known.items():
        rows.append([key, f"{score['accuracy']:.4f}", f"{score['standard_error']:.4f}"])
    pairs = {}
    for a, b in itertools.permutations(known, 2):
        one, two = a.split(), b.split()
        if one[1] == "shira" and two[1] == "lora" and one[0::2] + one[3:] == two[0::2] + two[3:]:
            both = zip(known[a]["right"], known[b]["right"], strict=True)
            pairs[f"{a} - {b}"] = interval([int(x) - int(y) for x, y in both])
            rows.append(
                [f"{a} - {b}", "{:+.4f} [{:+.4f}, {:+.4f}]".format(*pairs[f"{a} - {b}"]), ""]
            )
    report("adapters_quality", torch.get_num_threads(), {"scores": known, "paired": pairs}, rows)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--quality", type=Path, metavar="RUNS")
    parser.add_argument("--base")
    parser.add_argument("--glue", type=Path)
    args = parser.parse_args()
    if args.memory:
        _memory(args.memory)
    elif args.quality:
        quality(args.quality, args.base, args.glue)
    else:
        measure(args.runs)


if __name__ == "__main__":
    main()
