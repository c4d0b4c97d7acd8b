"""What the benchmarks share: fair alternation, medians, and a record of machine and versions."""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PICTURES = Path(__file__).resolve().parent.parent / "docs" / "images"  # of the guide


def alternate(
    contestants: Mapping[str, Callable[[], object]],
    runs: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return seconds per run of each contestant, run in turn: A B C A B C ...

    In turn, because a shared machine drifts: each round sees the same weather. With
    `time.process_time` as the clock, of the processor.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + runs):
        for name, run in contestants.items():
            start = clock()
            run()
            if turn >= warmup:
                times[name].append(clock() - start)
    return times


def ratio(times: Mapping[str, list[float]], above: str, below: str) -> dict[str, float]:
    """Return median, least and greatest of the ratio `above` / `below`, round by round."""
    ratios = [a / b for a, b in zip(times[above], times[below], strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def machine(threads: int) -> dict[str, Any]:
    """Return what the figures depend on: processor, threads, versions, date."""
    names = ("torch", "numpy", "onnxruntime", "pillow", "tflite-micro", "ethos-u-vela")
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.is_file():
        lines = information.read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "processors": os.cpu_count(),
        "threads": threads,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "date": datetime.now(UTC).date().isoformat(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def report(name: str, threads: int, result: Mapping[str, Any], rows: list[list[str]]) -> None:
    """Print the table and store `results/<name>.json`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    RESULTS.mkdir(exist_ok=True)
    record = {"machine": machine(threads), **result}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
