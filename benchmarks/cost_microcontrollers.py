"""How far the microcontroller targets are from published latencies: MicroNets and MLPerf Tiny.

    python -m benchmarks.cost_microcontrollers

MicroNets, table 4: four costs (dense, pointwise and depthwise MACs, outputs) common to the boards
and a speed for each board are fitted to the networks that the zoo has; each network is left out of
all boards in turn, and predicted. MLPerf Tiny: what the targets say of its four networks, beside
the published medians of every stack on the same chip.
"""

import csv
import json
import os
import re
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from benchmarks.common import RESULTS, machine
from zoo import cost
from zoo.artifacts.resolution import resolve
from zoo.deploy.tflite_read import parse_tflite
from zoo.graph.fuse import fuse
from zoo.graph.ir import Graph

DATA = Path(os.environ.get("ZOO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
BOARDS = ("F446RE", "F746ZG", "F767ZI")
RECIPES = {f"MicroNet-{n}": f"micronet-{n.lower()}" for n in
           ("KWS-L", "KWS-M", "KWS-S", "AD-L", "AD-M", "AD-S")}  # fmt: skip
FILES = {
    "MicroNet-VWW-4": "tflite/micronet_vww4_128_128_INT8.tflite",
    "PersonDetection(TFLM)": "tflite-public/tflm_person_detect.tflite",
}
TINY = {"ic": "mlperf-tiny-ic", "kws": "mlperf-tiny-kws", "vww": "mlperf-tiny-vww"}
TINY |= {"ad": "mlperf-tiny-ad"}
CHIPS = {"stm32l4r5-120mhz-xcubeai": "L4R5", "stm32h7a3-280mhz-xcubeai": "H7A3"}
CHIPS |= {"stm32u575-160mhz-xcubeai": "U575", "stm32u385-96mhz-xcubeai": "U385"}
CHIPS |= {"ra8d1-480mhz-mlperf": "RA8D1"}


def work(graph: Graph) -> list[float]:
    """Return millions of dense, pointwise and depthwise MACs, and of outputs of convolutions."""
    found = [0.0] * 4
    for op in fuse(graph, frozenset(("relu", "relu6", "clamp"))).ops:
        if op.kind == "conv2d":
            found[graph.kernel(op)[2] == 1] += op.macs / 1e6
            found[3] += graph.tensors[op.outputs[0]].elements / 1e6
        elif op.kind == "depthwise_conv2d":
            found[2] += op.macs / 1e6
    return found


def networks() -> dict[str, list[float]]:
    """Return the work of each network of the table that is at hand."""
    found = {name: work(resolve(r, weights=False).graph()) for name, r in RECIPES.items()}
    for name, file in FILES.items():
        found[name] = work(parse_tflite((DATA / file).read_bytes()))
    return found


Row = tuple[str, str, float]  # board, network, milliseconds


def fitted(rows: list[Row], works: dict[str, list[float]]) -> tuple[Any, dict[str, float]]:
    """Return the common costs and each board's speed that fit the rows, relative errors squared."""
    speeds = dict.fromkeys(BOARDS, 1.0)
    costs = np.zeros(4)
    for _ in range(60):
        table = np.array([np.array(works[n]) * speeds[b] / t for b, n, t in rows])
        costs, _ = nnls(table, np.ones(len(rows)))
        for board in BOARDS:
            x = np.array([np.array(works[n]) @ costs / t for b, n, t in rows if b == board])
            speeds[board] = float(x.sum() / (x @ x))
    return costs, speeds


def left_out() -> dict[str, Any]:
    """Return each board's errors, every network predicted from the others."""
    works = networks()
    with (DATA / "cost" / "micronets_table4.csv").open() as stream:
        table = list(csv.DictReader(stream))
    rows: list[Row] = [
        (board, row["model"], 1e3 * float(row[f"lat_s_{board}"]))
        for board in BOARDS
        for row in table
        if row["model"] in works and row[f"lat_s_{board}"]
    ]
    errors: dict[str, dict[str, float]] = {board: {} for board in BOARDS}
    for board, name, published in rows:
        costs, speeds = fitted([row for row in rows if row[1] != name], works)
        errors[board][name] = float(works[name] @ costs * speeds[board] / published - 1)
    costs, speeds = fitted(rows, works)
    mape = {b: statistics.fmean(map(abs, found.values())) for b, found in errors.items()}
    return {
        "mape": mape,
        "errors": errors,
        "ms_per_million": dict(
            zip(("dense", "pointwise", "depthwise", "outputs"), costs.tolist(), strict=True)
        ),
        "speeds": speeds,
    }


def published() -> Iterator[dict[str, Any]]:
    """Give, for each target and network of MLPerf Tiny, the estimate and all published medians."""
    with (DATA / "cost" / "mlperf_tiny_published.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["latency_ms"]]
    for name, chip in CHIPS.items():
        device = cost.target(name)
        for task, recipe in TINY.items():
            artifact = resolve(recipe, weights=False)
            given = cost.estimate(artifact.graph(), device, method="roofline")
            stacks = {
                f"{row['version']} {row['system']}, {row['framework'] or 'no stack named'}": float(
                    row["latency_ms"]
                )
                for row in rows
                if row["task"] == task and re.search(chip, row["system"])
            }
            yield {
                "target": name,
                "task": task,
                "estimate_ms": given.latency_ms,
                "published_ms": stacks,
            }


def main() -> None:
    """Write and print the figures."""
    result = {"machine": machine(1), "micronets": left_out(), "mlperf_tiny": list(published())}
    (RESULTS / "cost_microcontrollers.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["micronets"], indent=1))
    for row in result["mlperf_tiny"]:
        near = {k: f"{row['estimate_ms'] / v:.2f}" for k, v in row["published_ms"].items()}
        print(row["target"], row["task"], f"{row['estimate_ms']:.3g} ms", near)


if __name__ == "__main__":
    main()
