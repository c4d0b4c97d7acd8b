"""Published searches as settings of the differentiable engine, and what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from tests.unit.test_dnas import question
from zoo.errors import MismatchError
from zoo.nas.dnas import engine
from zoo.nas.dnas.samplers import softmax
from zoo.nas.dnas.supernet import Networks, Supernet
from zoo.nas.dnas.ways import WAYS
from zoo.nas.limits import Limits, Use
from zoo.nas.searchers import contract as searchers
from zoo.nas.spaces import contract
from zoo.registry.checkpoint import build

SMALL: dict[str, dict[str, Any]] = {
    "micronet-kws": {"step": 12, "widest": 60, "pairs": (2, 3, 4)},
    "micronet-ad": {"step": 12, "widest": 60},
    "micronet-vww": {},
    "sesr": {},
    "vit-tiny": {},
    "ran-e": {"keep": tuple(range(2, len(zoo.find("ran-e-ib").args["blocks"])))},
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    dice = np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(dice.integers(0, 255, (16, 16, 3)), np.ones((8, 8, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize("way", ["zoo", "fbnet", "proxylessnas", "darts-pt", "pc-darts", "rarts"])
def test_published_searches_are_a_few_settings(way: str, pictures: Path, tmp_path: Path) -> None:
    space = contract.find("sesr")
    options = space.Options(channels=(4, 8), blocks=(1, 2), base="sesr-m3-x2")
    asked = Networks(space, options, contract.decided(space, options))
    found = engine.search(
        asked, tmp_path / way, data=str(pictures), limits={"flash": 1000.0},
        way=WAYS[way], steps=8, device="cpu",
    )  # fmt: skip
    assert set(found.choice) == {d.name for d in asked.decisions}
    assert build(space.recipe(options, found.choice, "found")) is not None
    assert found.spent > 0
    moved = [abs(shares[0] - 0.5) > 1e-6 for shares in found.wishes.values()]
    assert any(moved)


def test_the_searcher_asks_for_what_a_supernet_chose(pictures: Path, tmp_path: Path) -> None:
    searcher = searchers.find("dnas")
    asked = searchers.Question(
        space=contract.find("sesr"), settings=(space := contract.find("sesr")).Options(
            channels=(4, 8), blocks=(1, 2), base="sesr-m3-x2"
        ),
        decisions=space.decisions(space.Options(channels=(4, 8), blocks=(1, 2))),
        trials=[], number=0, seed=0, limits=Limits(flash_bytes=2500.0),
        measure=lambda choice: Use(macs=1), data=str(pictures), steps=8, folder=tmp_path,
    )  # fmt: skip
    proposal = searcher.ask(asked, searcher.Options(way="single-path"))
    assert all(proposal.choice[d.name] in d.values for d in asked.decisions)
    assert proposal.spent > 0
    assert searcher.ask(asked, searcher.Options(way="single-path")) == proposal  # its folder
    with pytest.raises(MismatchError, match="dnas trains a supernet: add --data"):
        searcher.ask(dataclasses.replace(asked, data=None), searcher.Options())


def test_a_space_without_layers_is_refused() -> None:
    asked = question("sesr")
    blind = tuple(dataclasses.replace(d, layers=()) for d in asked.decisions)
    with pytest.raises(MismatchError, match="search it with another --by"):
        Supernet(dataclasses.replace(asked, decisions=blind), softmax)


def test_a_limit_that_no_cost_has_is_refused(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(MismatchError, match="limit on 'joules'; a supernet knows macs, flash"):
        engine.search(
            question("sesr"), tmp_path / "run", data=str(pictures), limits={"joules": 1.0}
        )
