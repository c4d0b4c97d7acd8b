"""Tables of ternary networks, from what their benchmarks stored."""

import statistics
from collections.abc import Sequence

from benchmarks.common import RESULTS
from docs.make.headlines import stored

STUDENT = {2: 12.706, 3: 4.303}  # two-sided 95 % quantiles, by how many runs there are
_WORDS = {
    "ds-cnn-s": "`ds-cnn-s`, the teacher",
    "ds-cnn-s-cut": "DS-CNN-S cut after two of its four blocks",
    "st-tree-kws": "`st-tree-kws`",
}


def _percent(shares: Sequence[float]) -> str:
    """Return a mean in percent, with its 95 % interval if there are runs to tell."""
    mean = f"{100 * statistics.mean(shares):.1f}"
    if len(shares) not in STUDENT:
        return f"{mean} %"
    spread = STUDENT[len(shares)] * statistics.stdev(shares) / len(shares) ** 0.5
    return f"{mean} ± {100 * spread:.1f} %"


def words() -> str:
    """Return what the tree and its opponents hear, and what they take."""
    runs = stored("ternary_kws_official")["runs"]
    lines = ["| network | seeds | right | int8 | file of weights |", "|---|---:|---:|---:|---:|"]
    for name, title in _WORDS.items():
        scores = (_percent([run[name][form] for run in runs]) for form in ("float", "int8"))
        size = f"{runs[0][name]['file_bytes']:,} bytes"
        lines.append(f"| {title} | {len(runs)} | {' | '.join(scores)} | {size} |")
    return "\n".join(lines)


def banks() -> str:
    """Return what MobileNets with ternary filters see, and what they take."""
    if not (RESULTS / "ternary_mobilenet.json").is_file():
        return "Not measured yet."
    lines = [
        "| 1x1 filters | seeds | steps | right | bytes at 1.6 bits | at 2 bits |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for way, runs in stored("ternary_mobilenet")["ways"].items():
        score = _percent([run["accuracy"] for run in runs])
        sizes = (f"{runs[0][f'bytes_{bits}_bits']:,}" for bits in ("1.6", "2"))
        lines.append(
            f"| {way} | {len(runs)} | {runs[0]['steps']:,} | {score} | {' | '.join(sizes)} |"
        )
    return "\n".join(lines)


def kernel() -> str:
    """Return the time of ternary products beside those of 8-bit weights."""
    layers = stored("ternary_kernel")["layers"]
    kinds = list(next(iter(layers.values()))["median_us"])
    lines = [f"| layer | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for name, layer in layers.items():
        times = [layer["median_us"].get(kind) for kind in kinds]
        cells = ["" if time is None else f"{time:,.0f} µs" for time in times]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
