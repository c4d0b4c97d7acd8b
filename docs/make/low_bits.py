"""Tables of formats of few bits: their perplexities and errors, and what training them gains."""

import statistics

from benchmarks.low_bits_formats import FORMATS
from docs.make.headlines import stored


def formats() -> str:
    """Return bits and perplexities of every format, by rounding and with error feedback."""
    rows = {row["row"]: row for row in stored("low_bits_formats")["rows"]}
    lines = [
        "| format | bits per weight | WikiText-2, `rtn` | `gptq` | Brown, `rtn` | `gptq` |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    base = rows["none"]
    plain = (f"{base[f'perplexity_{text}']:.2f}" for text in ("wikitext", "second"))
    lines.append("| float32 | 32 | {} | | {} | |".format(*plain))
    for name in FORMATS:
        both = [rows.get(f"{method} {name}") for method in ("rtn", "gptq")]
        made = next((row for row in both if row), None)
        if made is None:
            continue
        cells = [
            f"{row[f'perplexity_{text}']:.2f}" if row else ""
            for text in ("wikitext", "second")
            for row in both
        ]
        label = name.replace(" g48", ", groups of 48")
        lines.append(f"| {label} | {made['bits_per_weight']:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def layers() -> str:
    """Return errors layer by layer: the mixture, and integers against floats in blocks."""
    found = stored("low_bits_layers")
    median = found["median_error"]
    lines = [
        "| 210 layers, rounded by the diagonal of the Hessian | measured |",
        "|---|---|",
        f"| mixed below FixP4 | in {found['mixed_below_fixp4']:.1%} of the layers, median "
        f"{found['median_ratio_to_fixp4']:.3f} times its error |",
        f"| mixed below both FixP4 and Posit4 | in {found['mixed_below_both']:.1%} |",
        "| median error | " + ", ".join(f"{n} {v:.5f}" for n, v in median.items()) + " |",
    ]
    for pair, row in found["crossovers"].items():
        lines.append(
            f"| {pair} | integers err less in {row['integers_err_less']:.1%}; medians "
            f"{row['median_integers']:.2g} and {row['median_floats']:.2g} |"
        )
    return "\n".join(lines)


def training() -> str:
    """Return the losses before and after tuning scales, and training weights, of three seeds."""
    found = stored("low_bits_training")
    lines = [
        "| format | bits per weight | rounded | scales and norms tuned | weights trained too |",
        "|---|---:|---:|---:|---:|",
        f"| float32 | 32 | {found['float']:.4f} | | |",
    ]
    for name, row in found["rows"].items():
        cells = [
            f"{statistics.mean(row[way]):.4f} ({min(row[way]):.4f} to {max(row[way]):.4f})"
            for way in ("scales", "weights")
        ]
        lines.append(
            f"| {name} | {row['bits_per_weight']:.3f} | {row['rounded']:.4f} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines)


def lossless() -> str:
    """Return what DFloat11 takes, and how fast it decodes."""
    found = stored("dfloat11")
    times = found["decode_over_8_copies"]
    return "\n".join(
        [
            "| SmolLM2-135M in bf16 | measured |",
            "|---|---|",
            f"| file | {found['bytes_coded']:,} of {found['bytes_bf16']:,} bytes: "
            f"{found['share']:.1%} |",
            f"| bits per weight | {found['bits_per_weight']:.3f} |",
            "| every bit equal | " + ("yes |" if found["every_bit_equal"] else "no |"),
            f"| decoding a block, against 8 copies of it | {times['median']:.2f}x "
            f"({times['min']:.2f} to {times['max']:.2f}), one thread |",
        ]
    )
