"""Resiliency as a goal of a search: what it measures, and when it is refused as noise."""

import json
import random as dice
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import spearmanr

import zoo
from zoo import registry
from zoo.cli import main
from zoo.cost import target
from zoo.errors import MismatchError
from zoo.nas import turning
from zoo.nas.front import front, table
from zoo.nas.limits import Use
from zoo.nas.searchers.contract import FLIPS, Attempt
from zoo.nas.searchers.nsga2 import dominates
from zoo.tasks.keyword_spotting import trial as spoken

WORDS = ["--set", "widest=8", "--set", "pairs=1,2", "--set", "step=1", "--max-macs", "0.1M",
         "--steps", "1", "--set", "train.batch_size=8", "--by", "nsga2"]  # fmt: skip


def attempt(number: int, flips: float, again: float | None = None, merit: float = 0.5) -> Attempt:
    scores = {"accuracy": merit, FLIPS: flips}
    scores |= {} if again is None else {turning.AGAIN: again}
    use = Use(sram_bytes=1000, flash_bytes=2000, macs=100 + number)
    return Attempt(number=number, choice={"n": number}, use=use, load=1.0, merit=merit,
                   scores=scores)  # fmt: skip


def test_a_front_may_be_against_faults():
    trials = [attempt(0, 2.0, merit=0.9), attempt(1, 1.0, merit=0.8), attempt(2, 1.5, merit=0.7)]
    assert [t.number for t in front(trials, FLIPS)] == [1, 0]
    assert [t.number for t in front(trials, "macs")] == [0]
    assert dominates(trials[1], trials[2], FLIPS)
    assert not dominates(trials[1], trials[2], "macs") or trials[1].use.macs < trials[2].use.macs
    rows = table(trials, "accuracy")
    assert rows[0][:3] == ["TRIAL", "ACCURACY", "FLIPS %"]
    assert rows[1][2] == "2"


def test_two_seeds_have_to_agree_on_the_first_candidates():
    values = [dice.Random(n).random() for n in range(turning.AGREEING)]
    near = [attempt(n, v, v + dice.Random(n + 99).random() / 10) for n, v in enumerate(values)]
    assert turning.agreed(near[:-1]) is None
    expected = spearmanr([t.scores[FLIPS] for t in near], [t.scores[turning.AGAIN] for t in near])
    assert turning.agreed(near) == pytest.approx(expected.statistic)
    assert turning.agreed([*near, attempt(20, 0.0, 9.0)]) == pytest.approx(expected.statistic)
    noise = [attempt(n, v, dice.Random(n + 99).random()) for n, v in enumerate(values)]
    with pytest.raises(MismatchError, match=r"rank 20 candidates .* try more faults \(--faults\)"):
        turning.agreed(noise)
    with pytest.raises(MismatchError, match="all 20 candidates"):
        turning.agreed([attempt(n, 0.0, 0.0) for n in range(20)])


def test_the_goal_needs_answers_candidates_and_registers():
    words = registry.find("micronet-kws-s")
    turning.checked(words, None, 20, 1)
    turning.checked(words, target("ethos-u55-128"), 20, 1)
    with pytest.raises(MismatchError, match=r"19 trials are too few.*--trials 20"):
        turning.checked(words, None, 19, 1)
    with pytest.raises(MismatchError, match="faults is 0"):
        turning.checked(words, None, 20, 0)
    with pytest.raises(MismatchError, match="expected 1 to 10,000,000"):
        turning.checked(words, None, 20, 10**12)
    with pytest.raises(MismatchError, match="--faults 100 goes with --against resiliency"):
        zoo.search("micronet-kws", "s", by="random", objective="macs", faults=100)
    with pytest.raises(MismatchError, match="has no right and wrong answers"):
        turning.checked(registry.find("sesr-m5-x2"), None, 20, 1)
    with pytest.raises(MismatchError, match=r"needs tables \[reliability"):
        turning.checked(words, target("stm32f746-216mhz-cmsisnn"), 20, 1)
    with pytest.raises(MismatchError, match="no model of registers"):
        turning.checked(registry.find("vit-tiny-fashion"), None, 20, 1)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    spoken(folder)
    return folder


def test_a_search_hits_its_candidates(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
):
    monkeypatch.setattr(turning, "AGREEING", 3)
    out = tmp_path / "mine"
    command = ["search", "micronet-kws", *WORDS, "--data", str(words), "--out", str(out),
               "--against", "resiliency", "--faults", "300"]  # fmt: skip
    assert main([*command, "--trials", "2"]) == 1
    assert "2 trials are too few" in capsys.readouterr().err
    assert not out.exists()
    # After one step every network is a guess; whether two seeds agree is left to chance here.
    monkeypatch.setattr(turning, "check_agreement", lambda *pairs: 0.9)
    assert main([*command, "--trials", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [turning.AGAIN in t["scores"] for t in found["trials"]] == [True, True, True, False]
    assert all(0 <= t["scores"][FLIPS] <= 100 for t in found["trials"])
    assert found["against"] == FLIPS

    def noise(*pairs: Any) -> float:
        raise MismatchError("they do not agree")

    monkeypatch.setattr(turning, "check_agreement", noise)
    assert main([*command, "--trials", "5", "--resume"]) == 1
    assert "they do not agree" in capsys.readouterr().err
    assert len((out / "trials.jsonl").read_text().splitlines()) == 4  # none was begun
    assert main([*command[:-1], "400", "--trials", "5", "--resume"]) == 1
    assert "faults = 300, not 400" in capsys.readouterr().err


def test_it_is_not_a_goal_of_networks_that_nobody_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["search", "micronet-kws", "--out", str(tmp_path / "mine"), "--objective", "macs"]
    assert main([*command, "--against", "resiliency"]) == 1
    assert "measured on trained candidates" in capsys.readouterr().err
