"""Claim: which way to search finds the best network for spoken digits within limits, at equal work.

The space `micronet-kws` on the Free Spoken Digit Dataset: three people to learn from, a fourth to
choose by, and two that nobody has heard to judge with, once. Every way has the same work to spend,
MACs of all samples' forward passes: its trials, each trained for some steps, and then what is left
for the training of what it found. `uniform` has no trials: the base's depth with all widths alike,
trained for the whole of the work. The network that is found is exported and measured: TFLite
Micro's arena, the file and its MACs against the limits.

Run: python -m benchmarks.search --digits fsdd_recordings.zip --runs DIR [--seeds 2] [--by WAY ...]
It goes on where it was killed.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

import zoo
from benchmarks.common import RESULTS, report
from benchmarks.keywords import DIGITS_LICENSE, Clip, digits, folder, judged, percent, train
from zoo.artifacts.resolution import recipe_file
from zoo.deploy import tflite_micro
from zoo.deploy.tflite_read import read_tflite
from zoo.nas.limits import Limits
from zoo.verbs.searching import Search

LEARNED, CHOSEN, JUDGED = ("george", "jackson", "nicolas"), ("lucas",), ("theo", "yweweler")
TAKES, HEARD = 25, 15  # of each digit and person: to learn from or judge with, and to choose by
LIMITS = Limits(sram_bytes=24_000, flash_bytes=32_000, macs=1_200_000)
SPACE = {"widest": 96, "pairs": (3, 4, 5)}
WAYS = ("random", "evolution", "tpe", "uniform")
TRIALS, STEPS, LAST = 8, 60, 300
SETTINGS = {"lr": 4e-3, "ema_decay": 0.98, "warmup_steps": 30}
SET = "FSDD, two people never heard"
OPTIONS = {"evolution": {"population": 4, "sample": 2}, "tpe": {"random": 4}}


class Row(NamedTuple):
    """What a way found with one seed."""

    way: str
    seed: int
    accuracy: float
    macs: int
    sram_bytes: int
    flash_bytes: int
    load: float
    trials: int
    work: float
    steps: int


def data(clips: Sequence[Clip], runs: Path) -> Path:
    """Return the folder of clips: `train`, `val` and `test`."""

    def of(people: Sequence[str], takes: int) -> list[Clip]:
        return [clip for clip in clips if clip.person in people and clip.take < takes]

    return folder(
        runs / "digits",
        train=of(LEARNED, TAKES),
        val=of(CHOSEN, HEARD),
        test=of(JUDGED, TAKES),
    )


def search(way: str, seed: int, digits: Path, runs: Path) -> Search:
    """Return what a way finds; of `uniform` the one network, untrained."""
    out = runs / f"{way}-{seed}"
    plain = way == "uniform"
    found = zoo.search(
        "micronet-kws",
        out,
        max_sram_bytes=LIMITS.sram_bytes,
        max_flash_bytes=LIMITS.flash_bytes,
        max_macs=LIMITS.macs,
        by=way,
        by_options=OPTIONS.get(way),
        data=digits,
        trials=1 if plain else TRIALS,
        steps=STEPS,
        objective="macs" if plain else "trained",
        seed=seed,
        resume=out.is_dir(),
        device="cpu",
        training={"options.retakes": 4},
        **{**SPACE, "pairs": (5,) if plain else SPACE["pairs"]},
    )
    assert isinstance(found, Search)
    return found


def row(way: str, seed: int, digits: Path, runs: Path) -> Row:
    """Return what a way finds, trained with the work that is left, exported and judged once."""
    found = search(way, seed, digits, runs)
    batch = found.recipe.train.batch_size
    assert LIMITS.macs is not None
    whole = (TRIALS * STEPS + LAST) * batch * LIMITS.macs
    spent = sum(trial.spent for trial in found.trials)
    steps = int((whole - spent) / (batch * found.best.use.macs))
    recipe = recipe_file(found.path).override({"train.seed": seed})
    run = train(
        recipe, digits, runs / f"{way}-{seed}-last", license=DIGITS_LICENSE,
        steps=steps, eval_every=100, save_every=100, **SETTINGS,
    )  # fmt: skip
    file = runs / f"{way}-{seed}.tflite"
    if not file.is_file():
        zoo.export(str(run), file, format="tflite", int8=True, data=str(digits / "val"))
    macs, size = read_tflite(file).macs, file.stat().st_size
    arena = tflite_micro.measured(file.read_bytes()).total
    taken = {"sram_bytes": arena, "flash_bytes": size, "macs": macs}
    load = max(taken[name] / limit for name, limit in LIMITS.given.items())
    accuracy = judged(run, digits, SET)
    work = spent + steps * batch * found.best.use.macs
    return Row(way, seed, accuracy, macs, arena, size, load, len(found.trials), work, steps)


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the rows as texts, and the mean of each way."""
    head = ["way", "seed", "unheard people %", "MACs", "arena", "file", "of the tightest limit"]
    cells = [
        [r.way, str(r.seed), percent(r.accuracy), f"{r.macs:,}", f"{r.sram_bytes:,}",
         f"{r.flash_bytes:,}", f"{100 * r.load:.1f} %"]
        for r in rows
    ]  # fmt: skip
    for way in dict.fromkeys(r.way for r in rows):
        values = [r.accuracy for r in rows if r.way == way]
        if len(values) > 1:
            spread = f"{percent(statistics.mean(values))} (sd {percent(statistics.stdev(values))})"
            cells.append([way, "all", spread, "", "", "", ""])
    return [head, *cells]


def main() -> None:
    """Search, train, judge, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, required=True, help="fsdd_recordings.zip")
    parser.add_argument("--runs", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--by", nargs="*", default=WAYS, metavar="WAY")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = data(digits(args.digits), args.runs)
    kept = args.runs / "rows.json"
    rows = [Row(**one) for one in json.loads(kept.read_text())] if kept.is_file() else []
    for seed in range(args.seeds):
        for way in args.by:
            if not any((r.way, r.seed) == (way, seed) for r in rows):
                rows.append(row(way, seed, clips, args.runs))
                kept.write_text(json.dumps([r._asdict() for r in rows]))
            result: dict[str, Any] = {
                "limits": LIMITS.given,
                "space": SPACE,
                "trials": TRIALS,
                "steps": STEPS,
                "rows": [r._asdict() for r in rows],
            }
            report("search", 1, result, table(rows))
    print(RESULTS / "search.json")


if __name__ == "__main__":
    main()
