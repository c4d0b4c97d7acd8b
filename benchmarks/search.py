"""Claim: which way to search finds the best network within limits, at equal work.

Three sets of limits: of MACs and of SRAM on Fashion-MNIST, of SRAM on spoken digits (FSDD: three
people to learn from, a fourth to choose by, and two that nobody has heard to judge with). Every way
has the same work to spend, MACs of all samples' forward passes: its trials, each trained for some
steps, or a supernet of the whole space and one trial; and then what is left for the training of
what it found. `uniform` has no trials: all widths alike, trained for the whole of the work. What is
found is exported and measured: TFLite Micro's arena, the file and its MACs against the limits.

Run: python -m benchmarks.search --digits fsdd_recordings.zip --fashion DIR --runs DIR [--seeds 5]
It goes on where it was killed.
"""

import argparse
import dataclasses
import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

import zoo
from benchmarks.common import RESULTS, report
from benchmarks.fashion import FASHION, clothes
from benchmarks.keywords import DIGITS_LICENSE, Clip, digits, folder, judged, percent, train
from zoo.artifacts.resolution import recipe_file
from zoo.deploy import tflite_micro
from zoo.deploy.tflite_read import read_tflite
from zoo.files import write_json
from zoo.nas import measuring
from zoo.nas.dnas.costs import Costs
from zoo.nas.dnas.supernet import Networks
from zoo.nas.limits import Limits, Use
from zoo.nas.measuring import Gauge
from zoo.nas.repair import FULL, Repair
from zoo.nas.spaces import contract
from zoo.nas.spaces.contract import Choice, Space
from zoo.registry.options import read
from zoo.registry.recipe import Recipe
from zoo.tasks import image_classification, keyword_spotting

LEARNED, CHOSEN, JUDGED = ("george", "jackson", "nicolas"), ("lucas",), ("theo", "yweweler")
WAYS = ("random", "evolution", "tpe", "nsga2", "dnas", "uniform")
TRIALS, STEPS, LAST, BATCH = 6, 80, 600, 32
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided 95 % quantiles, by seeds
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "evolution": {"population": 3, "sample": 2}, "tpe": {"random": 3}, "nsga2": {"population": 3},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """Limits, and what is learned within them.

    Attributes:
        space: its networks.
        limits: what one may take.
        uniform: the depth that a person takes.
        options: of the space.
        training: settings of all trainings.

    """

    space: Space
    limits: Limits
    uniform: int
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


COMMON = {
    "batch_size": BATCH, "precision": "no", "optimizer": "adamw", "ema_decay": 0.98,
    "warmup_steps": 30, "log_every": 100,
}  # fmt: skip
TASKS = {
    "pictures, MACs": Task(
        space=FASHION, uniform=4, training=COMMON,
        limits=Limits(sram_bytes=16_000, flash_bytes=40_000, macs=250_000),
    ),
    "pictures, SRAM": Task(
        space=FASHION, uniform=4, training=COMMON,
        limits=Limits(sram_bytes=9_000, flash_bytes=40_000, macs=250_000),
    ),
    "digits, SRAM": Task(
        space=contract.find("micronet-kws"), uniform=5,
        limits=Limits(sram_bytes=12_000, flash_bytes=32_000, macs=400_000),
        options={"step": 1, "widest": 48, "pairs": (3, 4, 5)},
        training={**COMMON, "lr": 1e-2, "options.retakes": 4, "options.label_smoothing": 0.0},
    ),
}  # fmt: skip


class Row(NamedTuple):
    """What a way found with one seed."""

    task: str
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
    network: str


# --- what is learned ------------------------------------------------------------------------------


def spoken(clips: Sequence[Clip], runs: Path) -> Path:
    """Return the folder of clips: `train`, `val` and `test`."""

    def of(people: Sequence[str], takes: int) -> list[Clip]:
        return [clip for clip in clips if clip.person in people and clip.take < takes]

    return folder(runs / "digits", train=of(LEARNED, 25), val=of(CHOSEN, 25), test=of(JUDGED, 50))


