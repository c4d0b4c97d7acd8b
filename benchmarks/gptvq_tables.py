"""The guide's tables of language models, from what the other gptvq benchmarks stored.

Run: python -m benchmarks.gptvq_tables (prints them; `make tables` writes them)
"""

import json
import statistics
from typing import Any

from benchmarks.common import RESULTS

PARAMETERS = 134_515_008
SEEDS = 3  # of a figure that is final
LABELS = {
    "none": "float32, as imported",
    "gptvq 2D 2b l2048 fast": "2D 2 bit, `fast`",
    "gptvq 2D 2b l2048": "2D 2 bit, default",
    "gptvq 2D 2b l2048 rounds 2": "2D 2 bit, two rounds",
    "gptvq 1D 2.25": "1D 2 bit, two rounds, `--target-bpv 2.25`",
    "gptvq 2D 2.25": "2D 2 bit, two rounds, `--target-bpv 2.25`",
    "gptvq 2D 2.25 heads rotated": "2D 2 bit, two rounds, `--target-bpv 2.25 --rotate heads`",
    "gptvq 2D 2.25 all rotated": "2D 2 bit, two rounds, `--target-bpv 2.25 --rotate all-untied`",
    "gptvq 4D 2.25": "4D 2 bit, two rounds, `--target-bpv 2.25`",
    "gptq int2 g64": "GPTQ int2, groups of 64",
    "rtn int2 g64": "RTN int2, groups of 64",
    "gptvq 2D mixed 2.25": "2D, bits shared between layers, `--budget 2.25`",
    "gptvq 2D mixed 2.25 tuned": "the same, tuned end to end, `--tune 120`",
    "gptvq 2D 3b l8192": "2D 3 bit, default",
    "gptvq 1D 3.125": "1D 3 bit, two rounds, `--target-bpv 3.125`",
    "gptvq 2D 3.125": "2D 3 bit, two rounds, `--target-bpv 3.125`",
    "gptq int3 g64 act-order": "GPTQ int3, groups of 64, act-order",
    "gptq int3 g128": "GPTQ int3, groups of 128",
    "gptq int3 g128 heads rotated": "GPTQ int3, groups of 128, `--rotate heads`",
    "gptq int3 g128 all rotated": "GPTQ int3, groups of 128, `--rotate all-untied`",
    "rtn int3 g128": "RTN int3, groups of 128",
}


