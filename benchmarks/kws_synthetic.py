"""Claim: twelve words learned from synthetic voices alone are heard when real people say them.

`benchmarks.data.voices` makes the words; a network learns them from retakes and is judged once a
seed on the 1000 real clips of Speech Commands that MLPerf Tiny judges by, in floats and in int8.
Choices are made on voices held out of the training words, never on these clips. Then, on five folds
of the real clips: fine-tuning on the other four, and real clips alone. Folds are of clips, equal
ones together; speakers recur in them, which flatters both.

Neural clips take long to make and are worth the most: training sees each of them three times, in
retakes of its own.

Run: python -m benchmarks.kws_synthetic --words DIR --real kws01_wav.zip --runs DIR [--folds 0]
"""

import argparse
import dataclasses
import hashlib
import shutil
import statistics
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zoo
from benchmarks.common import report
from benchmarks.keywords import Clip, folder, integers, judged, percent, sound, train
from zoo import registry
from zoo.data.classified import standard_error
from zoo.files import replacing_folder
from zoo.registry.recipe import Recipe

FRONT_END, FOLDS = "mfcc-wide", 5
SEEDS = {"micronet-kws-s": (0, 1, 2), "micronet-kws-m": (0,)}
LICENSE = "Apache-2.0 (words spoken by espeak-ng, flite, festival and Kokoro-82M)"
SET = "Speech Commands"
NEURAL = 3  # copies of a clip of Kokoro's
STEPS = {"micronet-kws-s": 6000, "micronet-kws-m": 3000}  # the larger one takes longer for each
SETTINGS = {
    "warmup_steps": 300,
    "eval_every": 500,
    "save_every": 500,
    "lr": 4e-3,
    "ema_decay": 0.98,
}
TUNING = {
    "steps": 300,
    "warmup_steps": 30,
    "lr": 1e-3,
    "eval_every": 300,
    "save_every": 300,
    "ema_decay": 0.98,
}
ALONE = {**SETTINGS, "steps": 600, "warmup_steps": 60, "eval_every": 600, "save_every": 600}


def recipe(network: str, seed: int) -> Recipe:
    """Return the recipe with the front end that hears hissing."""
    found = registry.find(network).override({"train.options.retakes": 4, "train.seed": seed})
    preprocessing = {**found.preprocessing, "front_end": FRONT_END}
    return dataclasses.replace(found, preprocessing=preprocessing, default_tag="synthetic")


