"""Claim: resiliency is a goal that a search can follow: two seeds of faults rank candidates alike.

A search for keywords with two goals, accuracy and few faults that turn the answer, by NSGA-II:
spoken digits (FSDD), of three people to learn from and a fourth to choose by. Its first twenty
candidates are hit by the faults of two seeds; below a rank correlation of 0.7 the search is
refused, which counts as missed.

Run: python -m benchmarks.reliability_search --digits fsdd_recordings.zip --runs DIR
It goes on where it was killed.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

import zoo
from benchmarks.common import report
from benchmarks.keywords import digits
from benchmarks.search import TASKS, spoken
from zoo.errors import MismatchError
from zoo.nas.front import front
from zoo.nas.searchers.contract import FLIPS, Attempt
from zoo.nas.study import Study
from zoo.nas.turning import AGAIN, AGREEING
from zoo.resilience.objective import LEAST_AGREEMENT, agreement

TRIALS, STEPS, FAULTS, POPULATION = 20, 500, 20_000, 8
TASK = TASKS["digits, SRAM"]


def searched(data: Path, out: Path, faults: int, steps: int) -> str:
    """Search; return why it was refused, "" if it was not."""
    limits = {f"max_{name}": value for name, value in TASK.limits.given.items()}
    try:
        zoo.search(
            TASK.space, out, **limits,
            by="nsga2", by_options={"population": POPULATION}, data=data, trials=TRIALS,
            steps=steps, against=FLIPS, faults=faults, resume=out.is_dir(), device="cpu",
            training=dict(TASK.training), **TASK.options,
        )  # fmt: skip
    except MismatchError as error:
        return str(error)
    return ""


def facts(trials: list[Attempt]) -> list[dict[str, Any]]:
    """Return what is known of each candidate."""
    keys = ("accuracy", FLIPS, AGAIN)
    return [
        {
            "trial": trial.number, "choice": dict(trial.choice), "macs": trial.use.macs,
            "seconds": trial.seconds, **{k: trial.scores[k] for k in keys if k in trial.scores},
        }
        for trial in trials
    ]  # fmt: skip


def main() -> None:
    """Search, and say whether the goal is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, required=True, help="fsdd_recordings.zip")
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--faults", type=int, default=FAULTS)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    out = args.runs / "resilient-digits"
    refused = searched(spoken(digits(args.digits), args.runs), out, args.faults, args.steps)
    trials = [trial for trial in Study(out).trials() if not trial.failed]
    twice = [trial for trial in trials if AGAIN in trial.scores][:AGREEING]
    pairs = [[trial.scores[key] for trial in twice] for key in (FLIPS, AGAIN)]
    found = agreement(*pairs)
    macs = agreement(pairs[0], [trial.use.macs for trial in twice])
    merit = agreement(pairs[0], [trial.merit for trial in twice])
    best = front(trials, FLIPS)
    result = {
        "faults": args.faults, "steps": args.steps, "candidates": len(twice), "agreement": found,
        "with_macs": macs, "with_accuracy": merit, "refused": refused,
        "front": [trial.number for trial in best], "trials": facts(trials),
        "bars": {f"two seeds agree by {LEAST_AGREEMENT}": found >= LEAST_AGREEMENT},
    }  # fmt: skip
    rows = [["trial", "accuracy", "flips %", "of another seed", "MACs", "on the front"]]
    for row in result["trials"]:
        rows.append([
            str(row["trial"]), f"{row['accuracy']:.3f}", f"{row[FLIPS]:.3f}",
            f"{row[AGAIN]:.3f}" if AGAIN in row else "", f"{row['macs']:,}",
            "yes" if row["trial"] in result["front"] else "",
        ])  # fmt: skip
    report("reliability_search", 1, result, rows)
    print(f"rank correlation of two seeds on {len(twice)} candidates: {found:.2f}")
    print(f"of resiliency with MACs {macs:.2f}, with accuracy {merit:.2f}")
    print(refused or "not refused")


if __name__ == "__main__":
    main()
