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


def _percent(shares: Iterable[float]) -> str:
    """Return a mean and what it is of."""
    each = [100 * share for share in shares]
    if len(each) == 1:
        return f"{each[0]:.1f} %, one seed"
    return f"{statistics.mean(each):.1f} % ({', '.join(f'{share:.1f}' for share in each)})"


def hearing() -> str:
    """Return how often words are understood: learned from synthetic voices, digits, one's own."""
    rows = []
    for network, found in stored("kws_synthetic")["networks"].items():
        for key, (what, goal) in _SYNTHETIC.items():
            if shares := [row[key] for row in found["seeds"] if key in row]:
                rows.append((f"`{network}`, {what}", _percent(shares), goal))
    return _claims([*rows, *_digits(), *_people(), *_own_words()])


_SYNTHETIC = {
    "real": ("twelve words from synthetic voices alone", "80 %"),
    "int8": ("the same in int8", "within 0.5 points"),
    "tuned": ("then tuned on four fifths of the real clips, judged on the others", "86 %"),
    "alone": ("four fifths of the real clips alone", "3 points less than tuned"),
}


def _digits() -> list[tuple[str, str, str]]:
    rows = []
    for network, found in stored("kws_digits_official")["networks"].items():
        wrong = [f"{row['int8_wrong']} ({row['float_wrong']})" for row in found["seeds"]]
        measured = f"{_percent(row['int8'] for row in found['seeds'])}; files wrong, and in "
        measured += f"float: {', '.join(wrong)}"
        goal = "99.0 %, one file more than float" if network == "micronet-kws-s" else ""
        rows.append((f"`{network}`, digits of people it knows, int8", measured, goal))
    return rows


def _people() -> list[tuple[str, str, str]]:
    found = stored("kws_digits_people")
    ours, theirs = found["means"]
    rows = []
    for pair in dict.fromkeys(tuple(run["people"]) for run in found["runs"]):
        runs = [run for run in found["runs"] if tuple(run["people"]) == pair]
        measured = (f"{_percent(run[name] for run in runs)}" for name in (ours, theirs))
        what = f"`{ours}`, `{theirs}`: digits of {' and '.join(pair)}, never heard"
        rows.append((what, "; ".join(measured), ""))
    least = (100 * found["means"][name] for name in (ours, theirs))
    difference, interval = 100 * found["difference"], 100 * found["interval"]
    rows.append((
        "the three pairs together",
        f"{'; '.join(f'{mean:.1f} %' for mean in least)}; "
        f"difference {difference:+.1f} ± {interval:.1f} points",
        "80 %; not below",
    ))  # fmt: skip
    return rows


def _own_words() -> list[tuple[str, str, str]]:
    found = stored("kws_own_words")
    what = f"`{found['base']}`, ten new words from 20 clips each of one person"
    return [
        (f"{what}, {whose}", _percent(row[key] for row in found["people"]), goal)
        for key, whose, goal in (
            ("own", "that person's other clips", "85 %"),
            ("others", "five other people", ""),
        )
    ]


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
