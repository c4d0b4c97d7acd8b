"""Claim: keys and values in 8 bits cost no perplexity, in 4 bits little; bytes beside.

SmolLM2-135M-Instruct in float32, its weights as they are; the WikiText-2 test text and
Shakespeare's plays, first 2 windows of 1024 tokens of each, read 16 tokens at a time through the
cache. The last 64 to 127 tokens are in full precision (here float32, and counted). The bars: at
most 0.5 % for 8 bits, below 4 % for 4.
Run: python -m benchmarks.low_bits_cache --model DIR --test TEXT --plays TEXT
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from zoo.data.text import read_text, tokenize
from zoo.quantization.language.opening import load
from zoo.tasks.text_generation.perplexity import perplexity

LENGTH, WINDOWS = 1024, 2
BARS = {8: 1.005, 4: 1.04}


def main() -> None:
    """Measure each number of bits on each text."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "test", "plays"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.model, dtype=torch.float32)
    config = model.config
    heads, width = config.num_key_value_heads, config.head_dim
    half = 2 * 2 * config.num_hidden_layers * heads * width * LENGTH  # keys and values in float16
    rows: list[dict[str, Any]] = []
    for name in ("test", "plays"):
        ids = tokenize(args.model, read_text(getattr(args, name)))
        for bits in (0, 8, 4):
            found = perplexity(model, ids, length=LENGTH, windows=WINDOWS, cache_bits=bits)
            rows.append({"text": name, "bits": bits or 32, **found})
            print(rows[-1], flush=True)
    lines = [["text", "bits", "perplexity", "of exact", "bytes", "of float16"]]
    failed = []
    exact = {row["text"]: row["perplexity"] for row in rows if row["bits"] == 32}
    for row in rows:
        ratio = row["perplexity"] / exact[row["text"]]
        size = row.get("cache_bytes", 2 * half)
        numbers = f"{row['perplexity']:.3f}", f"{ratio:.4f}", str(size), f"{size / half:.3f}"
        lines.append([row["text"], str(row["bits"]), *numbers])
        if ratio > BARS.get(row["bits"], 1.0):
            failed.append(f"{row['bits']} bits on {row['text']}: {ratio:.4f}")
    report("low_bits_cache", 1, {"float16_bytes": half, "rows": rows}, lines)
    if failed:
        raise SystemExit(f"claim not met: {', '.join(failed)}")


if __name__ == "__main__":
    main()