def stored(name: str) -> dict[str, Any]:
    """Return a benchmark's results, or nothing where it has not been run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def perplexities() -> str:
    """Return the table of what was measured, by falling bits, with only the rows that were run."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in stored("gptvq_perplexity").get("rows", []):
        rows.setdefault(row["row"], []).append(row)
    lines = [
        "| quantized | bits per packed weight | file: MB, bits per weight | perplexity | seeds |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, found in sorted(rows.items(), key=lambda item: -_bits(item[1][0])):
        values = [row["perplexity"] for row in found]
        spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
        file = found[0].get("file_bytes", 4 * PARAMETERS)
        size = f"{file / 1e6:.0f}, {8 * file / PARAMETERS:.1f}"
        cells = [LABELS[name], f"{_bits(found[0]):.3f}", size]
        seeds = "any" if name == "none" or name.startswith("rtn") else f"{len(found)} of {SEEDS}"
        lines.append(f"| {' | '.join(cells)} | {statistics.mean(values):.1f}{spread} | {seeds} |")
    return "\n".join(lines)


def _bits(row: dict[str, Any]) -> float:
    return float(row.get("bits_per_weight", 32))


def speeds() -> str:
    """Return the table of errors and speeds, each with its command."""
    lines = ["| claim | measured | command |", "|---|---|---|"]
    lines += [f"| {claim} | {value} | `{command}` |" for claim, value, command in _claims()]
    lines = [line.replace("`same`", "same") for line in lines]
    return "\n".join(lines)


def _claims() -> list[tuple[str, str, str]]:
    found = []
    if layers := stored("gptvq_layers").get("layers"):
        for label, key in (("default", "2D 2b l2048, default"), ("`best`", "2D 2b l2048, best")):
            found.append(_layers(layers, label, key))
        errors = [layers["q_proj"][f"GPTQ int{bits} g64"]["relative_error"] for bits in (3, 2)]
        text = f"{errors[0]:.5f} and {errors[1]:.5f}; the published code 0.00457 and 0.02683"
        found.append(("GPTQ int3 and int2, `q_proj`: error", text, "same"))
    found += _whole_model()
    if decode := stored("gptvq_decode"):
        speed = {k: statistics.median(v) for k, v in decode["tokens_per_s"].items()}
        ratio = speed["packed, cache none"] / speed["bfloat16"]
        text = f"{ratio:.2f}x: {speed['packed, cache none']:.1f} against {speed['bfloat16']:.1f}"
        bytes_ = decode["resident_bytes"] / decode["packed_bytes"]
        text += f" tokens/s; {bytes_:.2f}x the packed bytes in memory"
        command = "python -m benchmarks.gptvq_decode"
        found.append(("2D 3 bit, batch 1, against bfloat16 in transformers", text, command))
        if (rows := speed.get("packed, embeddings in 8 bits")) is not None:
            text = f"{rows / speed['bfloat16']:.2f}x: {rows:.1f} tokens/s"
            found.append(("the same with `--embeddings 8`", text, "same"))
        for name, value in speed.items():
            if name.startswith("llama.cpp"):
                size = decode["gguf_bytes"] / 1e6
                times = value / speed.get(
                    "packed, embeddings in 8 bits", speed["packed, cache none"]
                )
                text = f"{value:.1f} tokens/s of a {size:.0f} MB file ({times:.1f}x ours)"
                found.append(("the same model in llama.cpp, Q4_1", text, "same"))
    if prefill := stored("gptvq_prefill").get("tokens"):
        found.append(_prefill(prefill))
    return found + _low_bits()


def _low_bits() -> list[tuple[str, str, str]]:
    """Return how products and tokens of few bits compare with other runtimes'."""
    found = []
    if decode := stored("low_bits_decode"):
        speed = {k: statistics.median(v) for k, v in decode["tokens_per_s"].items()}
        command = "python -m benchmarks.low_bits_decode"
        for key, ratio in decode["ratios"].items():
            name, _, other = key.partition(" / ")
            text = f"{ratio['median']:.2f}x: {speed[name]:.1f} against {speed[other]:.1f} tokens/s"
            found.append((f"{name}, compiled step, against {other}", text, command))
            command = "same"
    if places := stored("low_bits_kernels").get("products"):
        command = "python -m benchmarks.low_bits_kernels"
        for place, products in places.items():
            took, ours = products["median_us"], "int4 g64 x int8"
            parts = [f"{name} {value / took[ours]:.2f}x" for name, value in took.items()]
            text = f"{took[ours]:.0f} us; " + "; ".join(parts[1:])
            claim = f"{ours}, {products['rows']:,} x {products['columns']}, {place}; others' time"
            found.append((claim, text, command))
            command = "same"
    return found


def _prefill(results: dict[str, Any]) -> tuple[str, str, str]:
    """Return what reading inputs of several lengths takes."""
    parts = []
    for tokens, found in results.items():
        over = [f"{item['median']:.2f}x" for item in found["over_bfloat16"].values()]
        parts.append(f"{' and '.join(over)} at {int(tokens):,} tokens")
    claim = "reading an input, 2D 3 bit and uniform 4 bit: time over bfloat16"
    return claim, "; ".join(parts), "python -m benchmarks.gptvq_prefill"


def _whole_model() -> list[tuple[str, str, str]]:
    """Return what all 210 layers took, of rows that one process made from start to end."""
    parts = []
    rows = stored("gptvq_perplexity").get("rows", [])
    for name, label, goal in (
        ("gptvq 2D 2b l2048 fast", "`fast`", 180),
        ("gptvq 2D 2b l2048", "default", 480),
        ("gptvq 2D 2b l2048 rounds 2", "two rounds", 480),
    ):
        seconds = [row["cpu_seconds"] for row in rows if row["row"] == name]
        if seconds:
            low, high = min(seconds), max(seconds)
            text = f"{label} {low:.0f}" + (f"-{high:.0f}" if high > low else "")
            parts.append(text + (f" (goal {goal}, missed)" if high > goal else ""))
    if not parts:
        return []
    text = f"{', '.join(parts)} CPU-s"
    claim = "all 210 layers of SmolLM2-135M, 2D 2 bit, calibration included (a busy machine)"
    return [(claim, text, "python -m benchmarks.gptvq_perplexity")]


def _layers(layers: dict[str, Any], label: str, key: str) -> tuple[str, str, str]:
    ours = [layers[name][key] for name in ("q_proj", "up_proj")]
    text = " and ".join(f"{item['relative_error']:.4f}" for item in ours)
    text += f" in {ours[0]['seconds']:.2f} and {ours[1]['seconds']:.2f} CPU-s"
    if "published code, 2D 2b l2048" in layers["q_proj"]:
        peer = [layers[name]["published code, 2D 2b l2048"] for name in ("q_proj", "up_proj")]
        text += "; the published code " + " and ".join(f"{p['relative_error']:.4f}" for p in peer)
        text += ", " + " and ".join(
            f"{p['seconds'] / o['seconds']:.0f}x" for p, o in zip(peer, ours, strict=True)
        )
        text += " the time"
    claim = f"two real layers, 2D 2 bit, {label}: relative error"
    return claim, text, "python -m benchmarks.gptvq_layers"


if __name__ == "__main__":
    print(perplexities(), speeds(), sep="\n\n")
