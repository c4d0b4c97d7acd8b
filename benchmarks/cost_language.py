"""How far tokens a second follow from bytes: the published decode rates, each left out in turn.

    python -m benchmarks.cost_language

Rows of one engine on one phone share a bandwidth; engines on one phone stand in for each other
where there is only one row. Each row is predicted from the mean bandwidth of the others.
"""

import csv
import json
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine
from zoo.cost import Decoder

DATA = Path(os.environ.get("ZOO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
LLAMA_3 = Decoder(
    name="Llama-3-8B", layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8,
    head_dim=128, vocabulary=128256, bits_per_weight=4.5, output_bits=8,
)  # fmt: skip
LLAMA_2 = Decoder(
    name="Llama-2-7B", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32,
    head_dim=128, vocabulary=32000, bits_per_weight=4.125, output_bits=8,
)  # fmt: skip
BITS = {"int4 g128": 4.125, "int4 g256": 4.0625}


def gigabytes(row: dict[str, str]) -> float:
    """Return what a token reads: the published footprint, or the packed weights."""
    if row["footprint_GB"]:
        return float(row["footprint_GB"])
    sizes = {"Llama-2-7B": LLAMA_2, "Llama-3-8B": LLAMA_3}[row["model"]]
    output = sizes.vocabulary * sizes.hidden * sizes.output_bits
    return (sizes.layer_weights * BITS[row["format"]] + output) / 8e9


def predicted() -> list[dict[str, Any]]:
    """Return each row with the rate that the other rows of its phone predict."""
    with (DATA / "cost" / "llm_decode_reference.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    phones = {
        id(row): "GPTVQ's" if row["footprint_GB"] else row["device"] for row in rows
    }  # its rows say "same"
    found = []
    for row in rows:
        others = [r for r in rows if r is not row and phones[id(r)] == phones[id(row)]]
        speed = statistics.fmean(gigabytes(r) * float(r["tok_per_s"]) for r in others)
        rate = speed / gigabytes(row)
        found.append(
            {
                "row": f"{row['model']} {row['format']}, {row['engine']}, {phones[id(row)]}",
                "published": float(row["tok_per_s"]),
                "predicted": rate,
                "error": rate / float(row["tok_per_s"]) - 1,
            }
        )
    return found


def main() -> None:
    """Write and print the figures."""
    rows = predicted()
    worst = max(abs(row["error"]) for row in rows)
    result = {"machine": machine(1), "worst": worst, "rows": rows}
    (RESULTS / "cost_language.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(f"{row['row']}: {row['published']:.2f}, {row['predicted']:.2f} ({row['error']:+.1%})")
    print(f"worst {worst:.1%}")


if __name__ == "__main__":
    main()
