"""How long an estimate takes in a warm process: the roofline and Vela, of every network.

    python -m benchmarks.cost_warm [--only PATTERN]

Goals: a roofline under 2 s, Vela under 10 s. What is judged is processor time, Vela's process
included, so that other work on the machine does not count; wall-clock time stands beside it.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

import zoo
from benchmarks.common import RESULTS, report
from zoo import registry
from zoo.errors import ZooError

TARGET, FIRST = "ethos-u55-128", "mlperf-tiny-ic"
BARS = {"roofline": 2.0, "vela": 10.0}


def timed(name: str, method: str) -> dict[str, Any]:
    """Return seconds of the processor and of the clock that one estimate took, or why none."""
    before, start = os.times(), time.perf_counter()
    try:
        cost = zoo.estimate(name, TARGET, method=method)
    except ZooError as error:
        return {"refused": str(error)[:200]}
    wall, after = time.perf_counter() - start, os.times()
    seconds = sum(after[:4]) - sum(before[:4])  # user and system, of children too
    return {"seconds": seconds, "wall_s": wall, "latency_ms": cost.latency_ms}


def main() -> None:
    """Time every network that is built by a recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", metavar="PATTERN")
    options = parser.parse_args()
    recipes = [registry.find(name) for name in registry.names(options.only)]
    names = [r.name for r in recipes if not r.of_transformers and r.input_shape is not None]
    for method in BARS:
        timed(FIRST, method)  # imports
    stored = RESULTS / "cost_warm.json"
    found = json.loads(stored.read_text())["rows"] if options.only != "*" else {}
    found |= {name: {method: timed(name, method) for method in BARS} for name in names}
    rows, summary = [["NETWORK", *(f"{m.upper()}, s" for m in BARS)]], {}
    for name, row in found.items():
        rows.append(
            [name, *(f"{row[m]['seconds']:.2f}" if "seconds" in row[m] else "-" for m in BARS)]
        )
    for method, bar in BARS.items():
        times = {n: row[method]["seconds"] for n, row in found.items() if "seconds" in row[method]}
        summary[method] = {
            "bar_s": bar,
            "networks": len(times),
            "median_s": statistics.median(times.values()),
            "most_s": max(times.values()),
            "missed": sorted(name for name, seconds in times.items() if seconds > bar),
        }
    report("cost_warm", 1, {"target": TARGET, **summary, "rows": found}, rows)
    print(summary)


if __name__ == "__main__":
    main()
