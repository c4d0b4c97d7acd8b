"""How well a score ranks: areas under the curve of hits against false alarms."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
