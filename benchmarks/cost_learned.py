"""How far the learned predictor is from Arm's compiler: in range, and on families left out.

    python -m benchmarks.cost_learned DATASET [--target ethos-u55-128] [--weights FOLDER]

DATASET is what `zoo cost dataset` made. The weights that ship are what `--weights` wrote. Beside it
stand the cycle model alone (the method "roofline") and PerfSAGE's network (`benchmarks.cost_gnn`),
taught and judged on the same networks. The families left out were chosen before the first result:
one of each space.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import cost_gnn
from benchmarks.common import RESULTS, machine
from zoo.cost import target
from zoo.cost.learned import adapting, learning
from zoo.cost.learned.features import all_passes_of
from zoo.cost.learned.layers import layers
from zoo.cost.learned.learning import Example
from zoo.cost.learned.model import WEIGHTS, Facts, Predictor, batch, load, save
from zoo.cost.networks.families import network
from zoo.cost.networks.rows import without_values
from zoo.cost.networks.shards import RECIPE, rows
from zoo.files import read_json, write_json

LEFT_OUT = ("fire", "temporal", "shrinking", "pyramid")
ADAPTED_FROM = {"ethos-u65-256": "ethos-u55-256", "ethos-u85-256": "ethos-u65-256"}


def figures(ratios: "np.ndarray[Any, np.dtype[np.float64]]") -> dict[str, float]:
    """Return the errors of predictions, from truth over prediction."""
    off = np.abs(1 / ratios - 1)
    return {
        "networks": len(off),
        "mape": round(100 * float(off.mean()), 3),
        "median": round(100 * float(np.median(off)), 3),
        "within_10": round(100 * float((off <= 0.1).mean()), 2),
        "worst": round(100 * float(off.max()), 1),
    }


def cycle_model(given: Sequence[Example]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return truth over the cycle model alone."""
    return np.array([one.cycles / float(one.passes.cycles.sum()) for one in given])


def by_family(given: Sequence[Example], ratios: Any) -> dict[str, float]:
    """Return the mean error of each family."""
    off = 100 * np.abs(1 / ratios - 1)
    names = np.array([one.family for one in given])
    return {name: round(float(off[names == name].mean()), 2) for name in sorted(set(names))}


def speed(predictor: Any, given: Sequence[Example], name: str) -> dict[str, float]:
    """Return networks a second on one thread.

    From the numbers of their passes; from graphs whose layers were seen before, at other places
    and with other weights; and from graphs whose layers are all new.
    """
    some = batch([one.passes for one in (list(given) * 8)[:1024]])
    with torch.inference_mode():
        predictor(some)
        predicting = _median(lambda: predictor(some)) / 1024
    drawn = [without_values(network(10**6, index)[1]) for index in range(280)]
    device = target(name)
    layers.cache_clear()
    new = _seconds(lambda: all_passes_of(drawn, device)) / len(drawn)
    seen = _median(lambda: all_passes_of([replace(one) for one in drawn], device)) / len(drawn)
    return {
        "from_features_per_s": round(1 / predicting),
        "from_graphs_of_known_layers_per_s": round(1 / (seen + predicting)),
        "from_graphs_of_new_layers_per_s": round(1 / (new + predicting)),
    }


def _seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _median(run: Callable[[], Any]) -> float:
    return float(np.median([_seconds(run) for _ in range(7)]))


def few(
    base: tuple[Predictor, Facts], given: Sequence[Example], name: str, times: int = 8
) -> dict[str, Any]:
    """Return the errors on a target before and after ten of its networks were measured.

    Medians over draws of the ten, of the others' mean error. "cycle model" adapts factors of 1 in
    place of those of the base.
    """
    rng, found = np.random.default_rng(0), {}
    plain = Predictor()
    plain.fit_ranges(batch([one.passes for one in given]).features)
    for key, start in (("base", base[0]), ("cycle model", plain)):
        errors = []
        for _ in range(times):
            order = rng.permutation(len(given))
            ten = [(given[i].passes, given[i].cycles) for i in order[:10]]
            adapted, _ = adapting.adapted(start, base[1], ten, name)
            rest = [given[i] for i in order[10:]]
            errors.append(figures(learning.ratios(adapted, rest)["latency"])["mape"])
        before = figures(learning.ratios(start, given)["latency"])["mape"]
        found[key] = {
            "before": before, "after": round(float(np.median(errors)), 2),
            "after, worst draw": max(errors),
        }  # fmt: skip
    return found