def remembered(module: Any, name: str, key: Callable[..., Any]) -> None:
    """Let a function keep what it returned: searches of this process share data and measures."""
    plain, known = getattr(module, name), dict[str, Any]()

    def kept(*args: Any) -> Any:
        if (of := repr(key(*args))) not in known:
            known[of] = plain(*args)
        return known[of]

    setattr(module, name, kept)


def data_key(recipe: Recipe, source: str) -> Any:
    """Return what training data depend on."""
    train = recipe.train
    return source, recipe.input_shape, recipe.preprocessing, train.options, train.seed


def use_key(recipe: Recipe, *others: Any) -> Any:
    """Return what a measurement depends on."""
    return measuring.identity(recipe), others


# --- one search -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A way with a seed on a task."""

    name: str
    way: str
    seed: int
    data: Path
    runs: Path

    @property
    def task(self) -> Task:
        """Limits and space."""
        return TASKS[self.name]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the space."""
        plain = {"pairs": (self.task.uniform,)} if self.way == "uniform" else {}
        return {**self.task.options, **plain}

    @property
    def out(self) -> Path:
        """Where the search lies."""
        name = self.name.replace(", ", "-").lower()
        return self.runs / f"{name}-{self.way}-{self.seed}"

    def by_options(self) -> Mapping[str, Any]:
        """Return the options of the searcher: a supernet gets the work of all trials but one."""
        if self.way != "dnas":
            return OPTIONS.get(self.way, {})
        settings = read(self.task.space.Options, self.options, "space")
        networks = Networks(self.task.space, settings, contract.decided(self.task.space, settings))
        largest = Costs(networks).graph.macs
        assert self.task.limits.macs is not None
        return {"search_steps": int((TRIALS - 1) * STEPS * self.task.limits.macs / largest)}

    def searched(self) -> Any:
        """Return what the way finds; of `uniform` the one network, untrained."""
        plain, alone = self.way == "uniform", self.way in ("uniform", "dnas")
        limits = {f"max_{name}": value for name, value in self.task.limits.given.items()}
        return zoo.search(
            self.task.space, self.out, **limits,
            by=self.way, by_options=self.by_options(), data=self.data,
            trials=1 if alone else TRIALS, steps=STEPS, seed=self.seed,
            objective="macs" if plain else "trained",
            resume=self.out.is_dir(), device="cpu", training=dict(self.task.training),
            **self.options,
        )  # fmt: skip

    def grown(self, found: Any) -> tuple[Recipe, Use]:
        """Return the recipe that is trained: of a front's small network, one that fills limits."""
        recipe, use = recipe_file(found.path), found.best.use
        if found.best.load >= FULL:
            return recipe, use
        settings = read(self.task.space.Options, self.options, "space")
        decisions = contract.decided(self.task.space, settings)

        def of(choice: Choice) -> Recipe:
            made = self.task.space.recipe(settings, choice, recipe.name)
            return dataclasses.replace(
                recipe, args={**recipe.args, **{k: made.args[k] for k in ("width", "blocks")}}
            )

        repair = Repair(decisions, self.task.limits, Gauge(of, self.task.limits, None))
        best = repair(found.best.choice, random.Random(self.seed))
        return of(best.choice), best.use

    def row(self) -> Row:
        """Return what is found, trained with the work that is left, exported and judged once."""
        found, task = self.searched(), self.task
        recipe, use = self.grown(found)
        assert task.limits.macs is not None
        whole = (TRIALS * STEPS + LAST) * BATCH * task.limits.macs
        spent = sum(trial.spent for trial in found.trials)
        steps = int((whole - spent) / (BATCH * use.macs))
        recipe = recipe.override({**task.training, "train.seed": self.seed})
        run = train(
            recipe, self.data, self.out.with_name(f"{self.out.name}-last"),
            license=DIGITS_LICENSE if self.name.startswith("digits") else "MIT",
            steps=steps, eval_every=steps, save_every=400,
        )  # fmt: skip
        file = self.out.with_suffix(".tflite")
        if not file.is_file():
            zoo.export(str(run), file, format="tflite", int8=True, data=str(self.data / "train"))
        macs, size = read_tflite(file).macs, file.stat().st_size
        arena = tflite_micro.measured(file.read_bytes()).total
        taken = {"sram_bytes": arena, "flash_bytes": size, "macs": macs}
        load = max(taken[name] / limit for name, limit in task.limits.given.items())
        accuracy = judged(run, self.data, "test")
        text = f"{recipe.args['width']}, {recipe.args['blocks']}"
        return Row(
            self.name, self.way, self.seed, accuracy, macs, arena, size, load, len(found.trials),
            spent + steps * BATCH * use.macs, steps, text,
        )  # fmt: skip


