"""Claim: spoken digits, in integers, of the people it knows and of people it has never heard.

The Free Spoken Digit Dataset: six people say each digit 50 times. `official`: trained on takes 5 to
49, judged once a seed on the 300 takes 0 to 4 of the same people, in floats and in int8. `people`:
three disjoint pairs of people are held out, all their takes judged, by a network trained on the
other four. Every tenth of the training clips chooses the weights.

Run: python -m benchmarks.kws_digits official --digits fsdd_recordings.zip --runs DIR
     python -m benchmarks.kws_digits people --digits fsdd_recordings.zip --runs DIR
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import report
from benchmarks.keywords import (
    DIGITS_LICENSE,
    Clip,
    digits,
    folder,
    integers,
    judged,
    percent,
    train,
)
from zoo import registry
from zoo.registry.recipe import Recipe

PAIRS = (("theo", "yweweler"), ("jackson", "nicolas"), ("george", "lucas"))
SEEDS = (0, 1, 2)
SMALL, MEDIUM, BASELINE = "micronet-kws-s", "micronet-kws-m", "mlperf-tiny-kws"
OFFICIAL = {BASELINE: (0,), SMALL: SEEDS, MEDIUM: (0,)}
TAKES, SET = 5, "FSDD test"
RETAKES, SHORT_RETAKES = 16, 4
FORMS = ("float", "int8")
STUDENT = 2.306  # two-sided 95 % quantile of eight degrees of freedom
SETTINGS = {"steps": 2400, "lr": 4e-3, "ema_decay": 0.99, "eval_every": 300, "save_every": 300}
SHORT = {**SETTINGS, "steps": 900}


def recipe(network: str, seed: int, retakes: int) -> Recipe:
    """Return the recipe, trained on so many retakes of each clip."""
    return registry.find(network).override({"train.options.retakes": retakes, "train.seed": seed})


def official(
    clips: Sequence[Clip], runs: Path, networks: Sequence[str], most: int
) -> tuple[dict[str, Any], list[list[str]]]:
    """Return what each network reaches on the official test clips, and the table of it."""
    known = [clip for clip in clips if clip.take >= TAKES]
    test = [clip for clip in clips if clip.take < TAKES]
    data = folder(runs / "fsdd", train=known, test=test)
    rows, found = [["network", "seed", "float", "int8", "files wrong"]], {}
    for network in networks:
        lines = []
        for seed in OFFICIAL[network][:most]:
            made, place = recipe(network, seed, RETAKES), runs / f"digits-{network}-{seed}"
            run = train(made, data, place, license=DIGITS_LICENSE, **SETTINGS)
            line = {
                "seed": seed,
                "float": judged(run, data, SET),
                "int8": judged(integers(run, data), data, SET),
            }
            line |= {f"{form}_wrong": round((1 - line[form]) * len(test)) for form in FORMS}
            lines.append(line)
            wrong = ", ".join(str(line[f"{form}_wrong"]) for form in FORMS)
            figures = (percent(line[form]) for form in FORMS)
            rows.append([network, str(seed), *figures, wrong])
            print(*rows[-1], flush=True)
        means = {form: statistics.mean(line[form] for line in lines) for form in FORMS}
        found[network] = {**means, "seeds": lines}
    return {"clips": len(test), "networks": found}, rows


def people(clips: Sequence[Clip], runs: Path) -> tuple[dict[str, Any], list[list[str]]]:
    """Return what two networks reach on people they have not heard, and the table of it."""
    networks = (SMALL, BASELINE)
    rows, found = [["people", "seed", *networks]], []
    for pair in PAIRS:
        heard = [clip for clip in clips if clip.person not in pair]
        test = [clip for clip in clips if clip.person in pair]
        data = folder(runs / f"without-{'-'.join(pair)}", train=heard, test=test)
        for seed in SEEDS:
            line: dict[str, Any] = {"people": list(pair), "seed": seed, "clips": len(test)}
            for network in networks:
                place = runs / f"{network}-{seed}-without-{'-'.join(pair)}"
                made = recipe(network, seed, SHORT_RETAKES)
                run = train(made, data, place, license=DIGITS_LICENSE, **SHORT)
                line[network] = judged(run, data, "people never heard")
            found.append(line)
            figures = (percent(line[network]) for network in networks)
            rows.append([" and ".join(pair), str(seed), *figures])
            print(*rows[-1], flush=True)
    more = [line[SMALL] - line[BASELINE] for line in found]
    result = {
        "means": {
            network: statistics.mean(line[network] for line in found) for network in networks
        },
        "difference": statistics.mean(more),
        "interval": STUDENT * statistics.stdev(more) / len(more) ** 0.5,
        "runs": found,
    }
    return result, rows


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=("official", "people"))
    parser.add_argument("--digits", type=Path, required=True, help="the archive of recordings")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--networks", nargs="+", choices=OFFICIAL, default=list(OFFICIAL))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="at most so many of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = digits(args.digits)
    if args.part == "official":
        result, rows = official(clips, args.runs, args.networks, args.seeds)
    else:
        result, rows = people(clips, args.runs)
    claim = "spoken digits of people it knows, or has never heard"
    report(f"kws_digits_{args.part}", 1, {"claim": claim, **result}, rows)


if __name__ == "__main__":
    main()