def clips(archive: Path) -> list[Clip]:
    """Return the real clips."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in sorted(opened.namelist()) if name.endswith(".wav")]
        return [Clip(Path(n).parent.name, Path(n).name, opened.read(n)) for n in names]


def folds(real: Iterable[Clip]) -> list[list[Clip]]:
    """Return the clips in five parts with a fifth of each label; equal sounds are in one part."""
    parts: list[list[Clip]] = [[] for _ in range(FOLDS)]
    sounds: dict[str, dict[str, list[Clip]]] = {}
    for clip in real:
        digest = hashlib.sha256(sound(clip)).hexdigest()
        sounds.setdefault(clip.label, {}).setdefault(digest, []).append(clip)
    for groups in sounds.values():
        for place, digest in enumerate(sorted(groups)):
            parts[place % FOLDS] += groups[digest]
    return parts


def weighted(words: Path, out: Path) -> Path:
    """Write the training words with copies of the neural ones, once; return the folder."""
    if not out.is_dir():
        with replacing_folder(out) as made:
            shutil.copytree(words, made, dirs_exist_ok=True)
            for file in sorted((made / "train").glob("*/*kokoro-*.wav")):
                for copy in range(1, NEURAL):
                    shutil.copyfile(file, file.with_stem(f"{file.stem}-{copy}"))
    return out


def some(words: Path, part: str, count: int) -> list[Clip]:
    """Return `count` synthetic clips of each label, evenly spread over its files."""
    found = []
    for label in sorted(p for p in (words / part).iterdir() if p.is_dir()):
        files = sorted(label.glob("*.wav"))
        for number in np.linspace(0, len(files) - 1, min(count, len(files))).round():
            file = files[int(number)]
            found.append(Clip(label.name, f"made-{file.name}", file.read_bytes()))
    return found


def on_folds(
    network: str, words: Path, real: list[Clip], runs: Path, seed: int
) -> dict[str, float]:
    """Return the accuracy over five folds: fine-tuned from synthetic words, and real alone."""
    right: dict[str, list[tuple[float, int]]] = {"tuned": [], "alone": []}
    parts, made = folds(real), recipe(network, seed)
    for number, test in enumerate(parts):
        others = [clip for n, part in enumerate(parts) if n != number for clip in part]
        replayed = some(words, "train", len(others) // 24)  # half as many as real ones
        held = some(words, "val", 5)  # no choice is made by them: only the last weights are kept
        mixed = folder(runs / f"mixed-{number}", train=[*others, *replayed], val=held, test=test)
        plain = folder(runs / f"real-{number}", train=others, val=held, test=test)
        start, place = runs / f"{network}-{seed}", f"{network}-{seed}-{number}"
        tuned = train(made, mixed, runs / f"tuned-{place}", license=LICENSE, init=start, **TUNING)
        alone = train(made, plain, runs / f"alone-{place}", license=LICENSE, **ALONE)
        for kind, run, data in (("tuned", tuned, mixed), ("alone", alone, plain)):
            right[kind].append((judged(run, data, SET), len(test)))
    return {
        kind: sum(share * count for share, count in found) / sum(count for _, count in found)
        for kind, found in right.items()
    }


def of_seed(network: str, words: Path, test: Path, runs: Path, seed: int) -> dict[str, Any]:
    """Return what a seed reaches on real clips, in floats and in int8."""
    made, place = recipe(network, seed), runs / f"{network}-{seed}"
    run = train(made, words, place, license=LICENSE, steps=STEPS[network], **SETTINGS)
    return {
        "seed": seed,
        "held_out": zoo.checkpoint(run).metrics["held_out"]["accuracy"],
        "real": judged(run, test, SET),
        "int8": judged(integers(run, words), test, SET),
    }


def summary(found: Sequence[dict[str, Any]], clips: int) -> dict[str, Any]:
    """Return the means over the seeds of a network."""
    means = {
        key: statistics.mean(row[key] for row in found if key in row)
        for key in ("real", "int8", "tuned", "alone")
        if any(key in row for row in found)
    }
    return {
        **means,
        "standard_error": standard_error(means["real"], clips),
        "looks": sum(key in row for row in found for key in ("real", "int8")),
        "seeds": list(found),
    }


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=Path, required=True, help="made by benchmarks.data.voices")
    parser.add_argument("--real", type=Path, required=True, help="the archive of 1000 clips")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--networks", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--folds", type=int, nargs="*", default=[], metavar="SEED", help="those")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real = clips(args.real)
    test = folder(args.runs / "speech-commands", test=real)
    keys = ("held_out", "real", "int8", "tuned", "alone")
    rows = [["network", "seed", "held-out voices", "1000 real clips", "int8", "tuned", "alone"]]
    words = weighted(args.words, args.runs / "synthetic-voices")
    found: dict[str, Any] = {}
    for network in args.networks:
        seeds = []
        for seed in SEEDS[network]:
            row = of_seed(network, words, test, args.runs, seed)
            if seed in args.folds and network == args.networks[0]:
                row |= on_folds(network, args.words, real, args.runs, seed)
            seeds.append(row)
            rows.append([network, str(seed), *(percent(row.get(key)) for key in keys)])
            print(*rows[-1], flush=True)
        found[network] = summary(seeds, len(real))
    result = {
        "claim": "networks that heard only synthetic voices, on 1000 real clips of twelve words",
        "clips": len(real),
        "networks": found,
    }
    report("kws_synthetic", 1, result, rows)


if __name__ == "__main__":
    main()
