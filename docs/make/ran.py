"""The tables of RAN-explicit, from the stored results of its benchmarks."""

from docs.make.headlines import stored

_KINDS = ("dense 3x3", "1x1", "depthwise", "norms after sums", "sums and the rest")
_NAMES = {
    "ran-e-c": "`ran-e-c`",
    "ran-e-gt": "`ran-e-gt`",
    "efficientnet-lite-b0": "`efficientnet-lite-b0`, ReLU6",
    "efficientnet-lite-b0 h-swish": "the same with h-swish",
}


def ratios() -> str:
    """Return frames per second on each accelerator, as multiples of the baseline's."""
    found = stored("ran_explicit")
    networks, published = found["networks"], found["published"]
    lines = [
        "| accelerator | network | over the baseline with ReLU6 | with h-swish | published |",
        "|---|---|---:|---:|---:|",
    ]
    for npu in (key for key in networks["ran-e-c"] if key != "macs"):
        for name in ("ran-e-c", "ran-e-gt"):
            both = networks[name][npu]["ratios"].values()
            told = published[npu.rpartition("-")[0]][name]
            cells = " | ".join(f"{ratio:.2f}x" for ratio in both)
            lines.append(f"| `{npu}` | {_NAMES[name]} | {cells} | {told:.2f}x |")
    return "\n".join(lines)


def cycles() -> str:
    """Return where the cycles go on Ethos-U55-256, in millions."""
    networks = stored("ran_explicit")["networks"]
    lines = [
        f"| network | total | {' | '.join(_KINDS)} |",
        f"|---|---:|{'---:|' * len(_KINDS)}",
    ]
    for name, shown in _NAMES.items():
        told = networks[name]["ethos-u55-256"]
        cells = " | ".join(f"{told['op_cycles'].get(kind, 0) / 1e6:.2f}" for kind in _KINDS)
        lines.append(f"| {shown} | {told['cycles'] / 1e6:.2f} | {cells} |")
    return "\n".join(lines)


def small() -> str:
    """Return ran-e-32 and what it was, seed by seed."""
    found = stored("ran_small")
    lines = [
        f"| network | parameters | MACs | {found['npu']}, by Vela | float | int8 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, told in found["networks"].items():
        shown = [
            ", ".join(f"{100 * seed[kind]:.1f} %" for seed in told["seeds"])
            for kind in ("float", "int8")
        ]
        lines.append(
            f"| `{name}` | {told['parameters']:,} | {told['macs'] / 1e6:.1f} M | "
            f"{told['latency_ms']:.2f} ms | {' | '.join(shown)} |"
        )
    return "\n".join(lines)
