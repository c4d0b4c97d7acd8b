"""Tables of what the benchmarks measured, from their stored results; none is typed."""

import statistics
from collections.abc import Iterable
from typing import Any

from benchmarks.common import RESULTS
from docs.make.headlines import stored

CLAIMS = "| claim | measured | goal |\n|---|---|---|"


def _claims(rows: Iterable[tuple[str, str, str]]) -> str:
    return "\n".join([CLAIMS, *(f"| {a} | {b} | {c} |" for a, b, c in rows)])


def _times(found: dict[str, Any], digits: int = 2) -> str:
    spread = f"{found['min']:.{digits}f} to {found['max']:.{digits}f}"
    return f"{found['median']:.{digits}f}x ({spread})"


def machines() -> str:
    """Return where and with what each result was measured."""
    lines = [
        "| result | date | processor, threads | Python, torch | load |",
        "|---|---|---|---|---:|",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        m = stored(path.stem)["machine"]
        lines.append(
            f"| `{path.name}` | {m['date']} | {m['processor']}, {m['threads']} of "
            f"{m['processors']} | {m['python']}, {m['torch']} | {m['load_average']:.1f} |"
        )
    return "\n".join(lines)


def enlarging() -> str:
    """Return the speed and memory of enlarging, and of training in collapsed space."""
    found, training = stored("sesr_inference"), stored("sesr_training")
    seconds = {name: statistics.median(times) for name, times in found["seconds"].items()}
    step = {name: statistics.median(times) for name, times in training["seconds"].items()}
    return _claims(
        [
            (
                "1080p to 4K, time against ONNX Runtime",
                f"{_times(found['against_onnxruntime'])}: {seconds['zoo']:.2f} s against "
                f"{seconds['onnxruntime']:.2f} s; bicubic {seconds['bicubic']:.2f} s",
                "1.2x",
            ),
            ("tiles against the whole image", f"largest difference {found['seam']:.0e}", "0"),
            (
                "peak memory of the process, 8K output in colour",
                f"{found['peak_bytes'] / 1e9:.2f} GB",
                "1.5 GB",
            ),
            (
                "training step: expanded against collapsed, 32 crops of 64x64",
                f"{_times(training['speedup'], 1)}: {step['expanded']:.1f} s against "
                f"{step['collapsed']:.2f} s; loss curves within {training['loss_curve_gap']:.0e}",
                "15x",
            ),
        ]
    )


def adapters() -> str:
    """Return what a switch, a file and a training step cost beside peft's."""
    switch, files = stored("adapters_switch")["results"], stored("adapters_files")
    rows = []
    for kind, goals in (("fp32", "0.10, 0.20, 1.3"), ("bf16", "0.06, 0.10, 1.3")):
        found = switch[f"154M {kind}"]
        over = {name: pair["median"] for name, pair in found["ours_over"].items()}
        rows += [
            (
                f"switch, {kind}: time over peft's LoRA r32, peft's SHiRA, a loop in C",
                f"{over['peft LoRA r32']:.3f}x, {over['peft SHiRA']:.3f}x, {over['C loop']:.2f}x: "
                f"{found['median_ms']['ours']:.1f} ms",
                goals,
            ),
            (
                f"switch, {kind}: over a tuned LoRA r32 (a product into a buffer)",
                f"{over['tuned LoRA r32']:.3f}x",
                "",
            ),
            (
                f"block masks (a cache line), {kind}: over a memcpy of the weights",
                f"{over['ours, block mask / memcpy']:.2f}x",
                "0.30",
            ),
        ]
    size, goal = files["bytes"], files["goals"]
    shares = [size[f"ours, {name}"] / size["peft SHiRA"] for name in _FILES]
    return _claims([*rows, (
        "file over peft's SHiRA: bf16, shared mask, block mask",
        ", ".join(f"{share:.3f}x" for share in shares),
        f"{goal['ours, bf16']}, {goal['ours, bf16, shared mask']}",
    ), (
        "loading, all checks included, over peft's LoRA r32",
        _times(files["load_ratio_to_lora"]["ours, bf16"]),
        "1.0",
    ), *_training()])  # fmt: skip


_FILES = ("bf16", "bf16, shared mask", "bf16, block mask")


def _training() -> list[tuple[str, str, str]]:
    found = stored("adapters_training")
    peak = {name: numbers["peak"] for name, numbers in found["memory"].items()}
    goals = found["goals"]
    return [
        (
            "training over peft's LoRA r32: peak memory",
            f"{peak['shira'] / peak['lora']:.2f}x",
            str(goals["memory_ratio"]),
        ),
        (
            "training over peft's LoRA r32: time of a step",
            _times(found["step_ratio_to_lora"]["shira"]),
            str(goals["step_ratio"]),
        ),
    ]


def hearing() -> str:
    """Return how often real people are understood by what learned from synthetic voices."""
    found = stored("kws_synthetic")
    of_seeds = {
        "real": ("synthetic voices alone", "80 %"),
        "int8": ("the same in int8, without training", "within 0.5 points"),
        "int8_trained": ("the same, trained for int8", "within 0.5 points"),
        "tuned": ("then fine-tuned on four fifths of the real clips, judged on the others", "86 %"),
        "alone": ("real clips alone, the same fifths", ""),
    }
    rows = []
    for key, (what, goal) in of_seeds.items():
        shares = [100 * row[key] for row in found["seeds"] if key in row]
        if shares:
            each = ", ".join(f"{share:.1f}" for share in shares)
            rows.append((what, f"{each} % (a seed each)", goal))
    return _claims(rows)


def costing() -> str:
    """Return what searches for designs find, and how counted instructions go with the clock."""
    found, counted = stored("codesign"), stored("simulated")
    tries, median = found["evaluations"]["optuna"], found["median"]
    covered = found["hypervolume"]["min"]
    return _claims(
        (
            (
                f"evaluations until the best of {found['designs']} designs, over random choice",
                f"{found['ratio']:.3f}x: {median['optuna']:g} ({min(tries)} to {max(tries)}, "
                f"{len(tries)} seeds) against {median['random']:g}",
                "1/3",
            ),
            (
                f"front of weight and score after {found['explored']} evaluations",
                f"{100 * covered:.2f} % of the hypervolume at least",
                "98 %",
            ),
            (
                f"counted cycles against the clock, {len(counted['operators'])} operators",
                f"rank correlation {counted['spearman']:.2f}; two counts "
                f"{'equal' if counted['equal'] else 'differ'}",
                "0.8, equal",
            ),
        )
    )


def hub_clients() -> str:
    """Return how many of the client's own tests pass against the embedded hub."""
    found = stored("hub_client_suite")
    every, asking = found["counts"], found["asking_the_hub"]
    rows = []
    for name, counts in (("all in scope", every), ("those that ask the hub", asking)):
        total = counts["passed"] + counts["failed"]
        share = f"{counts['passed']:,} of {total:,} pass: {counts['passed'] / total:.1%}"
        rows.append((f"tests of huggingface_hub {found['huggingface_hub']}, {name}", share))
    goals = (f"{found['goal']:.0%}", "")
    return _claims((what, share, goal) for (what, share), goal in zip(rows, goals, strict=True))