# --- what the rows say ----------------------------------------------------------------------------


def interval(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of a mean, Student's."""
    return STUDENT[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def judgements(rows: Sequence[Row]) -> dict[str, Any]:
    """Return by task and way the mean, and its distance from random's and uniform's, by seeds."""
    found: dict[str, Any] = {}
    for task in dict.fromkeys(r.task for r in rows):
        by: dict[str, dict[int, float]] = {}
        for row in rows:
            if row.task == task:
                by.setdefault(row.way, {})[row.seed] = row.accuracy
        found[task] = {}
        for way, mine in by.items():
            facts: dict[str, Any] = {"mean": statistics.mean(mine.values()), "seeds": len(mine)}
            if len(mine) > 1:
                facts["interval"] = interval(list(mine.values()))
            for other in ("random", "uniform"):
                pairs = [mine[s] - by[other][s] for s in mine if s in by.get(other, {})]
                if other != way and len(pairs) > 1:
                    facts[f"over_{other}"] = statistics.mean(pairs)
                    facts[f"over_{other}_interval"] = interval(pairs)
            found[task][way] = facts
    return found


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the judgements as texts."""
    cells = [["limits", "way", "seeds", "accuracy %", "over random", "over uniform", "load %"]]

    def pair(facts: Mapping[str, Any], key: str, width: str) -> str:
        if key not in facts or width not in facts:
            return percent(facts.get(key))
        return f"{percent(facts[key])} +- {percent(facts[width])}"

    for task, ways in judgements(rows).items():
        for way, facts in sorted(ways.items(), key=lambda item: -item[1]["mean"]):
            loads = [100 * r.load for r in rows if (r.task, r.way) == (task, way)]
            over = (pair(facts, f"over_{o}", f"over_{o}_interval") for o in ("random", "uniform"))
            cells.append(
                [task, way, str(facts["seeds"]), pair(facts, "mean", "interval"), *over,
                 f"{min(loads):.1f} to {max(loads):.1f}"]
            )  # fmt: skip
    return cells


def main() -> None:
    """Search, train, judge, and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=Path, required=True, help="fsdd_recordings.zip")
    parser.add_argument("--fashion", type=Path, required=True, help="Fashion-MNIST's four files")
    parser.add_argument("--runs", type=Path, required=True, help="where everything is kept")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--by", nargs="*", default=WAYS, metavar="WAY")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for module in (image_classification, keyword_spotting):
        remembered(module, "training_data", data_key)
    remembered(measuring, "measured", use_key)
    args.runs.mkdir(parents=True, exist_ok=True)
    data = {
        "pictures": clothes(args.fashion, args.runs),
        "digits": spoken(digits(args.digits), args.runs),
    }
    kept = args.runs / "rows.json"
    rows = [Row(**one) for one in json.loads(kept.read_text())["rows"]] if kept.is_file() else []
    for seed in range(args.seeds):
        for task in TASKS:
            for way in args.by:
                if any((r.task, r.way, r.seed) == (task, way, seed) for r in rows):
                    continue
                rows.append(Trial(task, way, seed, data[task.partition(",")[0]], args.runs).row())
                print(*rows[-1], flush=True)
                write_json(kept, {"rows": [r._asdict() for r in rows]})
    result: dict[str, Any] = {
        "tasks": {name: task.limits.given for name, task in TASKS.items()},
        "trials": TRIALS, "steps": STEPS, "last": LAST, "batch": BATCH,
        "judgements": judgements(rows),
        "rows": [r._asdict() for r in rows],
    }  # fmt: skip
    report("search", 1, result, table(rows))
    print(RESULTS / "search.json")


if __name__ == "__main__":
    main()
