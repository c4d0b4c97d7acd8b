"""Co-design of network, accelerator and drone: fronts, designs, and what a search must find."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.cost import estimate
from zoo.cost.drones import drone, fly
from zoo.errors import MissingExtraError
from zoo.nas import codesign
from zoo.nas.codesign import (
    Design,
    Designs,
    JudgedDesign,
    evaluate,
    explore,
    front,
    hypervolume,
    search,
)
from zoo.nas.policies import ResidualPolicy

SMALL = Designs(blocks=(1, 3), width=(8, 32), sram_kib=(128,))
DESIGN = next(iter(SMALL))


def test_dronet_is_one_of_the_policies() -> None:
    # Published: 41 million MACs of 320 thousand parameters (arXiv 1805.01831, 2407.12675).
    graph = codesign._policy(3, 32)
    assert round(graph.macs / 1e6) == 41
    assert round(sum(graph.parameters.values()) / 1e3) == 320
    assert graph.tensors[graph.outputs[0]].shape == (1, 2)


@pytest.mark.parametrize("blocks", range(1, 6))
def test_every_depth_gives_steering_and_a_score(blocks: int) -> None:
    torch = pytest.importorskip("torch")
    assert ResidualPolicy(blocks, 8)(torch.zeros(2, 1, 200, 200)).shape == (2, 2)


def test_a_space_has_every_combination_once() -> None:
    assert len(Designs()) == 5000
    assert len(set(SMALL)) == len(SMALL) == 2 * 2 * 5 * 5 * 5


def test_an_outcome_is_the_rooflines_latency_in_flight() -> None:
    design = Design(
        blocks=3, width=32, multipliers=8, clock_mhz=100, sram_kib=512, drone="dji-spark"
    )
    outcome = evaluate(design)
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        policy = ResidualPolicy(3, 32).eval()
    cost = estimate(policy, design.target, input_shape=(1, 1, 200, 200))
    assert outcome.latency_ms == cost.latency_ms
    assert outcome.flight == fly(drone("dji-spark"), cost.latency_ms / 1e3, design.power_w)
    assert outcome.score == pytest.approx(outcome.success * outcome.flight.missions)


def test_what_cannot_be_lifted_scores_nothing_and_is_on_no_front() -> None:
    heavy = Design(
        blocks=1, width=8, multipliers=512, clock_mhz=800, sram_kib=128, drone="crazyflie-2-1"
    )
    outcome = evaluate(heavy)
    assert (outcome.flight, outcome.score, outcome.weight_g) == (None, 0.0, math.inf)
    assert front([outcome]) == []


def made(weight_g: float, score: float) -> JudgedDesign:
    """Make an outcome of this weight and score."""
    flight = fly(drone("dji-spark"), 0.1, 0.1)
    changed = {"weight_g": weight_g, "missions": score}
    return JudgedDesign(
        design=DESIGN,
        latency_ms=1.0,
        success=1.0,
        flight=type(flight)(**{**flight.__dict__, **changed}),
    )


POINTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    best = {(o.weight_g, o.score) for o in front([made(*point) for point in points])}
    wanted = {
        (w, s)
        for w, s in points
        if not any((x, y) != (w, s) and x <= w and y >= s for x, y in points)
    }
    assert best == wanted


@given(POINTS)
def test_the_hypervolume_is_the_area_by_counting(points: list[tuple[int, int]]) -> None:
    grams = [10**w / 1e6 for w, _ in points]  # from 1e-5 g, decades apart, up to 1 kg
    outcomes = [made(g, s) for g, (_, s) in zip(grams, points, strict=True)]
    cells = sum(  # a decade wide, one mission high; the last one ends at 10 kg
        any(w <= column and s > row for w, s in points)
        for column, row in itertools.product(range(1, 10), range(9))
    )
    assert hypervolume(outcomes) == pytest.approx(cells)


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtraError, match="optuna is not installed"):
        next(search(SMALL, 1))


def test_a_search_is_repeatable_and_finds_the_best_of_a_small_space() -> None:
    pytest.importorskip("optuna")
    best = max(evaluate(design).score for design in SMALL)
    first, again = ([o.design for o in search(SMALL, 60, seed=3)] for _ in range(2))
    assert first == again
    assert max(evaluate(design).score for design in first) == best


@pytest.mark.slow
def test_a_third_of_randoms_evaluations_and_the_front_within_two_percent() -> None:
    pytest.importorskip("optuna")
    grid = {design: evaluate(design) for design in Designs()}
    best = max(outcome.score for outcome in grid.values())
    found, drawn = [], []
    for seed in range(20):
        tried = search(Designs(), 1000, seed=seed, judge=grid.__getitem__)
        found.append(next((n for n, o in enumerate(tried, 1) if o.score == best), math.inf))
        order = np.random.default_rng(seed).permutation(len(grid))
        scores = [outcome.score for outcome in grid.values()]
        drawn.append(1 + min(int(n) for n, i in enumerate(order) if scores[i] == best))
    assert statistics.median(found) <= statistics.median(drawn) / 3
    whole = hypervolume(list(grid.values()))
    for seed in range(3):
        tried = explore(Designs(), 300, seed=seed, judge=grid.__getitem__)
        assert hypervolume(tried) >= 0.98 * whole


def test_the_assumption_says_so() -> None:
    assert "assumption" in codesign.ASSUMED
    assert "assumption" in (codesign.success.__doc__ or "")
    rates = [codesign.success(n) for n in (0, 60_000, 10**9)]
    assert rates == pytest.approx([0.60, 0.76, 0.92])


def test_the_table_shows_a_design_that_flies() -> None:
    header, row = codesign.table([evaluate(DESIGN)])
    assert len(header) == len(row)
    assert row[3] == DESIGN.drone
