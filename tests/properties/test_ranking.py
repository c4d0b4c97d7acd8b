"""Areas under the curve of hits against false alarms, against other ways to the same numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from zoo.data.ranking import auc, partial_auc

SAMPLES = st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=4, max_size=40).filter(
    lambda rows: len({truth for _, truth in rows}) == 2
)


@given(SAMPLES)
def test_the_area_is_mann_whitneys_statistic(rows: list[tuple[int, bool]]) -> None:
    positives = [float(score) for score, truth in rows if truth]
    negatives = [float(score) for score, truth in rows if not truth]
    statistic = mannwhitneyu(positives, negatives).statistic
    found = auc(*zip(*rows, strict=True))
    assert found == pytest.approx(statistic / (len(positives) * len(negatives)))


@given(SAMPLES, st.floats(0.02, 1))
def test_the_partial_area_is_that_of_a_fine_grid(
    rows: list[tuple[int, bool]], max_fpr: float
) -> None:
    """Hits at each rate of false alarms by counting, on a straight line between two counts."""
    scores, truth = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        caught = scores >= threshold
        points.append((float(caught[~truth].mean()), float(caught[truth].mean())))
    middles = (np.arange(20000) + 0.5) * max_fpr / 20000
    area = float(np.interp(middles, *zip(*points, strict=True)).mean()) * max_fpr
    least = max_fpr**2 / 2
    expected = (1 + (area - least) / (max_fpr - least)) / 2
    assert partial_auc(scores, truth, max_fpr) == pytest.approx(expected, abs=2e-3)


def test_areas_counted_by_hand() -> None:
    """Five normal, four anomalous: false alarms in fifths, hits in quarters."""
    scores = [9, 8, 7, 6, 5, 4, 3, 2, 1]
    truth = [1, 1, 0, 1, 0, 0, 1, 0, 0]
    # Pairs won: 5 + 5 + 4 + 2 of 20.
    assert auc(scores, truth) == pytest.approx(16 / 20)
    # Up to a tenth: two quarters of hits all along, then halved steps do not count: 0.1 * 0.5.
    assert partial_auc(scores, truth, 0.1) == pytest.approx((1 + (0.05 - 0.005) / 0.095) / 2)
    assert partial_auc([1, 2, 3], [0, 0, 1]) == 1.0
    assert partial_auc([0, 0, 0, 0], [0, 1, 0, 1]) == pytest.approx(0.5)
