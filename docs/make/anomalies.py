"""The table of what notices anomalies on ToyCar, from the stored results of its benchmark."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from docs.make.headlines import stored


def table() -> str:
    """Return a row for each way to a score: areas of each car, then their mean and the pooled."""
    found = stored("anomaly_toycar")
    published, shares = found["published"], found["chosen"]["shares"]
    encoder, classifier = found["mlperf-tiny-ad"], found["micronet-ad-s"]
    one = shares["one"]["01"]
    each = ", ".join(f"{100 * share:.0f}" for share in shares["each"].values())
    rows = {
        "MLPerf's int8 file, on LiteRT": [published["litert"]["window"]],
        "the same, as on TFLite Micro": [published["ours"]["window"]],
        "the same, `residual` of the clip": [published["ours"]["clip"]],
        "`mlperf-tiny-ad`, `residual` of windows": encoder["window"],
        "`mlperf-tiny-ad`": encoder["clip"],
        "`mlperf-tiny-ad` in int8, one seed": [found["int8"]["mlperf-tiny-ad"]["int8"]],
        "`micronet-ad-s`": classifier,
        "`micronet-ad-s` in int8, one seed": [found["int8"]["micronet-ad-s"]["int8"]],
        f"both, {one:.0%} of `micronet-ad-s`": found["mix"]["one"],
        f"both, {each} % of it, car by car": found["mix"]["each"],
    }
    lines = [
        "| | car 1 | car 2 | car 3 | car 4 | mean of cars | all clips |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, results in rows.items():
        cars = zip(*(result["per_machine"] for result in results), strict=True)
        cells = [_pair(car, "") for car in cars]
        cells += [_pair(results, ""), _pair(results, "pooled_")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _pair(results: Sequence[Mapping[str, Any]], prefix: str) -> str:
    """Return AUC and pAUC, means over seeds."""
    means = (statistics.mean(r[f"{prefix}{key}"] for r in results) for key in ("auc", "pauc"))
    return " / ".join(f"{mean:.3f}" for mean in means)
