"""How far the roofline is from Arm's compiler on Ethos-U, on networks that no rate was fitted to.

    python -m benchmarks.cost_roofline [--target ethos-u55-128] [--only NAME]

The networks are those of `benchmarks.cost_networks`, written as public collections write them, and
the published `.tflite` files of `../shared/data`. The rules of `zoo.cost.ethos_u` were checked on
870 random convolutional networks and on single operators; the faults that these networks pointed
at, and the file that one was checked on, stand in `docs/guides/cost.md`.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, machine
from benchmarks.cost_networks import NETWORKS, network
from zoo import cost
from zoo.cost.deployed import integer
from zoo.deploy.tflite_read import parse_tflite
from zoo.deploy.vela import compile_file, compile_graph
from zoo.errors import MismatchError, ZooError

DATA = Path(os.environ.get("ZOO_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
FOLDERS = ("tflite", "tflite-public", "sww")
SEEN = ("mlperf_kws_int8",)  # its table was read while the rules were written


def files() -> Iterator[Path]:
    """Give the published integer files."""
    for folder in FOLDERS:
        for path in sorted((DATA / folder).glob("*.tflite")):
            if path.stem not in SEEN and "float" not in path.stem and "fp32" not in path.stem:
                yield path


def judged(name: str, item: Any, target: str) -> dict[str, Any]:
    """Return the row of one network: both estimates, or why there is none."""
    device = cost.target(target)
    row: dict[str, Any] = {"name": name}
    try:
        if isinstance(item, Path):
            content = item.read_bytes()
            graph, row["kind"] = parse_tflite(content), "file"
            report = compile_file(content, target)
        else:
            module, shape = item
            graph, row["kind"] = integer(module, shape), "module"
            report = compile_graph(graph, target)
        if report.npu_cycles == 0:
            raise MismatchError("nothing runs on the accelerator")
        start = time.process_time()
        ours = cost.estimate(graph, device, method="roofline")
        row["seconds"] = time.process_time() - start
    except ZooError as error:
        return {**row, "refused": str(error)[:200]}
    on_npu = sum(op.latency_ms for op in ours.ops if op.bound != "host")
    return {
        **row,
        "macs": ours.macs,
        "vela_ms": report.latency_ms,
        "roofline_ms": on_npu,
        "ratio": on_npu / report.latency_ms,
        "encoded": sum(op.encoded_bytes for op in ours.ops),
        "vela_encoded": report.encoded_bytes,
        "host": sorted({op.kind for op in ours.ops if op.bound == "host"}),
        "vela_host": sorted({op.kind for op in report.cpu_ops}),
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a set of rows."""
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    sizes = [r["encoded"] / r["vela_encoded"] for r in rows if r.get("vela_encoded", 0) > 0]
    tenths = statistics.quantiles(ratios, n=20)
    return {
        "networks": len(ratios),
        "refused": len(rows) - len(ratios),
        "median": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "p5": tenths[0],
        "p95": tenths[-1],
        "within_10": sum(abs(r - 1) <= 0.1 for r in ratios) / len(ratios),
        "within_30": sum(abs(r - 1) <= 0.3 for r in ratios) / len(ratios),
        "encoded_median": statistics.median(sizes),
        "encoded_within_5": sum(abs(s - 1) <= 0.05 for s in sizes) / len(sizes),
        "encoded_worst": max(sizes, key=lambda s: abs(s - 1)),
    }


def main() -> None:
    """Judge every network on the targets and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", action="append")
    parser.add_argument("--only")
    options = parser.parse_args()
    items: dict[str, Any] = {path.stem: path for path in files()}
    stored = RESULTS / "cost_roofline.json"
    results: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {"targets": {}}
    for target in options.target or ["ethos-u55-128"]:
        rows = []
        for name in [*items, *NETWORKS]:
            if options.only and options.only not in name:
                continue
            row = judged(name, items.get(name) or network(name), target)
            rows.append(row)
            print(json.dumps(row), flush=True)
        print(target, json.dumps(summary(rows), indent=1))
        if not options.only:
            results["targets"][target] = {**summary(rows), "rows": rows}
            results["machine"] = machine(1)
            stored.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
