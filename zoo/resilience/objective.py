"""Resiliency as the objective of a search: the same faults, as far as networks allow, for each.

A fault is described by numbers from 0 to 1: where among the live sites of the whole network, where
in the layer, at which quantile of the inputs, by their margin. The same numbers hit every candidate
(common random numbers), so that their differences are less noisy than they are themselves. The rate
of turned answers is taken and not the accuracy, in which lost and repaired answers cancel.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from zoo.errors import MismatchError
from zoo.graph.ir import Graph
from zoo.resilience.dataflow import Dataflow, OutputStationary
from zoo.resilience.engine import Engine
from zoo.resilience.faults import BITS
from zoo.resilience.plan import Drawn, FaultPlan
from zoo.resilience.results import Estimate
from zoo.resilience.statistics import Reals, Tally, mean

LEAST_AGREEMENT = 0.7


@dataclass(frozen=True, eq=False)
class CommonFaults:
    """The faults that candidates have in common.

    Attributes:
        labels: of the inputs (N,).
        faults: how many.
        seed: of the draws.
        flow: the array.

    """

    labels: Tensor
    faults: int = 4000
    seed: int = 0
    flow: Dataflow = field(default_factory=OutputStationary)

    def drawn(self, plan: FaultPlan) -> Drawn:
        """Return the faults as they hit one network."""
        dice = np.random.default_rng([self.seed, self.faults])
        where, within, which = dice.random((3, self.faults))
        where = (np.arange(self.faults) + where) / self.faults  # one in each part of the sites
        ends = np.cumsum([cell.share for cell in plan.cells])
        cell = np.minimum(np.searchsorted(ends, where), len(ends) - 1)
        order = np.argsort(plan.margins, kind="stable")
        chances = np.cumsum(plan.chances[order])
        sample = order[np.minimum(np.searchsorted(chances, which), len(order) - 1)]
        live = np.array([plan.sites(c) for c in plan.cells])[cell]
        return Drawn(cell=cell, sample=sample, site=(within * live).astype(np.int64))


def resiliency(graph: Graph, samples: Tensor, plan: CommonFaults) -> Estimate:
    """Return the flip rate of an integer network in %: less is more resilient.

    Args:
        graph: an integer graph, channels last.
        samples: stored inputs (N, ...).
        plan: the faults, the same for each candidate.

    Raises:
        MismatchError: the network cannot be hit; says why.

    """
    engine = Engine(graph, samples)
    sites = FaultPlan(
        engine, plan.flow, tuple(BITS), [1.0] * len(engine.layers), plan.labels.numpy()
    )
    outcome, weight, lost = sites.tried(plan.drawn(sites))
    tally, ran = Tally.empty(1), (~outcome.masked).astype(float)
    place = np.zeros(len(lost), np.int64)
    tally.add(place, weight, lost, outcome.caught.astype(float), ran)
    found = mean(tally, np.ones(1))
    return Estimate(
        value=100 * found.value, low=100 * found.low, high=100 * found.high, known="estimated",
        unit="%", faults=plan.faults, runs=int(ran.sum()), method="common random faults, 95 %",
    )  # fmt: skip


def agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation; equal values share their mean rank."""
    ranks = [_ranks(np.asarray(values, float)) for values in (first, second)]
    if len(first) != len(second) or len(first) < 2 or min(r.std() for r in ranks) == 0:
        raise MismatchError(
            f"{len(first)} and {len(second)} values have no rank correlation; expected as many of "
            "both, at least two, and not all the same"
        )
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: Reals) -> Reals:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Reals = np.cumsum(counts) - (counts - 1) / 2
    return ranks[inverse]


def check_agreement(first: Sequence[float], second: Sequence[float]) -> float:
    """Return how well the ranks of two seeds agree, if they do so well enough to choose by.

    Raises:
        MismatchError: the correlation is below 0.7: the objective would be noise.

    """
    if len(first) > 1 and min(np.ptp(first), np.ptp(second)) == 0:
        raise MismatchError(
            f"all {len(first)} candidates bear the faults of a seed alike ({first[0]:.2g} % turn "
            "an answer), so that none is better: try more faults (--faults), longer training "
            "(--steps), or another goal, e.g. --against macs"
        )
    found = agreement(first, second)
    if found < LEAST_AGREEMENT:
        raise MismatchError(
            f"two seeds of resiliency rank {len(first)} candidates with a correlation of "
            f"{found:.2f}; expected {LEAST_AGREEMENT} or more: try more faults (--faults), more "
            "held-out inputs, or another goal, e.g. --against macs"
        )
    return found
