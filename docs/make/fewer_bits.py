"""Tables of what helps at few bits besides the format, from what its benchmarks stored."""

import statistics
from typing import Any

from docs.make.headlines import stored


def awq() -> str:
    """Return perplexities of rounding without and with AWQ."""
    found = stored("low_bits_awq")
    exact = found["float"]
    rows = {(r["method"], r["bits"], r["awq"]): r for r in found["rows"]}
    lines = [
        "| method | bits per weight | WikiText-2 | with AWQ | Shakespeare's plays | with AWQ |",
        "|---|---:|---:|---:|---:|---:|",
        f"| float | 32 | {exact['test']:.2f} | | {exact['plays']:.2f} | |",
    ]
    for (method, bits, scaled), row in rows.items():
        if scaled:
            continue
        cells = [f"{method}, {bits} bits", f"{row['bits_per_weight']:.2f}"]
        other = rows.get((method, bits, True))
        for text in ("test", "plays"):
            after = "" if other is None else f"{other['perplexity'][text]:.2f}"
            cells += [f"{row['perplexity'][text]:.2f}", after]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cache() -> str:
    """Return perplexities and bytes by the bits of keys and values."""
    found = stored("low_bits_cache")
    lines = [
        "| keys and values | WikiText-2 | Shakespeare's plays | bytes for 1024 tokens |",
        "|---|---:|---:|---:|",
    ]
    rows = {(r["text"], r["bits"]): r for r in found["rows"]}
    for bits in (32, 8, 4):
        scores = " | ".join(f"{rows[text, bits]['perplexity']:.3f}" for text in ("test", "plays"))
        size = rows["test", bits].get("cache_bytes", 2 * found["float16_bytes"])
        lines.append(f"| {'float32' if bits == 32 else f'{bits} bits'} | {scores} | {size:,} |")
    return "\n".join(lines)


def bits() -> str:
    """Return what each way to share out bits reaches on two networks."""
    found = stored("search_bits")["networks"]
    names = list(found)
    lines = [
        f"| way | {' | '.join(f'{name}, judged | held out' for name in names)} |",
        f"|---|{'---:|---:|' * len(names)}",
    ]
    every = [way for name in names for way in found[name]["without"]]
    for way in dict.fromkeys(every):
        cells = [_pair(found[name]["without"].get(way)) for name in names]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    for way in next(iter(found.values()))["searches"]:
        cells = [_pair(_mean(found[name]["searches"][way])) for name in names]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(courses: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "loss": statistics.mean(course["best"][-1] for course in courses),
        "held_out": statistics.mean(course["held_out"] for course in courses),
    }


def _pair(row: dict[str, float] | None) -> str:
    return "- | -" if row is None else f"{row['loss']:.4f} | {row['held_out']:.4f}"


def flex() -> str:
    """Return perplexities by which layers take inputs of 8 bits."""
    found = stored("low_bits_flex")["perplexity"]
    lines = ["| inputs of 8 bits | WikiText-2 | Shakespeare's plays |", "|---|---:|---:|"]
    for name, scores in found.items():
        lines.append(f"| {name} | {scores['test']:.3f} | {scores['plays']:.3f} |")
    return "\n".join(lines)
