"""Claim: twenty clips a word of one person teach a network words that it has never heard.

The base heard synthetic voices only, and other words: the twelve of Speech Commands. The new words
are the ten digits of the Free Spoken Digit Dataset, of one person 20 clips each (takes 0 to 19);
judged are that person's other 300 clips, and 500 of the five other people (takes 0 to 9).
Every tenth clip stops the training early. For each of the six people this is what a user types:

    zoo train micronet-kws-s --from micronet-kws-s.synthetic --data MYWORDS --out runs/mine \\
        --set train.steps=300 --set train.lr=4e-3 --set train.ema_decay=0.95 \\
        --set train.options.retakes=8 --set train.eval_every=50 --set train.patience=3

Run: python -m benchmarks.kws_own_words --digits fsdd_recordings.zip --runs DIR
"""

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report
from benchmarks.keywords import (
    DIGITS_LICENSE,
    PEOPLE,
    Clip,
    digits,
    folder,
    judged,
    percent,
    train,
)
from zoo import registry

BASE = "micronet-kws-s.synthetic"
LEARNED, OF_OTHERS = 20, 10  # takes of a word
SETTINGS = {
    "steps": 300,
    "lr": 4e-3,
    "ema_decay": 0.95,
    "eval_every": 50,
    "save_every": 300,
    "patience": 3,
}


def metrics_of(run: Path) -> Any:
    """Return what is known of a run."""
    return zoo.checkpoint(run).metrics


def of_person(person: str, clips: Sequence[Clip], base: str, runs: Path) -> dict[str, Any]:
    """Return what a network reaches that learned one person's words."""
    mine = [clip for clip in clips if clip.person == person]
    others = [c for c in clips if c.person != person and c.take < OF_OTHERS]
    words = [clip for clip in mine if clip.take < LEARNED]
    data = folder(runs / f"words-of-{person}", train=words, test=set(mine) - set(words))
    theirs = folder(runs / f"words-without-{person}", test=others)
    network = base.split(".")[0]
    made = registry.find(network).override({"train.options.retakes": 8})
    run = train(
        made, data, runs / f"own-{network}-{person}", license=DIGITS_LICENSE, init=base, **SETTINGS
    )
    return {
        "person": person,
        "steps": metrics_of(run)["training"]["steps"],
        "own": judged(run, data, "own words"),
        "others": judged(run, theirs, "others' words"),
    }


def main() -> None:
    """Train on each person's clips, judge, and store what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--digits", type=Path, required=True, help="the archive of recordings")
    parser.add_argument("--runs", type=Path, required=True, help="where runs lie and go on")
    parser.add_argument("--base", default=BASE, help="what training starts from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    clips = digits(args.digits)
    rows, found = [["person", "steps", "own other clips", "other people"]], []
    for person in PEOPLE:
        line = of_person(person, clips, args.base, args.runs)
        found.append(line)
        rows.append([person, str(line["steps"]), percent(line["own"]), percent(line["others"])])
        print(*rows[-1], flush=True)
    result = {
        "claim": "ten new words from twenty clips each of one person",
        "base": args.base,
        "means": {key: statistics.mean(line[key] for line in found) for key in ("own", "others")},
        "people": found,
    }
    report("kws_own_words", 1, result, rows)


if __name__ == "__main__":
    main()
