"""Bits for each layer: what choices take and lose, every way beside the others, the command."""

import itertools
import json
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import zoo
from zoo.cli import main
from zoo.errors import MismatchError, UnknownNameError
from zoo.nas.bits import ways
from zoo.nas.bits.problem import BitProblem, Inputs, distance, divergence
from zoo.quantization.core import stored_bits

BITS = (2, 4, 8)


class Net(nn.Module):
    """Two convolutions and two linear layers, of which the first share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.deep = nn.Conv2d(8, 8, 3, groups=8)
        self.wide = nn.Linear(8, 40)
        self.head = nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.deep(self.first(x).relu()).relu().mean((2, 3))
        return self.head(self.wide(x).relu())


def problem(budget: float = 4, bits=BITS, **changes) -> BitProblem:
    torch.manual_seed(0)
    net = Net().eval()
    inputs = Inputs.halves([torch.randn(24, 1, 9, 9)])
    return BitProblem(net, inputs, budget, bits=bits, **changes)


def test_halves_are_apart():
    rows = torch.arange(10.0)[:, None]
    halves = Inputs.halves([rows[:7], rows[7:]])
    one, other = (torch.cat(list(half)).flatten().tolist() for half in
                  (halves.searched, halves.held_out))  # fmt: skip
    assert one == [0, 2, 4, 6, 8]
    assert other == [1, 3, 5, 7, 9]
    with pytest.raises(MismatchError, match="two or more"):
        Inputs.halves([rows[:1]])


def test_divergence_is_that_of_torch_and_distance_is_relative():
    torch.manual_seed(0)
    a, b = torch.randn(6, 5), torch.randn(6, 5)
    kl = nn.functional.kl_div(a.log_softmax(1), b.softmax(1), reduction="none").sum(1)
    torch.testing.assert_close(divergence(a, b), kl)
    torch.testing.assert_close(distance(3 * b, b), torch.full((6,), 4.0))
    assert float(distance(a, a).max()) == float(divergence(a, a).abs().max()) == 0


def test_the_budget_is_what_as_many_bits_for_all_take():
    found = problem(4)
    assert found.budget == found.stored(dict.fromkeys(found.weights, 4))
    assert found.uniform() == dict.fromkeys(found.weights, 4)
    shapes = [(8, 9), (8, 9), (40, 8), (5, 40)]
    names = list(found.weights)
    by_hand = sum(stored_bits(s, found.options(n, 4)) for n, s in zip(names, shapes, strict=True))
    assert found.budget == by_hand
    between = problem(3.5).budget
    assert problem(3).budget < between < found.budget
    assert problem(3).uniform() == dict.fromkeys(names, 2)  # 3 is not on offer


def test_a_loss_is_that_of_rounded_weights_and_leaves_the_network_alone():
    found = problem()
    before = {name: value.clone() for name, value in found.network.state_dict().items()}
    losses = {bits: found.loss(dict.fromkeys(found.weights, bits)) for bits in BITS}
    assert losses[2] > losses[4] > losses[8] > 0
    assert found.loss({}) == 0
    assert found.loss(dict.fromkeys(found.weights, 2), held_out=True) not in (losses[2], 0)
    for name, value in found.network.state_dict().items():
        assert torch.equal(value, before[name])
    weight = found.floats["head"]
    low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
    step = ((high - low) / 15).unsqueeze(1)
    assert ((found._rounded("head", 4) - weight).abs() <= step * 0.51).all()


def test_shared_weights_are_one_layer():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    net[2].weight = net[0].weight
    found = BitProblem(net, Inputs.halves([torch.randn(4, 6)]), 4, bits=BITS)
    assert list(found.weights) == ["0"]


@pytest.mark.parametrize("fill", [True, False])
def test_what_is_fitted_is_within_the_budget(fill: bool):
    found = problem()
    for seed in range(20):
        dice = random.Random(seed)
        choice = {name: dice.choice(BITS) for name in found.weights}
        made = found.fitted(choice, dice, fill=fill)
        assert found.stored(made) <= found.budget
        if fill:  # no layer could have more
            for name, bits in made.items():
                for more in (b for b in BITS if b > bits):
                    assert found.stored({**made, name: more}) > found.budget
        else:
            assert all(made[name] <= bits for name, bits in choice.items())


def test_every_way_stands_beside_the_best_of_all():
    """256 choices can be tried: no way beats the best, and all but the last few are worse."""
    found = problem(bits=(2, 3, 4, 8))
    every = [
        dict(zip(found.weights, values, strict=True))
        for values in itertools.product(found.bits, repeat=len(found.weights))
    ]
    losses = {
        tuple(choice.values()): found.loss(choice)
        for choice in every
        if found.stored(choice) <= found.budget
    }
    best, median = min(losses.values()), statistics.median(losses.values())
    rows = {row.way: row for row in ways.compared(found, trials=40)}
    assert list(rows) == list(ways.WAYS)
    for row in rows.values():
        assert row.loss == losses[tuple(row.choice.values())] >= best
        assert row.bits_per_weight * found.count == found.stored(row.choice)
        assert row.held_out == found.loss(row.choice, held_out=True)
    assert rows["allocate"].loss < median / 3
    assert rows["clustered"].loss <= best * 1.1
    assert rows["allocate"].evaluations == 4 * 4
    assert rows["clustered"].evaluations == 40


def test_searches_go_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = [t.choice for t in ways.searched(problem(), "clustered", trials=20, seed=1)]
    killed, usual = problem(), BitProblem.loss
    calls = itertools.count()

    def dies(self, choice, **more):
        if next(calls) == 15:
            raise KeyboardInterrupt
        return usual(self, choice, **more)

    monkeypatch.setattr(BitProblem, "loss", dies)
    with pytest.raises(KeyboardInterrupt):
        ways.searched(killed, "clustered", trials=20, seed=1, folder=tmp_path / "a")
    monkeypatch.setattr(BitProblem, "loss", usual)
    again = ways.searched(
        problem(), "clustered", trials=20, seed=1, folder=tmp_path / "a", resume=True
    )
    assert [t.choice for t in again] == whole
    with pytest.raises(MismatchError, match="budget"):
        ways.searched(problem(5), "clustered", trials=20, seed=1, folder=tmp_path / "a",
                      resume=True)  # fmt: skip


def test_outputs_that_are_not_finite_end_no_search():
    found = problem(call=lambda net, x: net(x) * (float("nan") if found_bits(net) else 1.0))
    row = next(r for r in ways.compared(found, trials=15) if r.way == "random")
    assert row.loss < float("inf")


def found_bits(net: nn.Module) -> bool:
    """Whether the first layer is coarse: few values."""
    return len(net.first.weight[0].unique()) <= 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budget": 1}, "between them"),
        ({"budget": 9}, "between them"),
        ({"bits": (0, 4)}, "from 1 to 8"),
        ({"bits": ()}, "from 1 to 8"),
        ({"names": ["nowhere"]}, "no linear or convolutional layer"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes: dict, said: str):
    with pytest.raises(MismatchError, match=said):
        problem(**changes)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two small pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    dice = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(dice.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def test_the_command(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "bits"
    command = ["search", "bits", "sesr-m3-x2.bsds", "--data", str(pictures),
               "--choices", "2,4,8", "--trials", "3", "--out", str(out)]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:-1]] == ["WAY", *ways.WAYS]
    made = json.loads((out / "bits.json").read_text())
    assert made["by"] == "allocate"
    assert set(made["layers"].values()) <= {2, 4, 8}
    assert made["layers"] == made["ways"][0]["choice"]
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--json", "--by", "random"]) == 0
    assert json.loads(capsys.readouterr().out)["by"] == "random"


@pytest.mark.parametrize(
    ("ref", "more", "said"),
    [
        ("sesr-m5-x2.bsds-int8", [], "few bits already"),
        ("sesr-m3-x2.bsds", ["--by", "clusterd"], "did you mean clustered"),
        ("sesr-m3-x2.bsds", ["--choices", "2,x"], "expected e.g."),
        ("sesr-m3-x2.bsds", ["--bits", "9"], "between them"),
    ],
)
def test_wrong_commands_say_what_is_expected(
    ref: str,
    more: list[str],
    said: str,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    command = ["search", "bits", ref, "--data", str(pictures), "--out", str(tmp_path / "o")]
    assert main([*command, *more]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    with pytest.raises(UnknownNameError):
        zoo.search_bits("sesr-m3-x2.bsds", tmp_path / "x", data=pictures, by="none")
