"""The tables of the guide to noise and attacks, from stored benchmarks."""

from docs.make.headlines import stored

NAMES = {"sharp": "sharp", "down": "enlarged and shrunk", "soft": "tuned on enlarged"}


def noise() -> str:
    """Return what each way of bearing noise costs, and gets back."""
    found = stored("reliability_noise")
    lines = [
        "| | parameters | work | clean | noisy | of the loss back |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in found["ways"].items():
        cells = [
            f"+{row['added_share']:.2f} %", f"+{row['added_work']:.1f} %", f"{row['clean']:.1f} %",
            f"{row['noisy']:.1f} % ± {row['standard_error']:.1f}", f"{row['recovered']:.0f} %",
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def attacked() -> str:
    """Return what pipelines keep right in each geometry."""
    found = stored("reliability_defence")
    lines = [
        "| geometry | pipeline | clean | 1/255 | 2/255 | 4/255 | adaptive, 2/255 |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for geometry, rows in found["tables"].items():
        for pipeline, row in rows.items():
            keys = ("clean", "1", "2", "4", "adaptive")
            cells = [f"{row[key]:.1f}" if key in row else "" for key in keys]
            lines.append(f"| {NAMES[geometry]} | `{pipeline}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences() -> str:
    """Return differences between pipelines on the same pictures, with their intervals."""
    found = stored("reliability_defence")["differences"]
    lines = ["| at 2/255, in points | difference | 95 % interval |", "|---|---:|---:|"]
    for text, (value, low, high) in found.items():
        lines.append(f"| {text} | {value:+.1f} | {low:+.1f} to {high:+.1f} |")
    return "\n".join(lines)


def pressed() -> str:
    """Return what pipelines keep under more steps and restarts, on the same pictures."""
    found = stored("reliability_defence")["pressed"]
    names = [name for name in next(iter(found.values())) if name != "pictures"]
    lines = [f"| pipeline | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for text, row in found.items():
        lines.append(f"| `{text}` | {' | '.join(f'{row[name]:.1f}' for name in names)} |")
    return "\n".join(lines)


def frames() -> str:
    """Return what enlargers take on an NPU, by Vela."""
    found = stored("reliability_defence")["frames_ms"]
    places = list(found)
    lines = [f"| ms | {' | '.join(places)} |", f"|---|{'---:|' * len(places)}"]
    for name in next(iter(found.values())):
        cells = [f"{found[place][name]:.2f}" for place in places]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
