"""Claim: a tree of ternary weights hears spoken digits as DS-CNN-S does, in half of its bytes.

The Free Spoken Digit Dataset, as in `benchmarks.kws_digits`: `official`, six people of whom it has
heard other takes; `people`, three pairs of people whom it has never heard. DS-CNN-S is trained
first and teaches the tree: float, then ternary, then with its digits frozen. Beside them DS-CNN-S
cut after two blocks, which says whether the tree helps. Of each run: the accuracy, that of int8,
the bytes of the weights' file, and on how many clips hard routing says what soft routing said.

Run: python -m benchmarks.ternary_kws official --digits fsdd_recordings.zip --runs DIR
     python -m benchmarks.ternary_kws people --digits fsdd_recordings.zip --runs DIR
"""

import argparse
import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
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
from benchmarks.kws_digits import PAIRS, SEEDS, SET, TAKES, recipe
from zoo.models.blocks.ternary import Packed, stored_bytes
from zoo.models.ternary import StTree
from zoo.registry.recipe import Recipe
from zoo.tasks.keyword_spotting.clips import decoded, features, files_of, inputs
from zoo.tasks.keyword_spotting.heard import hissing

BASE, TREE, CUT = "ds-cnn-s", "st-tree-kws", "ds-cnn-s-cut"
RETAKES = 4
SETTINGS = {"lr": 4e-3, "ema_decay": 0.99, "eval_every": 200, "save_every": 200}
STEPS = {"official": (2400, 1600, 400, 1600), "people": (900, 900, 300, 900)}


def made(name: str, seed: int) -> Recipe:
    """Return the recipe; of the cut network with two of its four blocks."""
    found = recipe(TREE if name == TREE else BASE, seed, RETAKES)
    if name == CUT:
        args = {**found.args, "blocks": found.args["blocks"][:2]}
        found = dataclasses.replace(found, args=args)
    return found


def runs_of(data: Path, place: Path, seed: int, steps: tuple[int, ...]) -> dict[str, Path]:
    """Train the three networks on a folder, or go on with it; return their runs by name."""

    def run(name: str, out: str, steps: int, **more: Any) -> Path:
        settings = {**SETTINGS, "steps": steps, **more}
        return train(made(name, seed), data, place / out, license=DIGITS_LICENSE, **settings)

    base = run(BASE, f"{BASE}-{seed}", steps[0])
    ternary = run(TREE, f"{TREE}-{seed}-ternary", steps[1], teacher=str(base))
    tree = run(
        TREE, f"{TREE}-{seed}", steps[2], teacher=str(base), init=ternary, lr=SETTINGS["lr"] / 4
    )
    return {BASE: base, TREE: tree, CUT: run(CUT, f"{CUT}-{seed}", steps[3])}


@torch.inference_mode()
def agreement(run: Path, data: Path) -> float:
    """Return on which share of the test clips hard routing says what soft routing said."""
    found = zoo.checkpoint(run)
    network = found.load()
    assert isinstance(network, StTree)
    soft = network.trainable()
    soft.load_deployed(network)
    soft.advance(1.0)  # as sharp as training ends
    clips = decoded(files_of(data / "test", found.recipe), found.recipe)
    x = inputs(features(hissing(clips.samples, found.recipe), found.recipe), found.recipe)
    same = network(x).argmax(1) == soft.train()(x).argmax(1)
    return float(same.float().mean())


def facts(name: str, run: Path, data: Path, test: str) -> dict[str, Any]:
    """Return what is known about a run."""
    found = zoo.checkpoint(run)
    network = found.load()
    result = {
        "float": judged(run, data, test),
        "int8": judged(integers(run, data), data, test),
        "file_bytes": found.config["files"]["model.safetensors"]["bytes"],
    }
    if isinstance(network, Packed):
        result["bytes_1.6_bits"] = stored_bytes(network)
        result["bytes_2_bits"] = stored_bytes(network, per_byte=4)
        result["hard_is_soft"] = agreement(run, data)
    return result


def official(clips: Sequence[Clip], runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the three reach on the official test clips."""
    known = [clip for clip in clips if clip.take >= TAKES]
    test = [clip for clip in clips if clip.take < TAKES]
    data = folder(runs / "fsdd", train=known, test=test)
    lines = []
    for seed in seeds:
        found = runs_of(data, runs / "official", seed, STEPS["official"])
        line = {name: facts(name, run, data, SET) for name, run in found.items()}
        lines.append({"seed": seed, **line})
    return {"clips": len(test), "runs": lines}


def people(clips: Sequence[Clip], runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Return what the three reach on people they have not heard."""
    lines = []
    for pair in PAIRS:
        heard = [clip for clip in clips if clip.person not in pair]
        test = [clip for clip in clips if clip.person in pair]
        place = runs / f"without-{'-'.join(pair)}"
        data = folder(place / "clips", train=heard, test=test)
        for seed in seeds:
            found = runs_of(data, place, seed, STEPS["people"])
            test_name = "people never heard"
            line = {name: facts(name, run, data, test_name) for name, run in found.items()}
            lines.append({"people": list(pair), "seed": seed, "clips": len(test), **line})
    return {"runs": lines}


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=tuple(STEPS))
    parser.add_argument("--digits", type=Path, required=True, help="the archive of recordings")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="so many of each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    work = {"official": official, "people": people}[args.part]
    found = work(digits(args.digits), args.runs, SEEDS[: args.seeds])
    means = {
        name: {form: statistics.mean(line[name][form] for line in found["runs"])
               for form in ("float", "int8")}
        for name in (BASE, TREE, CUT)
    }  # fmt: skip
    bytes_of = {name: found["runs"][0][name]["file_bytes"] for name in means}
    rows = [["network", "float", "int8", "bytes"]]
    rows += [[name, percent(m["float"]), percent(m["int8"]), str(bytes_of[name])]
             for name, m in means.items()]  # fmt: skip
    claim = "spoken digits by a ternary tree, beside DS-CNN-S"
    report(f"ternary_kws_{args.part}", 1, {"claim": claim, "means": means, **found}, rows)


if __name__ == "__main__":
    main()
