"""Training an adapter: peak memory and step time against LoRA r32 and peft's SHiRA.

    python -m benchmarks.adapters_training

Memory is measured in a fresh process per method: the growth of the resident peak over what the
loaded model holds. Steps are timed in one process, in turn. Goals: less memory than LoRA, a step
of at most 1.1 times its time. (Quality: `benchmarks.adapters_quality`.)
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.adapters_common import targets
from benchmarks.common import alternate, ratio, report

METHODS = ("shira", "peft-shira", "lora")
HIDDEN, LAYERS, BATCH, LENGTH = 512, 8, 4, 64
RANK = 32
DENSITY = 0.01


def model_of() -> Any:
    """Return the Llama that is trained."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192, hidden_size=HIDDEN, intermediate_size=HIDDEN * 11 // 4,
            num_hidden_layers=LAYERS, num_attention_heads=8, num_key_value_heads=8,
        )
    )  # fmt: skip


def shira_rank(model: nn.Module) -> int:
    """Return the rank at which peft's SHiRA, rank (in + out) entries a layer, has our density."""
    shapes = [p.shape for p in targets(model).values()]
    return max(round(DENSITY * sum(a * b for a, b in shapes) / sum(a + b for a, b in shapes)), 1)


def _stepper(name: str) -> Any:
    """Return a function that does one training step."""
    from zoo.adapters import masks
    from zoo.adapters.methods.contract import Options, method
    from zoo.adapters.recipe import MaskOptions

    model = model_of()
    mask = MaskOptions(kind="rand", density=DENSITY, include=("model.layers.*_proj.weight",))
    rank = RANK if name == "lora" else shira_rank(model)
    options, chosen = Options(rank=rank, mask=mask), method(name)
    counts = chosen.budget(model, options)
    wanted = counts is None or counts
    indices = masks.choose(model, mask, counts=counts) if wanted else {}
    route = chosen.attach(model, indices, options)
    optimizer = torch.optim.AdamW(route.trained.parameters(), lr=1e-4)
    ids = torch.randint(0, 8192, (BATCH, LENGTH))

    def step() -> None:
        route.model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
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


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    if args.memory:
        _memory(args.memory)
    else:
        measure(args.runs)


if __name__ == "__main__":
    main()
