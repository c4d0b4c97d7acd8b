"""Searchers: each by itself on spaces whose best is known; the contract that all of them keep."""

import dataclasses
import math
import random
from types import SimpleNamespace

import pytest

import zoo
from zoo.errors import MismatchError, UnknownNameError
from zoo.nas.limits import Limits, Use
from zoo.nas.searchers import contract, evolution, nsga2, tpe
from zoo.nas.searchers.contract import Attempt, Proposal, Question
from zoo.nas.spaces import contract as spaces
from zoo.nas.spaces.contract import Choice, Decision

NAMES = contract.names()
SPACE = (
    Decision(name="act", values=("a", "b", "c"), kind="operator"),
    Decision(name="depth", values=(1, 2, 3), kind="depth"),
    *(Decision(name=f"width {n}", values=tuple(range(8, 65, 8)), kind="width") for n in range(4)),
)


def use(choice: Choice) -> Use:
    return Use(macs=sum(int(v) for n, v in choice.items() if n.startswith("width")))


def merit(choice: Choice) -> float:
    """Best at "b", depth 2, and widths of 40: 0."""
    widths = [int(value) for name, value in choice.items() if name.startswith("width")]
    off = sum(abs(width - 40) / 8 for width in widths) + abs(int(choice["depth"]) - 2)
    return -off - 2 * (choice["act"] != "b")


def trial(number: int, choice: Choice, value: float | None = None) -> Attempt:
    good = merit(choice) if value is None else value
    return Attempt(number=number, choice=choice, use=use(choice), load=0.5, merit=good, scores={})


def question(trials: list[Attempt], seed: int = 0, **changes: object) -> Question:
    asked = Question(
        space=SimpleNamespace(), settings=None, decisions=SPACE, trials=trials,
        number=len(trials), seed=seed, limits=Limits(), measure=use,
    )  # type: ignore[arg-type]  # fmt: skip
    return dataclasses.replace(asked, **changes)  # type: ignore[arg-type]


def searched(name: str, count: int, seed: int, **options: object) -> list[Attempt]:
    searcher, trials = contract.find(name), list[Attempt]()
    for number in range(count):
        proposal = searcher.ask(question(trials, seed), searcher.Options(**options))
        trials.append(trial(number, proposal.choice))
    return trials


def test_they_are_there_and_others_are_named():
    assert {"random", "evolution", "nsga2", "tpe", "uniform"} <= set(NAMES)
    with pytest.raises(UnknownNameError, match="did you mean evolution"):
        contract.find("evolutoin")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dnas"])  # which trains
def test_what_it_asks_for_is_a_choice_and_follows_from_the_trials(name: str):
    searcher = contract.find(name)
    assert searcher.SUMMARY.strip() == searcher.SUMMARY
    options = searcher.Options()
    dice = random.Random(1)
    trials = [trial(n, contract.drawn(SPACE, dice)) for n in range(20)]
    asked = question(trials)
    one, same = (searcher.ask(asked, options) for _ in range(2))
    assert isinstance(one, Proposal)
    assert one == same
    assert list(one.choice) == [decision.name for decision in SPACE]
    assert all(one.choice[decision.name] in decision.values for decision in SPACE)
    drawn = [searcher.ask(question(trials, draw=draw), options).choice for draw in range(8)]
    if name != "uniform":
        assert len({tuple(choice.values()) for choice in drawn}) > 1


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_it_beats_random_search(name: str):
    """Of 60 trials, the mean of the best over some seeds."""
    best = {
        way: [max(t.merit for t in searched(way, 60, seed)) for seed in range(4)]
        for way in (name, "random")
    }
    assert sum(best[name]) > sum(best["random"])


def test_evolution_changes_the_best_of_the_last():
    options = evolution.Options(population=4, sample=4, changes=1)
    dice = random.Random(0)
    old = trial(0, contract.drawn(SPACE, dice), 100.0)  # the best of all, but too old
    trials = [old, *(trial(n, contract.drawn(SPACE, dice), float(n)) for n in range(1, 5))]
    for seed in range(5):
        child = evolution.ask(question(trials, seed), options).choice
        differ = [name for name in child if child[name] != trials[-1].choice[name]]
        assert len(differ) == 1


