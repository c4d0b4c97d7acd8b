"""Resiliency as a search takes it: the same faults for all, and ranks that two seeds agree on."""

import pytest
from scipy.stats import spearmanr

from tests.resilience.test_estimates import remembered
from tests.small_nets import NAMES, small_net
from zoo.errors import MismatchError
from zoo.resilience.dataflow import OutputStationary
from zoo.resilience.objective import CommonFaults, agreement, check_agreement, resiliency

FLOW = OutputStationary(4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_faults_give_the_same_number(name):
    graph, samples, labels = small_net(name)
    plan = CommonFaults(labels[:6], faults=500, flow=FLOW)
    first, again = (resiliency(graph, samples[:6], plan) for _ in range(2))
    assert first == again
    other = resiliency(graph, samples[:6], CommonFaults(labels[:6], 500, seed=1, flow=FLOW))
    assert other != first
    assert first.faults == 500


def test_it_is_the_flip_rate():
    plan = remembered("dense", count=3)
    graph, samples, labels = small_net("dense")
    inside = 0
    for seed in range(20):
        common = CommonFaults(labels[:3], 2000, seed, FLOW)
        found = resiliency(graph, samples[:3], common)
        inside += found.low <= plan.truth()[0] <= found.high
    assert inside >= 18


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4]),
        ([1, 2, 3, 4], [4, 3, 2, 1]),
        ([3, 1, 2, 2, 5], [1, 1, 4, 2, 9]),
    ],
)
def test_ranks_agree_as_scipy_has_it(first, second):
    assert agreement(first, second) == pytest.approx(spearmanr(first, second).statistic)


def test_an_objective_that_is_noise_is_refused():
    assert check_agreement([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    with pytest.raises(MismatchError, match=r"correlation of 0.50; expected 0.7"):
        check_agreement([1, 2, 3], [1, 3, 2])
    with pytest.raises(MismatchError, match=r"all 3 candidates .* alike.*--faults"):
        check_agreement([0, 0, 0], [0, 0, 1])
    with pytest.raises(MismatchError, match="no rank correlation"):
        agreement([1, 1], [1, 2])