def gnn(
    found: list[dict[str, Any]], parts: dict[str, list[Example]], epochs: int
) -> dict[str, Any]:
    """Return the baseline's errors on the same networks."""
    kinds: dict[str, int] = {}
    by_number = {row["id"]: row for row in found}
    seen = {
        name: [cost_gnn.nodes(by_number[one.number], kinds) for one in some]
        for name, some in parts.items()
    }
    cycles = {name: [one.cycles for one in some] for name, some in parts.items()}
    sage = cost_gnn.taught(seen["taught"], cycles["taught"], epochs)
    return {
        name: figures(cost_gnn.ratios(sage, seen[name], cycles[name]))
        for name in ("in range", "left out")
    }


def judged(
    name: str, data: Path, epochs: int, weights: Path, *, most: int, baseline: bool
) -> Iterator[dict[str, Any]]:
    """Give the results of one target, more of them each time."""
    found, about = list(itertools.islice(rows(data), most)), read_json(data / RECIPE)
    given = learning.examples(found, target(name))
    options = learning.Options(epochs=epochs)
    source = f"Vela {about['vela']} on {len(given):,} random networks"
    predictor, facts = learning.trained(given, name, source, options)
    save(predictor, facts, weights / f"{name}.safetensors")
    taught, _, held = learning.split(given)
    ratios = learning.ratios(predictor, held)
    low, high = facts.interval
    result: dict[str, Any] = {
        "networks": len(given),
        "epochs": epochs,
        "in range": {key: figures(value) for key, value in ratios.items()},
        "by family": by_family(held, ratios["latency"]),
        "sram by family": by_family(held, ratios["sram_bytes"]),
        "interval": {
            "low": low,
            "high": high,
            "covers": float(((low <= ratios["latency"]) & (ratios["latency"] <= high)).mean()),
        },
        "cycle model": figures(cycle_model(held)),
    }
    if ADAPTED_FROM.get(name) and (path := weights / f"{ADAPTED_FROM[name]}.safetensors").exists():
        result["adapted"] = {"from": ADAPTED_FROM[name], **few(load(path), held, name)}
    print(name, json.dumps(result), flush=True)
    yield result
    kept = [one for one in taught if one.family not in LEFT_OUT]
    out = [one for one in given if one.family in LEFT_OUT]
    without = learning.teach(kept, options)
    far = learning.ratios(without, out)
    result["left out"] = {key: figures(value) for key, value in far.items()}
    result["left out, by family"] = by_family(out, far["latency"])
    result["left out, cycle model"] = figures(cycle_model(out))
    print(name, "left out", json.dumps(result["left out"]), flush=True)
    yield result
    result["speed"] = speed(predictor, held, name)
    yield result
    if baseline:
        near = [one for one in held if one.family not in LEFT_OUT]
        result["gnn"] = gnn(found, {"taught": kept, "in range": near, "left out": out}, epochs)
        print(name, "gnn", json.dumps(result["gnn"]), flush=True)
        yield result


def main() -> None:
    """Judge the targets and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--target", action="append")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--networks", type=int, default=10**6, help="of the data set, at most")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--no-gnn", action="store_true", help="without the baseline, which is slow")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "cost_learned.json"
    for name in options.target or read_json(options.data / RECIPE)["targets"]:
        for found in judged(
            name, options.data, options.epochs, options.weights,
            most=options.networks, baseline=not options.no_gnn,
        ):  # fmt: skip
            results = json.loads(path.read_text()) if path.exists() else {"targets": {}}
            results["machine"] = machine(1)
            results["targets"][name] = {**results["targets"].get(name, {}), **found}
            write_json(path, results)


if __name__ == "__main__":
    main()
