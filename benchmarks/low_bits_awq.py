"""Claim: AWQ's scales lower the perplexity of rounding at 3 and 4 bits, on two texts.

SmolLM2-135M-Instruct, all 210 linear layers, integers in groups of 64 columns, rounded to nearest
(rtn) or with error feedback (gptq), with and without AWQ; calibrated on 8 windows of 1024 tokens
of the WikiText-2 validation text. Perplexity on the WikiText-2 test text and on Shakespeare's
plays, which nothing was calibrated on: first 6 windows of 1024 tokens of each, float32. A row that
is in the result file is not made again; one that was killed goes on (`cpu_seconds`: its last part).
Run: python -m benchmarks.low_bits_awq --model DIR --calibration TEXT --test TEXT --plays TEXT
     --work DIR
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import RESULTS, machine
from zoo.data.text import read_text, tokenize
from zoo.quantization.language.job import compress_model
from zoo.quantization.language.opening import load
from zoo.quantization.options import LayerOptions
from zoo.quantization.plan import QuantizationPlan
from zoo.tasks.text_generation.perplexity import perplexity

RESULT = RESULTS / "low_bits_awq.json"
GROUP, LENGTH, CALIBRATION, WINDOWS = 64, 1024, 8, 6
TEXTS = ("test", "plays")
ROWS = [
    (method, bits, awq) for method in ("rtn", "gptq") for bits in (4, 3) for awq in (False, True)
]


def measure(args: argparse.Namespace, method: str, bits: int, awq: bool) -> dict[str, Any]:
    """Make one row: quantize, load as a user would, measure."""
    folder = args.work / f"{method}-{bits}{'-awq' * awq}"
    options = LayerOptions(method=method, bits=bits, group_size=GROUP)
    plan = QuantizationPlan(options=options, windows=CALIBRATION, length=LENGTH, awq=awq)
    start = time.process_time()
    report = compress_model(
        args.model, folder, plan, text=args.calibration if plan.calibrates else None, resume=True
    )
    row = {"method": method, "bits": bits, "awq": awq, "cpu_seconds": time.process_time() - start}
    row["bits_per_weight"] = report["bits_per_weight"]
    if awq:
        places = report["awq"].values()
        row["places"] = len(places)
        row["mean_alpha"] = sum(place["alpha"] for place in places) / len(places)
        row["mean_error_left"] = sum(place["error"] for place in places) / len(places)
    row["perplexity"] = scores(args, folder)
    shutil.rmtree(folder)
    return row


def scores(args: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return the perplexity on each text."""
    model, found = load(folder, dtype=torch.float32), {}
    for name in TEXTS:
        ids = tokenize(args.model, read_text(getattr(args, name)))
        found[name] = perplexity(model, ids, length=LENGTH, windows=WINDOWS)["perplexity"]
    return found


def main() -> None:
    """Make the rows that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "test", "plays", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    result = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    if not result:
        result = {"machine": machine(1), "float": scores(args, args.model), "rows": []}
    for row in ROWS:
        if row not in [(r["method"], r["bits"], r["awq"]) for r in result["rows"]]:
            result["rows"].append(measure(args, *row))
            RESULT.write_text(json.dumps(result, indent=2) + "\n")
    _judge(result)


def _judge(result: dict[str, Any]) -> None:
    """Print the table; the claim is of rounding to nearest."""
    rows = {(r["method"], r["bits"], r["awq"]): r["perplexity"] for r in result["rows"]}
    print("method  bits  text  without  with AWQ  (float)")
    failed = []
    for method, bits in [(m, b) for m, b, awq in ROWS if awq and (m, b, awq) in rows]:
        for text in TEXTS:
            without, scaled = (rows[method, bits, awq][text] for awq in (False, True))
            known = result["float"][text]
            print(f"{method}  {bits}  {text}  {without:.2f}  {scaled:.2f}  ({known:.2f})")
            if method == "rtn" and not scaled < without:
                failed.append(f"{bits} bits on {text}")
    if failed:
        raise SystemExit(f"claim not met: {', '.join(failed)}")


if __name__ == "__main__":
    main()
