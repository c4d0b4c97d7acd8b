"""Claim: mixed Posit4 and FixP4 has less error than FixP4 in 95 % of the layers of SmolLM2.

Output errors tr(E H E^T) / tr(W H W^T) of all 210 layers on text that the Hessian of the choice has
not seen, 128 rows of each, rounded to nearest with errors weighted by the diagonal of the Hessian.
Beside it, integers against floats in blocks (2510.25602 compares weights and activations; here
weights alone), as they are and with a Hadamard rotation of 64 columns under random signs: for each
pair the share of layers in which the integers err less.
Run: python -m benchmarks.low_bits_layers --model DIR --calibration TEXT --wikitext TEXT
--second TEXT --work DIR
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import report
from benchmarks.low_bits_formats import Subject
from zoo.quantization.core import quantize_matrix
from zoo.quantization.options import LayerOptions
from zoo.quantization.solvers.contract import weighted

ROWS, TURNED, BAR = 128, 64, 0.95
FORMATS = ("fixp4", "posit4", "mixed", "nf4", "fp4")
PAIRS = (("mxint8", "mxfp8"), ("mxint4", "mxfp4"), ("nvint4", "nvfp4"))


def hadamard(size: int) -> Tensor:
    """Return the orthogonal Hadamard matrix (size, size) with random signs of its rows."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(2, (size, 1), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return matrix * signs / size**0.5


def errors(subject: Subject, name: str, turn: Tensor | None = None) -> dict[str, float]:
    """Return each layer's relative error on held-out text."""
    options, found = LayerOptions(method="rtn", grid=name), {}
    for layer, floats in subject.floats.items():
        weight = floats[:: max(1, len(floats) // ROWS)][:ROWS]
        hessian = None if turn is not None else subject.seen[layer]
        turned = weight if turn is None else _turned(weight, turn)
        made = quantize_matrix(turned, hessian, options).dequantize()
        back = made if turn is None else _turned(made, turn.T)
        held = subject.held[layer]
        found[layer] = float(weighted(weight - back, held).sum() / weighted(weight, held).sum())
    return found


def _turned(weight: Tensor, turn: Tensor) -> Tensor:
    return (weight.unflatten(1, (-1, TURNED)) @ turn).flatten(1)


def crossovers(subject: Subject) -> dict[str, Any]:
    """Return, for each pair, medians and the share of layers in which integers err less."""
    result: dict[str, Any] = {}
    for way, turn in (("as they are", None), ("rotated", hadamard(TURNED))):
        for integers, floats in PAIRS:
            ours, theirs = (errors(subject, name, turn) for name in (integers, floats))
            result[f"{integers} against {floats}, {way}"] = {
                "median_integers": statistics.median(ours.values()),
                "median_floats": statistics.median(theirs.values()),
                "integers_err_less": sum(ours[n] < theirs[n] for n in ours) / len(ours),
            }
    return result


def main() -> None:
    """Measure all layers."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "calibration", "wikitext", "second", "work"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    subject = Subject(args)
    found = {name: errors(subject, name) for name in FORMATS}
    mixed, fixed, posit = (found[name] for name in ("mixed", "fixp4", "posit4"))
    below = sum(mixed[n] < fixed[n] for n in mixed) / len(mixed)
    facts = {
        "layers": len(mixed),
        "rows_of_each": ROWS,
        "mixed_below_fixp4": below,
        "mixed_below_both": sum(mixed[n] < min(fixed[n], posit[n]) for n in mixed) / len(mixed),
        "median_ratio_to_fixp4": statistics.median(mixed[n] / fixed[n] for n in mixed),
        "median_error": {name: statistics.median(row.values()) for name, row in found.items()},
        "crossovers": crossovers(subject),
    }
    table = [["", "value"]]
    table += [[name, f"{facts[name]:.4f}"] for name in ("mixed_below_fixp4", "mixed_below_both",
                                                        "median_ratio_to_fixp4")]  # fmt: skip
    table += [[name, f"{value:.5f}"] for name, value in facts["median_error"].items()]
    table += [
        [name, f"{row['median_integers']:.6f} {row['median_floats']:.6f} "
               f"{row['integers_err_less']:.3f}"]
        for name, row in facts["crossovers"].items()
    ]  # fmt: skip
    report("low_bits_layers", 1, facts, table)
    if below < BAR:
        raise SystemExit("claim not met")


if __name__ == "__main__":
    main()