def test_evolution_starts_from_a_known_network():
    space = spaces.find("micronet-kws")
    settings = space.Options()
    asked = question([], space=space, settings=settings, decisions=space.decisions(settings))
    options = evolution.Options(start="micronet-kws-s")
    found = space.recipe(settings, evolution.ask(asked, options).choice, "x")
    assert found.args == zoo.find("micronet-kws-s").args
    later = evolution.ask(dataclasses.replace(asked, number=1), options).choice
    assert space.recipe(settings, later, "x").args != found.args
    narrow = space.Options(widest=100)
    asked = dataclasses.replace(asked, settings=narrow, decisions=space.decisions(narrow))
    with pytest.raises(MismatchError, match="is not in this space: its 'pair 1' is 112"):
        evolution.ask(asked, options)
    with pytest.raises(MismatchError, match="its 'pairs' is 0"):
        evolution.ask(asked, evolution.Options(start="sesr-m5-x2"))
    with pytest.raises(MismatchError, match="cannot say which of its networks"):
        evolution.ask(question([]), options)


def test_ranks_and_crowding_are_those_of_the_definition():
    """Deb et al.: (merit, macs) = fronts {0, 1, 2} and {3}; the ends are the least crowded."""
    given = {0: (1.0, 8), 1: (2.0, 16), 2: (5.0, 40), 3: (1.5, 24)}
    base = {d.name: d.values[0] for d in SPACE}
    trials = [
        Attempt(
            number=n, choice=base, use=Use(macs=macs), load=0.0, merit=good, scores={}
        )
        for n, (good, macs) in given.items()
    ]  # fmt: skip
    assert [t.number for t in nsga2.ranking(trials, "macs")] == [0, 2, 1, 3]
    crowd = nsga2.crowding(trials[:3], "macs")
    assert crowd == {0: math.inf, 1: pytest.approx(1 + 1), 2: math.inf}
    twins = [dataclasses.replace(trials[0], number=n) for n in range(2)]
    assert not nsga2.dominates(twins[0], twins[1], "macs")


def test_nsga2_finds_more_of_the_front_than_random_search():
    # Of so many MACs the best has widths of 40 or less, a step of 8 off for each step of the sum.
    front = {value: -(160 - value) / 8 for value in (32, 64, 96, 128, 160)}

    def missed(trials: list[Attempt]) -> float:
        return sum(
            good - max((t.merit for t in trials if t.use.macs <= macs), default=-20.0)
            for macs, good in front.items()
        )

    lost = {
        name: sum(missed(searched(name, 120, seed)) for seed in range(3))
        for name in ("nsga2", "random")
    }
    assert lost["nsga2"] < lost["random"]


def test_uniform_scaling_has_one_width_and_every_other_choice():
    asked = [contract.find("uniform").ask(question([]), None).choice]
    for number in range(1, 9):
        asked.append(contract.find("uniform").ask(question([], number=number), None).choice)
    assert {(c["act"], c["depth"]) for c in asked} == {(a, d) for a in "abc" for d in (1, 2, 3)}
    assert {c[f"width {n}"] for c in asked for n in range(4)} == {64}


def test_machines_share_a_study_through_a_storage(tmp_path):
    """What one search learned, another one knows; nothing is told twice."""
    optuna = pytest.importorskip("optuna")
    options = tpe.Options(storage=f"sqlite:///{tmp_path}/study.db")
    dice = random.Random(0)
    learned = [trial(n, contract.drawn(SPACE, dice)) for n in range(4)]
    for search, known in (("one", 3), ("two", 1), ("one", 4)):
        tpe.ask(question(learned[:known], search=search), options)
    (study,) = optuna.get_all_study_summaries(options.storage)
    told = optuna.load_study(study_name=study.study_name, storage=options.storage).get_trials(
        states=[optuna.trial.TrialState.COMPLETE]
    )
    assert sorted(t.value for t in told) == sorted(t.merit for t in [*learned, learned[0]])
    with pytest.raises(MismatchError, match="the storage 'nowhere' cannot be opened"):
        tpe.ask(question([]), tpe.Options(storage="nowhere"))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: evolution.Options(population=2, sample=3), "expected a sample of 1"),
        (lambda: evolution.Options(changes=0), "1 change or more"),
        (lambda: nsga2.Options(population=1), "expected 2 or more"),
    ],
)
def test_options_that_cannot_be_meant_are_told(make, told: str):
    with pytest.raises(MismatchError, match=told):
        make()
