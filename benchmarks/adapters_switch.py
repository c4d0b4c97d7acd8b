"""How long a switch of adapters takes: ours, peft's LoRA and SHiRA, a C loop, a memcpy.

    python -m benchmarks.adapters_switch [--threads 1] [--runs 9] [--quick]

A switch goes from one fused adapter to another. Goals, on at least 100 M target parameters at 1 %:
at most 10 % (bf16: 6 %) of peft's LoRA r32, 20 % (10 %) of peft's SHiRA, 1.3 times a C loop that
writes the same values; with block masks under 30 % of a memcpy of the weights.
"""

import argparse
import ctypes
import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import adapters_common as common
from benchmarks import adapters_plot
from benchmarks.common import RESULTS, ratio, report
from zoo.adapters import Switcher

SIZES = {
    "5M": (256, 6, 704),
    "20M": (512, 6, 1408),
    "58M": (768, 8, 2112),
    "154M": (1024, 12, 2816),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
GOALS = {
    "fp32": {"peft LoRA r32": 0.10, "peft SHiRA": 0.20, "C loop": 1.3},
    "bf16": {"peft LoRA r32": 0.06, "peft SHiRA": 0.10, "C loop": 1.3},
}
_C = """
#include <stdint.h>
#define PUT(name, type) void name(type *w, const int32_t *i, const type *v, long n) \\
    { for (long k = 0; k < n; k++) w[i[k]] = v[k]; }
PUT(put2, uint16_t) PUT(put4, uint32_t)
"""


def c_loop(folder: Path) -> ctypes.CDLL | None:
    """Return the loop compiled with the machine's C compiler, or None without one."""
    source, library = folder / "put.c", folder / "put.so"
    source.write_text(_C)
    command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-o", library, source]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return ctypes.CDLL(str(library))


def c_switch(
    library: ctypes.CDLL, switcher: Switcher, names: tuple[str, str]
) -> Callable[[], None]:
    """Return a switch by the C loop between the switcher's own plans, int32 positions."""
    plans = []
    for name in names:
        switcher.activate(name)
        plans.append(switcher._active)
    calls: list[list[tuple[Any, ...]]] = [[], []]
    kept = []
    for turn, (undo, plan) in enumerate(((plans[1], plans[0]), plans)):
        for name in plan.edits:
            for edit, values in ((undo.edits[name], undo.edits[name].old),
                                 (plan.edits[name], plan.edits[name].new)):  # fmt: skip
                where = edit.where.int()
                kept.append((where, values))
                put = library.put2 if values.element_size() == 2 else library.put4
                pointers = (edit.memory.line.data_ptr(), where.data_ptr(), values.data_ptr())
                calls[turn].append(
                    (put, *map(ctypes.c_void_p, pointers), ctypes.c_long(len(where)))
                )
    turns = itertools.cycle(calls)

    def switch(kept: Any = kept) -> None:
        for put, *arguments in next(turns):
            put(*arguments)

    return switch


def ours(switcher: Switcher, *names: str) -> Callable[[], None]:
    turns = itertools.cycle(names)
    return lambda: switcher.activate(next(turns))


def peft(model: Any) -> Callable[[], None]:
    turns = itertools.cycle(("b", "a"))

    def switch() -> None:
        name = next(turns)
        model.unmerge_adapter()
        model.base_model.set_adapter(name)
        model.merge_adapter([name])

    return switch


def tuned_lora(weights: list[torch.Tensor], rank: int = 32) -> Callable[[], None]:
    """Each layer's product into a buffer, out of and into the weight: LoRA without peft's costs.

    In fp32, as peft computes on a CPU too: matrix products of 16-bit types are slower on many.
    """
    factors = []
    for p in weights:
        up = [torch.randn(p.shape[0], rank) * 0.01 for _ in range(2)]
        down = [torch.randn(rank, p.shape[1]) * 0.01 for _ in range(2)]
        factors.append((p, up, down))
    buffers = {p.shape: torch.empty(p.shape) for p, _, _ in factors}
    turns = itertools.cycle((0, 1))

    def switch() -> None:
        turn = next(turns)
        for p, up, down in factors:
            room = buffers[p.shape]
            p.sub_(torch.mm(up[1 - turn], down[1 - turn], out=room))
            p.add_(torch.mm(up[turn], down[turn], out=room))

    return switch


def memcpy(weights: list[torch.Tensor]) -> Callable[[], None]:
    pairs = [(p, p.clone()) for p in weights]
    return lambda: [p.copy_(q) for p, q in pairs] and None


def measure(size: str, kind: str, runs: int, library: ctypes.CDLL | None) -> dict[str, Any]:
    """Return seconds and ratios of one model size and type."""
    dtype, shape = TYPES[kind], SIZES[size]
    model = common.llama(*shape, dtype)
    parameters = sum(p.numel() for p in common.targets(model).values())
    line = 64 // dtype.itemsize
    switcher = Switcher(model, cache_bytes=4 << 30)
    density = 0.0
    for seed, name in enumerate(("a", "b")):
        adapter = common.sparse(model, 0.01, seed)
        density = adapter.density
        switcher.register(name, adapter)
        switcher.register(f"{name} block", common.sparse(model, 0.01, seed, block=line))
        switcher.register(f"{name} same", common.sparse(model, 0.01, seed, masks=9))
    base = switcher.verify()
    rank = max(
        round(0.01 * parameters / sum(sum(p.shape) for p in common.targets(model).values())), 1
    )
    lora = common.with_peft(common.llama(*shape, dtype), "lora", 32)
    shira = common.with_peft(common.llama(*shape, dtype), "shira", rank)
    contestants = {
        "peft LoRA r32": peft(lora),
        "peft SHiRA": peft(shira),
        "tuned LoRA r32": tuned_lora(base_weights(lora)),
        "ours": ours(switcher, "a", "b"),
        "ours, block mask": ours(switcher, "a block", "b block"),
        "ours, equal masks": ours(switcher, "a same", "b same"),
        "memcpy": memcpy(base_weights(shira)),
    }
    if library is not None:
        contestants["C loop"] = c_switch(library, switcher, ("a", "b"))
    for name in ("a", "b", "a block", "b block", "a same", "b same"):
        switcher.activate(name)
    times = _isolated(switcher, contestants, runs)
    switcher.deactivate()
    assert switcher.verify() == base
    ratios = {other: ratio(times, "ours", other) for other in times if not other.startswith("ours")}
    for variant in ("ours, block mask", "ours, equal masks"):
        ratios[f"{variant} / memcpy"] = ratio(times, variant, "memcpy")
    medians = {name: statistics.median(seconds) * 1e3 for name, seconds in times.items()}
    touched = 1 - (1 - density) ** line  # share of cache lines that a random mask touches
    limit = 2 * touched * medians["memcpy"]  # out and in; read and written like the memcpy's
    return {
        "parameters": parameters, "density": density, "peft_shira_r": rank,
        "median_ms": medians, "memory_limit_ms": limit, "ours_over": ratios,
    }  # fmt: skip


def base_weights(wrapped: Any) -> list[torch.Tensor]:
    """Return the weights that peft's adapters change."""
    return [p for name, p in wrapped.named_parameters() if name.endswith("base_layer.weight")]


def _isolated(
    switcher: Switcher, contestants: dict[str, Callable[[], None]], runs: int
) -> dict[str, list[float]]:
    """Run in turn; the variants of ours begin from one of their own adapters."""
    prepared = {
        "ours": "b", "ours, block mask": "b block", "ours, equal masks": "b same", "C loop": "b",
    }  # fmt: skip
    # With one thread the processor time of this process, which other work on the machine does not
    # lengthen as it does the wall's.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(runs + 1):
        for name, run in contestants.items():
            if name in prepared:
                switcher.activate(prepared[name])
            start = clock()
            run()  # twice: from one to the other and back
            run()
            if turn:
                times[name].append((clock() - start) / 2)
    return times


def rows_of(results: dict[str, dict[str, Any]]) -> tuple[list[list[str]], bool]:
    rows, met = [["model", "switch by", "ms", "ours / this", "goal"]], True
    for key, found in results.items():
        kind = key.split()[1]
        for name, milliseconds in found["median_ms"].items():
            over = found["ours_over"].get(name)
            goal = GOALS[kind].get(name) if found["parameters"] >= 100e6 else None
            cell = "" if over is None else f"{over['median']:.3f}"
            if name == "ours, block mask":
                over = found["ours_over"]["ours, block mask / memcpy"]
                cell = f"{over['median']:.3f} of memcpy"
                goal = 0.30 if found["parameters"] >= 100e6 else None
            missed = goal is not None and over is not None and over["median"] > goal
            met = met and not missed
            verdict = "" if goal is None else f"{goal} {'MISSED' if missed else 'met'}"
            rows.append([key, name, f"{milliseconds:.2f}", cell, verdict])
        rows.append([key, "memory limit", f"{found['memory_limit_ms']:.2f}", "", ""])
    return rows, met


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="the two smallest models only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = list(SIZES)[:2] if args.quick else list(SIZES)
    with tempfile.TemporaryDirectory() as folder:
        library = c_loop(Path(folder))
        results = {}
        for size, kind in itertools.product(sizes, TYPES):
            print(f"{size} {kind} ...", flush=True)
            results[f"{size} {kind}"] = measure(size, kind, args.runs, library)
    rows, met = rows_of(results)
    name = "adapters_switch_quick" if args.quick else "adapters_switch"
    report(name, args.threads, {"runs": args.runs, "results": results}, rows)
    pictures = RESULTS if args.quick else RESULTS.parents[1] / "docs" / "images"
    adapters_plot.draw(results, pictures / f"{name}.png")
    print("(ms: processor time of one thread)" if args.threads == 1 else "(ms: wall time)")
    print("all goals met" if met else "a goal was missed")


if __name__ == "__main__":
    main()
