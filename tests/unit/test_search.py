"""The search: what it gives up for a latency, what it writes, and what it refuses."""

import json
from types import SimpleNamespace

import pytest

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, MissingWeightsError
from zoo.nas.greedy import select
from zoo.nas.spaces import ran_e
from zoo.nas.spaces.contract import Decision

TARGET = "ethos-u55-256"
SMALL = "base=ran-e-32-ib"


def counter(costs: dict[str, float], worth: dict[str, float]) -> SimpleNamespace:
    """A space of switches: a changed one saves `costs` and gives up `worth`."""
    return SimpleNamespace(
        decisions=lambda options: tuple(Decision(name=n, values=("kept", "gone")) for n in costs),
        capacity=lambda options, choice: (
            100 - sum(worth[name] for name, value in choice.items() if value == "gone")
        ),
        price=lambda choice: 10 - sum(costs[n] for n, value in choice.items() if value == "gone"),
    )


def chosen(bound: float, costs: dict[str, float], worth: dict[str, float]) -> set[str]:
    space = counter(costs, worth)
    found = select(space, None, space.price, bound)  # type: ignore[arg-type]
    assert found.latency_ms == space.price(found.choice) <= max(bound, 0)
    assert [step.latency_ms for step in found.steps][-1:] == [found.latency_ms][: len(found.steps)]
    return {name for name, value in found.choice.items() if value == "gone"}


def test_what_saves_most_for_what_it_costs_goes_first():
    costs, worth = {"a": 1.0, "b": 2.0, "c": 3.0, "d": -1.0}, {"a": 1, "b": 10, "c": 3, "d": 0}
    assert chosen(10, costs, worth) == set()
    assert chosen(9, costs, worth) == {"a"}
    assert chosen(7, costs, worth) == {"c"}  # "a" came first, and is not needed after all
    assert chosen(6, costs, worth) == {"a", "c"}
    assert chosen(4, costs, worth) == {"a", "b", "c"}
    with pytest.raises(
        MismatchError, match="below the smallest network: the fastest found takes 4 "
    ):
        chosen(3.9, costs, worth)


def test_capacity_counts_what_passes_an_activation():
    options = ran_e.Options(base="ran-e-32-ib")
    choice = {decision.name: "bottleneck" for decision in ran_e.decisions(options)}
    whole = ran_e.capacity(options, choice)
    # Block 0 of ran-e-32: 16 channels of 16x16 in, 64 inside, stride 1.
    less = ran_e.capacity(options, {**choice, "block 0": "collapsed"})
    assert whole - less == (2 * 64 - 16) * 16 * 16
    big = ran_e.Options()
    rows = {decision.name: "bottleneck" for decision in ran_e.decisions(big)}
    less = ran_e.capacity(big, {**rows, "block 9": "collapsed"})  # two halves of 768 inside
    assert ran_e.capacity(big, rows) - less == (4 * 768 - 128 - 64) * 14 * 14


def test_a_search_writes_a_recipe_that_is_priced_and_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["search", "ran-e", "--set", SMALL, "--target", TARGET, "--method", "roofline"]
    assert main([*words, "--max-latency", "0.46ms", "--out", "mine.json"]) == 0
    text = capsys.readouterr().out
    assert "block 1 collapsed" in text
    cost = zoo.estimate("./mine.json", TARGET, method="roofline")
    assert cost.latency_ms <= 0.46
    told = float(text.splitlines()[-1].partition("collapsed: ")[2].split(" ms")[0])
    assert told == pytest.approx(cost.latency_ms, rel=2e-3)  # it is printed with few digits
    with pytest.raises(MissingWeightsError, match=r"zoo train mine\.json --data DIR"):
        zoo.load("./mine.json")
    assert zoo.load("./mine.json", pretrained=False).classifier.out_features == 10
    written = json.loads((tmp_path / "mine.json").read_text())
    assert written["name"] == "mine"
    assert main([*words, "--max-latency", "0.46", "--out", "kept.json", "--json",
                 "--set", "keep=0,1"]) == 0  # fmt: skip
    kept = json.loads(capsys.readouterr().out)
    assert [kept["choice"][f"block {n}"] for n in (0, 1)] == ["bottleneck"] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-latency", "0.001"], "a bound of 0.001 ms is below the smallest network"),
        (["--max-latency", "-1"], "'-1' is no amount of latency; expected e.g. --max-latency 5ms"),
        (["--max-latency", "nan"], "'nan' is no amount of latency"),
        ([], "a greedy search needs --max-latency"),
        (["--max-latency", "1", "--max-macs", "1M"], "knows no other limit"),
        (["--max-latency", "1", "--set", "base=sesr-m3-x2"], "base is sesr-m3-x2, not a RAN"),
        (["--max-latency", "1", "--set", "keep=7"], "keep has 7; ran-e-32-ib has blocks 0 to 6"),
        (
            ["--max-latency", "1", "--set", "keep=1", "--set", "collapse=1"],
            "block 1 is in keep and",
        ),
        (["--max-latency", "1", "--set", "depth=1"], "depth"),
        (["--max-latency", "1", "--set", "keep"], "expected KEY=VALUE"),
        (["--max-latency", "1", "--out", "x.toml"], "x.toml gives the recipe its name; expected"),
        (["--max-latency", "1", "--out", "ran-e-c.json"], "ran-e-c is a recipe of the zoo"),
        (["--max-latency", "1", "--out", "there.json"], "there.json exists already"),
    ],
)
def test_a_wrong_search_is_refused_in_one_line(words, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    out = [] if "--out" in words else ["--out", "mine.json"]
    base = [] if any(word.startswith("base=") for word in words) else ["--set", SMALL]
    assert main(["search", "ran-e", *base, "--method", "roofline", *out, *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "mine.json").exists()


def test_a_file_that_holds_no_recipe_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text('{"a": 1}')
    for words in (
        ["train", "other.json", "--data", ".", "--out", "run"],
        ["estimate", "./other.json"],
    ):
        assert main(words) == 1
        assert "other.json holds no recipe" in capsys.readouterr().err
