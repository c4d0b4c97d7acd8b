"""The tables of the guide to RAN-implicit, from stored benchmarks."""

from docs.make.headlines import stored


def speed() -> str:
    """Return how much faster each RAN-i is than the ConvNeXt of its size."""
    found = stored("ran_implicit")
    macs, rows = found["macs"], found["networks"]
    lines = [
        "| | multiplications | a picture at a time | sixteen | compiled: one | sixteen |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    hows = [f"batch {batch}, {how}" for how in ("eager", "compiled") for batch in (1, 16)]
    for size, base in (("tiny", "convnext-t"), ("small", "convnext-s"), ("base", "convnext-b")):
        for name in (f"ran-i-{size}", f"ran-i-{size}-r8"):
            cells = [_cell(rows.get(f"{name}, {how}")) for how in hows]
            share = f"1 / {macs[base] / macs[name]:.2f} of `{base}`"
            lines.append(f"| `{name}` | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: dict[str, dict[str, float]] | None) -> str:
    if found is None:
        return ""
    times = found["times_convnext"]
    return f"{times['median']:.2f}x ({times['min']:.2f} to {times['max']:.2f})"


def study() -> str:
    """Return how each measure ranks networks of equal cost, beside how their accuracies do."""
    found = stored("ran_expressivity")["correlations"]
    groups = list(found)
    lines = [f"| | {' | '.join(f'networks: {group}' for group in groups)} |", "|---|---:|---:|"]
    first = found[groups[0]]
    for name in sorted(first, key=lambda name: -first[name]["rho"]):
        cells = [
            f"{one['rho']:+.2f} ({one['low']:+.2f} to {one['high']:+.2f})"
            for one in (found[group][name] for group in groups)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
