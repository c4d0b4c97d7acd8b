"""How well a score ranks: areas under the curve of hits against false alarms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zoo.errors import MismatchError


def auc(scores: ArrayLike, positives: ArrayLike) -> float:
    """Return the probability that a positive scores above a negative; a tie counts half.

    Args:
        scores: `(N,)`, the higher the more positive.
        positives: `(N,)` of truth values, some of each.

    """
    rates = _curve(scores, positives)
    return float(np.trapezoid(rates[1], rates[0]))


def partial_auc(scores: ArrayLike, positives: ArrayLike, max_fpr: float = 0.1) -> float:
    """Return the area up to a rate of false alarms, scaled so that chance is 0.5 and the best 1.

    McClish's scaling (Medical Decision Making 9, 1989), as DCASE's task 2 and scikit-learn's
    `roc_auc_score(max_fpr=...)` have it: (1 + (area - least) / (most - least)) / 2, where `least`
    is the area under the diagonal and `most` is `max_fpr`.
    """
    false, hits = _curve(scores, positives)
    inside = false <= max_fpr
    x = np.append(false[inside], max_fpr)
    y = np.append(hits[inside], np.interp(max_fpr, false, hits))
    least, most = max_fpr**2 / 2, max_fpr
    return float((1 + (np.trapezoid(y, x) - least) / (most - least)) / 2)


def _curve(scores: ArrayLike, positives: ArrayLike) -> NDArray[np.float64]:
    """Return rates of false alarms and of hits `(2, points)` for thresholds that fall."""
    values, truth = np.asarray(scores, np.float64), np.asarray(positives, bool)
    order = np.argsort(-values, kind="stable")
    last = np.append(np.diff(values[order]) != 0, True)  # of those that have the same score
    hits = np.cumsum(truth[order])[last] / truth.sum()
    false = np.cumsum(~truth[order])[last] / (~truth).sum()
    return np.stack([np.append(0, false), np.append(0, hits)])


def areas(
    scores: NDArray[np.float64],
    anomalies: NDArray[np.bool_],
    machines: Sequence[str],
    max_fpr: float,
) -> dict[str, Any]:
    """Return the areas of scores `(N,)`: of each machine, their means, and of all clips together.

    A machine that has no normal or no anomalous clips is left out.

    Returns:
        `auc`, `pauc` and `normal_95`, the score that 95 % of the normal clips do not exceed: means
        of the machines, and in `per_machine` of each; `pooled_auc` and `pooled_pauc`.

    Raises:
        MismatchError: no machine has both.

    """

    def figures(chosen: NDArray[np.bool_]) -> dict[str, float]:
        found, truth = scores[chosen], anomalies[chosen]
        return {
            "auc": auc(found, truth),
            "pauc": partial_auc(found, truth, max_fpr),
            "normal_95": float(np.quantile(found[~truth], 0.95)),
        }

    of = np.array(machines)
    names = sorted(name for name in set(machines) if len(set(anomalies[of == name])) == 2)
    if not names:
        raise MismatchError(
            "no machine has both normal and anomalous clips to judge on; expected names such as "
            "normal_id_01_00000000.wav and anomaly_id_01_00000000.wav"
        )
    rows: list[dict[str, Any]] = [{"machine": name, **figures(of == name)} for name in names]
    means = {
        key: float(np.mean([row[key] for row in rows])) for key in ("auc", "pauc", "normal_95")
    }
    every = figures(np.ones(len(of), bool))
    pooled = {f"pooled_{key}": every[key] for key in ("auc", "pauc")}
    return {**means, **pooled, "per_machine": rows}
