"""Sampled estimates against the truth of every fault."""

import functools
import json

import numpy as np
import pytest

from tests.resilience.test_engine import plan_of
from tests.small_nets import NAMES
from zoo.errors import MismatchError
from zoo.resilience.dataflow import MicroBlocks, OutputStationary, WeightStationary
from zoo.resilience.engine import FlipOutcome
from zoo.resilience.estimates import Sampling, chosen, exhaustive, sampled
from zoo.resilience.faults import BITS
from zoo.resilience.plan import STORED, Drawn, FaultPlan
from zoo.resilience.statistics import Tally, clopper_pearson, mean

FLOW = OutputStationary(4, 4)


class KilledError(Exception):
    """In the place of kill -9."""


class Remembered(FaultPlan):
    """A plan whose every fault was tried before: runs of it only look up."""

    @functools.cached_property
    def table(self):
        inputs, parts, offsets, size = len(self.labels), [], [], 0
        for number, cell in enumerate(self.cells):
            live = self.sites(cell)
            sample, site = np.divmod(np.arange(live * inputs), live)
            drawn = Drawn(cell=np.full(len(site), number), sample=sample, site=site)
            outcome, _, lost = super().tried(drawn)
            parts.append(np.stack([outcome.masked, outcome.caught, lost]))
            offsets.append((size, live))
            size += len(site)
        return np.concatenate(parts, 1), np.array(offsets)

    def tried(self, drawn):
        table, offsets = self.table
        first, live = offsets[drawn.cell].T
        masked, caught, lost = table[:, first + drawn.sample * live + drawn.site]
        weight = 1 / (len(self.labels) * self.chances[drawn.sample])
        outcome = FlipOutcome(answer=drawn.sample * 0, masked=masked > 0, caught=caught > 0)
        return outcome, weight, lost

    def truth(self):
        """The mean over all faults, by cell and over inputs alike: flip rate and loss in %."""
        (_, _, lost), offsets = self.table
        sums = np.zeros(2)
        for cell, (first, live) in zip(self.cells, offsets, strict=True):
            mine = lost[first : first + live * len(self.labels)]
            sums += cell.share * np.array([np.abs(mine).mean(), mine.mean()])
        return 100 * sums


def remembered(name, flow=FLOW, registers=tuple(BITS), count=5):
    plan = plan_of(name, flow, registers, count)
    return Remembered(plan.engine, flow, registers, plan.stretch, plan.labels)


def coverage(plan, runs, faults):
    truth, inside = plan.truth(), np.zeros(2)
    for seed in range(runs):
        found = sampled(plan, Sampling(faults=faults, seed=seed))
        for place in (0, 1):
            rate = found.rate(signed=bool(place))
            inside[place] += rate.low <= truth[place] <= rate.high
    return inside / runs


def test_intervals_cover_the_truth_and_every_fault_gives_it():
    plan = remembered("dense", count=3)
    whole = exhaustive(plan)
    assert whole.rate().value == pytest.approx(plan.truth()[0])
    assert whole.rate(signed=True).value == pytest.approx(plan.truth()[1])
    assert whole.rate().known == "exact"
    assert 0.1 < plan.truth()[0] < 50
    assert (coverage(plan, 60, 1500) >= 0.92).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_intervals_cover_the_truth_in_92_of_100_runs(name):
    assert (coverage(remembered(name), 200, 2000) >= 0.92).all()


@pytest.mark.parametrize("flow", [FLOW, WeightStationary(3, 5), MicroBlocks(), None])
def test_shares_sum_to_one_and_sites_are_drawn_by_them(flow):
    registers = tuple(BITS) if flow else ("weight", STORED)
    plan = plan_of("residual", flow, registers)
    share = np.array([cell.share for cell in plan.cells])
    assert share.sum() == pytest.approx(1)
    assert plan.chances.sum() == pytest.approx(1)
    counts = np.round(plan.shares * 10**6).astype(int)
    drawn = plan.drawn(counts, (0,))
    found = np.bincount(drawn.cell, minlength=len(share))
    expected = counts[plan.stratum] * share / plan.shares[plan.stratum]
    statistic = ((found - expected) ** 2 / expected).sum()
    freedom = len(share) - len(plan.shares)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # chi-square, 4 standard deviations
    inputs = np.bincount(drawn.sample) / len(drawn)
    assert np.abs(inputs - plan.chances).max() < 0.003


def test_residency_decides_the_shares():
    """A lane of an output-stationary array holds its sum longer than its operands."""
    plan = plan_of("residual", OutputStationary(4, 4))
    totals = {name: sum(plan.cells[i].share for i in chosen(plan, register=name)) for name in BITS}
    assert totals["activation"] == pytest.approx(totals["weight"])
    assert totals["accumulator"] > 4 * totals["activation"]


