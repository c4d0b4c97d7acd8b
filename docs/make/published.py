"""The table of published files, imported, from the stored results of their benchmark."""

from typing import Any

from docs.make.headlines import stored

_DATA = {
    "micronet-kws-m": "1000 clips of Speech Commands",
    "mlperf-tiny-kws": "the same",
    "mlperf-tiny-ic": "500 pictures of CIFAR-10",
    "mlperf-tiny-vww": "1000 pictures of MLPerf Tiny",
    "micronet-vww-4": "the same, enlarged",
    "mlperf-tiny-ad": "248 clips of ToyCar, AUC",
    "mlperf-tiny-sww": "a wave of ten seconds",
}


def table() -> str:
    """Return a row for each file: what it reaches here, what its authors state, what it costs."""
    lines = [
        "| recipe | judged on | int8 | in float | stated | file | U55-128 cycles |",
        "|---|---|---:|---:|---|---:|---:|",
    ]
    for found in stored("published_tinyml")["files"].values():
        name, here, stated = found["recipe"], found["measured"], found["stated"]
        key = "pooled_auc" if "pooled_auc" in here else "accuracy"
        if "words" in here:
            hits = f"{here['words'] - here['missed']} of {here['words']} words"
            others = f"{found['crowd']['false_alarms']} in 1000 s of other words"
            shown = [f"{hits}, {here['false_alarms']} false alarms; {others}", "-"]
            claim = f"{1 - stated['miss_rate']:.0%} of words, {stated['protocol']}"
        else:
            shown = [_share(part[key], key) for part in (here, here["float"])]
            claim = f"{_share(stated[key], key)}, {stated['protocol']}"
        cells = [f"`{name}`", _DATA[name], *shown, claim]
        cells += [f"{found['bytes']:,} B", f"{found['u55_128_cycles']:,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(value: Any, key: str) -> str:
    return f"{value:.4f}" if key == "pooled_auc" else f"{100 * value:.1f} %"
