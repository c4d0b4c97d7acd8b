"""Clustered TPE: where merits are cut, what is drawn, and that nothing is tried twice."""

import itertools
import random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import MismatchError
from zoo.nas.limits import Limits, Use
from zoo.nas.searchers import clustered
from zoo.nas.searchers.clustered import Options, clusters, split
from zoo.nas.searchers.contract import Attempt, Question, drawn
from zoo.nas.spaces.contract import Decision

BITS = tuple(Decision(name=f"layer {n}", values=(2, 3, 4, 6, 8), kind="bits") for n in range(10))
BEST = (2, 8, 4, 4, 3, 6, 2, 3, 8, 4)


def merit(choice) -> float:
    return -sum(abs(int(v) - b) for v, b in zip(choice.values(), BEST, strict=True))


def asked(trials: list[Attempt], decisions=BITS, seed: int = 0, draw: int = 0) -> Question:
    return Question(
        space=SimpleNamespace(), settings=None, decisions=decisions, trials=trials,
        number=len(trials), seed=seed, limits=Limits(), measure=lambda _: Use(macs=0), draw=draw,
    )  # type: ignore[arg-type]  # fmt: skip


def trial(number: int, choice, value: float) -> Attempt:
    return Attempt(number=number, choice=choice, use=Use(macs=0), load=0, merit=value, scores={})


def searched(options: Options, count: int, seed: int) -> list[Attempt]:
    trials: list[Attempt] = []
    for number in range(count):
        choice = clustered.ask(asked(trials, seed=seed), options).choice
        trials.append(trial(number, choice, merit(choice)))
    return trials


def test_clusters_are_those_that_one_sees():
    assert clusters([9.0, 8.9, 8.8, 5.1, 5.0, 1.0], 3) == [3, 2, 1]
    assert clusters([2.0, 2.0, 2.0], 4) == [3]
    assert clusters([3.0, 1.0], 4) == [1, 1]


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=9), st.integers(2, 4))
def test_clusters_have_the_least_sum_of_squares(values, most):
    falling = sorted(map(float, values), reverse=True)
    sizes = clusters(falling, most)
    assert sum(sizes) == len(falling)
    k = min(most, len(set(falling)))
    assert len(sizes) == k

    def cost(ends: tuple[int, ...]) -> float:
        runs = [falling[a:b] for a, b in itertools.pairwise((0, *ends, len(falling)))]
        return sum(sum((v - sum(run) / len(run)) ** 2 for v in run) for run in runs)

    every = itertools.combinations(range(1, len(falling)), k - 1)
    found = tuple(itertools.accumulate(sizes))[:-1]
    assert cost(found) == pytest.approx(min(map(cost, every)), abs=1e-6)


@given(st.lists(st.floats(-1e6, 1e6), min_size=12, max_size=80), st.sampled_from([2, 3, 4, 7]))
def test_good_and_bad_are_apart_and_never_few(values, most):
    falling = sorted(values, reverse=True)
    for kind in ("clusters", "quantile"):
        good, bad = split(falling, Options(clusters=most, split=kind))
        least = max(2, -(-len(falling) // 10))
        assert good >= least
        assert bad >= least
        assert good + bad <= len(falling)


def test_one_failure_is_no_cluster_of_its_own():
    values = [-1.0, -1.1, -1.2, -1.3, -2.0, -2.1, -2.2, -2.3, -3.0, -3.1, -3.2, -1e9]
    good, bad = split(values, Options(clusters=3))
    assert good == 4
    assert bad >= 4  # without the clip, twelve trials would be "good" but one


def test_between_good_and_bad_some_count_for_neither():
    values = [float(-n) for n in range(40)]
    good, bad = split(values, Options())
    assert good + bad < 40
    assert sum(split(values, Options(split="quantile"))) == 40


def test_numbers_speak_for_their_neighbours_and_words_do_not():
    words = Decision(name="act", values=("a", "b", "c"), kind="operator")
    seen = [trial(0, {"layer 0": 4, "act": "a"}, 0.0)]
    bits = clustered._odds(BITS[0], seen, Options())
    assert bits[2] > bits[1] == bits[3] > bits[0]
    assert sum(bits) == pytest.approx(1)
    act = clustered._odds(words, seen, Options())
    assert act[0] > act[1] == act[2]


@pytest.mark.parametrize("kind", ["clusters", "quantile"])
def test_it_reaches_what_random_search_ends_with_in_a_third(kind):
    """Separable, so that values by themselves tell: mean over seeds."""
    count, ours, theirs = 90, 0.0, 0.0
    for seed in range(5):
        ours += max(t.merit for t in searched(Options(split=kind), count // 3, seed))
        dice = random.Random(seed)
        theirs += max(merit(drawn(BITS, dice)) for _ in range(count))
    assert ours >= theirs


def test_nothing_is_proposed_twice():
    few = BITS[:2]
    trials: list[Attempt] = []
    for number in range(20):
        choice = clustered.ask(asked(trials, few), Options(random=4)).choice
        trials.append(trial(number, choice, -abs(int(choice["layer 0"]) - 4)))
    known = [tuple(t.choice.values()) for t in trials]
    assert len(set(known[4:])) == len(known[4:])
    every = [
        trial(n, {"layer 0": a, "layer 1": b}, 0.0)
        for n, (a, b) in enumerate((a, b) for a in (2, 3, 4, 6, 8) for b in (2, 3, 4, 6, 8))
    ]
    assert clustered.ask(asked(every, few), Options()).choice  # all tried: any, and no endless loop


@pytest.mark.parametrize(
    "changes", [{"random": 3}, {"clusters": 1}, {"least": 0.6}, {"prior": 0}, {"reach": 1}]
)
def test_settings_that_cannot_be_meant_are_refused(changes):
    with pytest.raises(MismatchError, match="expected"):
        Options(**changes)
