"""Claim: what noise costs a classifier on analog arrays, and which way gets most of it back.

ResNet-8 of MLPerf Tiny, additive noise of 5 % of each layer's largest output, judged on 500
lossless test pictures of CIFAR-10, on ten chips. Beside the blocks stand four baselines: all
weights trained under the same noise, the biases alone, a gain for each channel by regression, and
reads averaged. Everything that is trained is trained for the same number of steps, and blocks for
twice as many, too.

Run: python -m benchmarks.reliability_noise --data CIFAR --test CIFAR500 --runs DIR [--steps N]

CIFAR has a folder of pictures for each label; so has CIFAR500. A killed run goes on where it was.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report
from zoo.files import write_json
from zoo.resilience.noise import Borne, borne, limits_of, parse

REF, NOISE, BUDGET = "mlperf-tiny-ic.cifar10", "gauss:0.05", "2.5%"
CHIPS, LEVELS = 10, (0.5, 1.5)
DROP, RECOVERED, CLEAN = 25.0, 70.0, 2.0  # the bars: points, percent of the drop, points
READS = (2, 4)
WAYS: dict[str, dict[str, Any]] = {
    "gain of each channel, by regression": {"block": "channel", "steps": 0},
    "blocks, by regression": {"steps": 0},
    "blocks": {"lr": 5e-3},
    "blocks, twice the steps": {"lr": 5e-3, "times": 2},
    "biases": {"learns": "biases", "lr": 5e-3},
    "all weights": {"learns": "all", "lr": 1e-3},
    "blocks of the published form": {"block": "bottleneck", "lr": 5e-3},
}


def judged(network: torch.nn.Module, specimen: Any, reads: int, levels: Any) -> dict[str, Any]:
    """Return the accuracy without noise, at the noise, and at other levels, in percent."""
    x, y, noises = specimen.inputs, specimen.labels, parse(NOISE)
    found = limits_of(network, x)

    def at(level: float, chips: int) -> Borne:
        return borne(network, x, y, noises, found, chips=chips, level=level, reads=reads)

    noisy = at(1.0, CHIPS)
    return {
        "clean": 100 * at(0.0, 1).accuracy,
        "noisy": 100 * noisy.accuracy,
        "standard_error": 100 * noisy.standard_error,
        "worst_chip": 100 * min(noisy.chips),
        "levels": {str(level): 100 * at(level, 3).accuracy for level in levels},
    }


def measured(
    name: str, options: dict[str, Any], specimen: Any, data: Path, runs: Path, steps: int
) -> dict[str, Any]:
    """Return what a way gives: parameters, work and accuracies."""
    out = runs / name.replace(" ", "-").replace(",", "")
    options = dict(options)
    steps *= options.pop("times", 1)
    settings = {"steps": steps, "batch_size": 32, "noise": NOISE, "max_params": BUDGET, **options}
    if not (out / "config.json").is_file():
        zoo.compress(REF, out, method="denoise", data=data, resume=out.is_dir(), **settings)
    facts = zoo.checkpoint(out).metrics["compression"]
    return {
        **judged(zoo.load(out), specimen, 1, LEVELS if name == "blocks" else ()),
        "steps": settings["steps"],
        "added_parameters": facts["added_parameters"],
        "added_share": 100 * facts["added_share"],
        "added_work": 100 * facts["added_macs"] / facts["macs"],
        "blocks": facts["blocks"],
    }


def main() -> None:
    """Measure, store, and say which bars are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    from zoo.verbs.reliability import specimen as prepared

    specimen, kept = prepared(REF, None, args.test), args.runs / "rows.json"
    found = json.loads(kept.read_text()) if kept.is_file() else {}
    args.runs.mkdir(parents=True, exist_ok=True)
    plain = {"steps": 0, "added_parameters": 0, "added_share": 0.0, "added_work": 0.0}
    network = zoo.load(REF)
    for reads in (1, *READS):
        name = "nothing" if reads == 1 else f"{reads} reads averaged"
        if name not in found:
            levels = LEVELS if reads == 1 else ()
            found[name] = plain | judged(network, specimen, reads, levels)
            found[name]["added_work"] = 100.0 * (reads - 1)
            write_json(kept, found)
    for name, options in WAYS.items():
        if name not in found:
            found[name] = measured(name, options, specimen, args.data, args.runs, args.steps)
            write_json(kept, found)
    _report(found, len(specimen.labels), args.steps)


def _report(found: dict[str, Any], pictures: int, steps: int) -> None:
    """Print the table, store it, and say which bars are met."""
    before = found["nothing"]
    drop = before["clean"] - before["noisy"]
    rows = [["way", "parameters", "work", "clean", "noisy", "recovered"]]
    for name, row in found.items():
        row["recovered"] = 100 * (row["noisy"] - before["noisy"]) / drop
        rows.append(
            [
                name, f"+{row['added_share']:.2f} %", f"+{row['added_work']:.0f} %",
                f"{row['clean']:.1f}", f"{row['noisy']:.1f}", f"{row['recovered']:.0f} %",
            ]
        )  # fmt: skip
    blocks = found["blocks"]
    bars = {
        f"a drop of {DROP:g} points before": drop >= DROP,
        f"blocks get {RECOVERED:g} % of it back": blocks["recovered"] >= RECOVERED,
        f"blocks cost at most {CLEAN:g} points clean": before["clean"] - blocks["clean"] <= CLEAN,
        "blocks beat all weights trained": blocks["noisy"] > found["all weights"]["noisy"],
    }
    facts = {"ref": REF, "noise": NOISE, "chips": CHIPS, "pictures": pictures, "steps": steps}
    report("reliability_noise", 1, {**facts, "drop": drop, "ways": found, "bars": bars}, rows)
    for text, met in bars.items():
        print(f"{'met' if met else 'missed'}: {text}")


if __name__ == "__main__":
    main()