@pytest.mark.parametrize("faults", [None, 3000])
def test_a_killed_run_goes_on_to_the_same_counts(faults, tmp_path, monkeypatch):
    plan = remembered("dense", count=3)
    monkeypatch.setattr("zoo.resilience.estimates._AT_ONCE", 400)
    sampling = {"precision": 2.0, "faults": faults, "seed": 4}
    whole = sampled(plan, Sampling(**sampling))

    path, lives = tmp_path / "state.json", iter([3, 2, 9, 1, *[30] * 40])

    def dying(*args):
        dying.left -= 1
        if not dying.left:
            raise KilledError
        return whole_tried(*args)

    whole_tried = Remembered.tried
    deaths = 0
    while True:
        dying.left = next(lives)
        monkeypatch.setattr(Remembered, "tried", dying)
        try:
            found = sampled(plan, Sampling(**sampling, state=path))
            break
        except KilledError:
            deaths += 1
    assert deaths > 1
    for mine, other in zip(found.tally.columns, whole.tally.columns, strict=True):
        assert np.array_equal(mine, other)
    assert found.rate().to_json() == whole.rate().to_json()


def test_a_state_of_something_else_is_refused(tmp_path):
    plan, path = remembered("dense", count=3), tmp_path / "state.json"
    sampled(plan, Sampling(faults=1000, state=path))
    with pytest.raises(MismatchError, match="another network, data, device or options"):
        sampled(remembered("dense", count=2), Sampling(faults=1000, state=path))
    with pytest.raises(MismatchError, match="another network"):
        sampled(plan, Sampling(faults=1000, seed=1, state=path))
    path.write_text(json.dumps({"tally": 3}))
    with pytest.raises(MismatchError, match="does not hold the counts"):
        sampled(plan, Sampling(faults=1000, state=path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: {"tally": kept["tally"][:3]},
        lambda kept: {"tally": [column[:5] for column in kept["tally"]]},
        lambda kept: {"tally": [[float("nan")] * len(column) for column in kept["tally"]]},
        lambda kept: {"number": -1},
        lambda kept: {"counts": [1, 2]},
        lambda kept: {"counts": "abc"},
        lambda kept: {"done": "3"},
    ],
    ids=["fewer columns", "short", "nan", "negative", "counts", "text", "done"],
)
def test_a_damaged_state_is_refused_in_words(tmp_path, damage):
    plan, path = remembered("dense", count=3), tmp_path / "state.json"
    sampled(plan, Sampling(faults=1000, state=path))
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | damage(kept)))
    with pytest.raises(MismatchError, match="does not hold the counts"):
        sampled(plan, Sampling(faults=1000, state=path))


def test_a_precision_beyond_reach_says_what_it_needs():
    with pytest.raises(MismatchError, match=r"needs about .* faults and .* hours, more than"):
        sampled(remembered("dense", count=3), Sampling(precision=1e-5))


def test_precision_is_kept():
    found = sampled(remembered("dense", count=3), Sampling(precision=1.0))
    assert found.rate().half_width <= 1.0
    assert found.rate(signed=True).half_width <= 1.0


def test_nothing_seen_is_not_nothing():
    """Of n trials without an event the rate is below 3.7 / n, 2.5 % on this side; see Garwood."""
    tally = Tally.empty(2)
    tally.trials[:] = 100, 400
    found = mean(tally, np.array([0.0, 1.0]))
    assert (found.value, found.low) == (0, 0)
    assert found.high == pytest.approx(3.689 / 400, rel=0.01)
    several = mean(tally, np.array([0.5, 0.5]))
    assert several.high == pytest.approx(0.5 * 3.689 / 100, rel=0.01)
    both = mean(tally, np.array([0.0, 1.0]), signed=True)
    assert (both.low, both.high) == (pytest.approx(-found.high), pytest.approx(found.high))
    assert mean(Tally.empty(1), np.array([1.0])).high == 1


@pytest.mark.parametrize(
    ("events", "low", "high"), [(1, 0.0253, 5.572), (4, 1.090, 10.24), (10, 4.795, 18.39)]
)
def test_events_of_one_weight_have_the_interval_of_poisson(events, low, high):
    """Garwood's table of 95 % intervals of a Poisson count."""
    tally = Tally.empty(1)
    tally.trials[:], tally.hits[:] = 10**6, events
    tally.total[:] = tally.square[:] = events
    found = mean(tally, np.ones(1))
    assert 10**6 * found.high == pytest.approx(high, rel=0.01)
    assert 0.5 * low - 0.05 <= 10**6 * found.low <= low * 1.02


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0),
     (0, 299, 0.0, 0.01226)],
)  # fmt: skip
def test_exact_intervals_of_shares(hits, trials, low, high):
    """Clopper and Pearson's own table, and 1 - 0.025^(1/n) of the closed form."""
    found = clopper_pearson(hits, trials)
    assert found == pytest.approx((low, high), abs=6e-5)
