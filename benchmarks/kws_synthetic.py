"""Claim: twelve words learned from synthetic voices alone are heard when real people say them.

`benchmarks.data.voices` makes the words; `micronet-kws-s` learns them from retakes and is judged
once a seed on the 1000 real clips of Speech Commands that MLPerf Tiny judges by. Choices are made
on voices held out of the training words, never on these clips. Then, on five folds of the real
clips: fine-tuning on the other four, and real clips alone. Folds are of clips, equal ones
together; speakers recur in them, which flatters both.

Neural clips take long to make and are worth the most: training sees each of them three times, in
retakes of its own.

Run: python -m benchmarks.kws_synthetic --words DIR --real kws01_wav.zip --runs DIR [--folds]
"""

import argparse
import dataclasses
import hashlib
import io
import shutil
import statistics
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

import zoo
from benchmarks.common import report
from zoo import registry
from zoo.data.classified import standard_error
from zoo.files import replacing_folder
from zoo.registry.recipe import Recipe

FRONT_END, FOLDS = "mfcc-wide", 5
LICENSE = "Apache-2.0 (words spoken by espeak-ng, flite, festival and Kokoro-82M)"
NEURAL = 3  # copies of a clip of Kokoro's
SETTINGS = {
    "steps": 1000,
    "warmup_steps": 100,
    "eval_every": 100,
    "save_every": 100,
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
INTEGERS = {
    "steps": 120,
    "warmup_steps": 10,
    "lr": 1e-3,
    "eval_every": 40,
    "save_every": 40,
    "log_every": 10,
    "ema_decay": 0.98,
    "precision": "no",
    "quant": "int8",
}
ALONE = {**SETTINGS, "steps": 600, "warmup_steps": 60, "eval_every": 600, "save_every": 600}
Clip = tuple[str, str, bytes]  # label, name, what the file holds


def recipe() -> Recipe:
    """Return the recipe with the front end that hears hissing."""
    found = registry.find("micronet-kws-s").override({"train.options.retakes": 4})
    preprocessing = {**found.preprocessing, "front_end": FRONT_END}
    return dataclasses.replace(found, preprocessing=preprocessing, default_tag="synthetic")


def train(data: Path, out: Path, seed: int, init: Path | None = None, **settings: Any) -> None:
    """Train, or go on with what was killed; nothing to do where it was finished."""
    if (out / "metrics.json").is_file() and zoo.checkpoint(out).metrics["training"]["complete"]:
        return
    made, start = recipe().override({"train.seed": seed}), None if init is None else str(init)
    resume = out.is_dir()
    zoo.train(
        made,
        out,
        data=str(data),
        init=start,
        resume=resume,
        data_license=LICENSE,
        device="cpu",
        **settings,
    )


def clips(archive: Path) -> list[Clip]:
    """Return the real clips."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in sorted(opened.namelist()) if name.endswith(".wav")]
        return [(Path(n).parent.name, Path(n).name, opened.read(n)) for n in names]


def folds(real: Iterable[Clip]) -> list[list[Clip]]:
    """Return the clips in five parts with a fifth of each label; equal sounds are in one part."""
    parts: list[list[Clip]] = [[] for _ in range(FOLDS)]
    sounds: dict[str, dict[str, list[Clip]]] = {}
    for clip in real:
        digest = hashlib.sha256(soundfile.read(io.BytesIO(clip[2]), dtype="int16")[0].tobytes())
        sounds.setdefault(clip[0], {}).setdefault(digest.hexdigest(), []).append(clip)
    for groups in sounds.values():
        for place, digest in enumerate(sorted(groups)):
            parts[place % FOLDS] += groups[digest]
    return parts


def folder(path: Path, **parts: Iterable[Clip]) -> Path:
    """Write clips as `part/label/name`, once; return the folder."""
    if not path.is_dir():
        with replacing_folder(path) as out:
            for part, listed in parts.items():
                for label, name, content in listed:
                    (out / part / label).mkdir(parents=True, exist_ok=True)
                    (out / part / label / name).write_bytes(content)
    return path


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
            found.append((label.name, f"made-{file.name}", file.read_bytes()))
    return found


def judged(run: Path, real: Path) -> float:
    """Return the accuracy on real clips; the first look is the record, and the only one."""
    found = zoo.checkpoint(run).metrics.get("evaluations", {}).get("Speech Commands")
    return float((found or zoo.evaluate(run, real, record="Speech Commands"))["accuracy"])


def on_folds(words: Path, real: list[Clip], runs: Path, seed: int) -> dict[str, Any]:
    """Return the accuracy over five folds: fine-tuned from synthetic words, and real alone."""
    right: dict[str, list[tuple[float, int]]] = {"tuned": [], "alone": []}
    parts = folds(real)
    for number, test in enumerate(parts):
        others = [clip for n, part in enumerate(parts) if n != number for clip in part]
        replayed = some(words, "train", len(others) // 24)  # half as many as real ones
        held = some(words, "val", 5)  # no choice is made by them: only the last weights are kept
        mixed = folder(runs / f"mixed-{number}", train=[*others, *replayed], val=held, test=test)
        plain = folder(runs / f"real-{number}", train=others, val=held, test=test)
        start = runs / f"synthetic-{seed}"
        train(mixed, runs / f"tuned-{seed}-{number}", seed, start, **TUNING)
        train(plain, runs / f"alone-{seed}-{number}", seed, **ALONE)
        for kind, data in (("tuned", mixed), ("alone", plain)):
            right[kind].append((judged(runs / f"{kind}-{seed}-{number}", data), len(test)))
    return {
        kind: sum(share * count for share, count in found) / sum(count for _, count in found)
        for kind, found in right.items()
    }


def of_seed(words: Path, test: Path, runs: Path, seed: int) -> dict[str, Any]:
    """Return what a seed reaches on real clips: in floats, in int8, and trained for int8."""
    run, integer = runs / f"synthetic-{seed}", runs / f"synthetic-{seed}-int8"
    trained = runs / f"synthetic-{seed}-trained-int8"
    train(words, run, seed, **SETTINGS)
    if not integer.is_dir():
        zoo.compress(str(run), integer, method="int8", data=str(words), device="cpu")
    train(words, trained, seed, run, **INTEGERS)
    return {
        "seed": seed,
        "held_out": zoo.checkpoint(run).metrics["held_out"]["accuracy"],
        "real": judged(run, test),
        "int8": judged(integer, test),
        "int8_trained": judged(trained, test),
    }


def main() -> None:
    """Train, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--words", type=Path, required=True, help="made by benchmarks.data.voices")
    parser.add_argument("--real", type=Path, required=True, help="the archive of 1000 clips")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", action="store_true", help="fine-tune on real clips as well")
    args = parser.parse_args()
    torch.set_num_threads(1)
    real = clips(args.real)
    test = folder(args.runs / "speech-commands", test=real)
    rows = [
        [
            "seed",
            "held-out voices",
            "1000 real clips",
            "int8",
            "trained",
            "tuned, 5 folds",
            "real alone",
        ]
    ]
    found = []
    words = weighted(args.words, args.runs / "synthetic-voices")
    for seed in args.seeds:
        row = of_seed(words, test, args.runs, seed)
        row |= on_folds(args.words, real, args.runs, seed) if args.folds else {}
        found.append(row)
        figures = [
            row.get(key) for key in ("held_out", "real", "int8", "int8_trained", "tuned", "alone")
        ]
        rows.append([str(seed), *("" if x is None else f"{100 * x:.1f}" for x in figures)])
    mean = statistics.mean(row["real"] for row in found)
    result = {
        "claim": "a network that heard only synthetic voices, on 1000 real clips of twelve words",
        "clips": len(real),
        "looks": sum(key in row for row in found for key in ("real", "int8", "int8_trained")),
        "mean": mean,
        "standard_error": standard_error(mean, len(real)),
        "seeds": found,
    }
    report("kws_synthetic", 1, result, rows)


if __name__ == "__main__":
    main()
