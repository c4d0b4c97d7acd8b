"""What the Look tab shows: labels of a picture, what the network sees, time and costs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.artifacts.resolution import resolve
from zoo.cli import main
from zoo.errors import MismatchError, MissingWeightsError
from zoo.page import app, looking, shelf
from zoo.page.listening import TASKS as HEARD
from zoo.page.looking import EXAMPLES, TASKS, Eyes
from zoo.registry.checkpoint import Checkpoint, build


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as `zoo import` makes them: of a task without weights that ship."""
    folder = tmp_path_factory.mktemp("runs") / "person"
    recipe = zoo.find("micronet-vww-4")
    torch.manual_seed(0)
    Checkpoint.write(folder, recipe, build(recipe).state_dict(), {})
    return folder


@pytest.fixture(scope="module")
def eyes(person: Path) -> Eyes:
    return Eyes([resolve(person), resolve("micronet-kws-s")])


def test_the_cat_is_one(eyes: Eyes) -> None:
    found = eyes.look(EXAMPLES[0], "mlperf-tiny-ic")
    assert max(found.likely, key=found.likely.__getitem__) == "cat"
    assert sum(found.likely.values()) == pytest.approx(1, abs=1e-4)
    assert found.likely == dict(zoo.run("mlperf-tiny-ic", EXAMPLES[0]).best)
    assert found.latency_ms > 0
    assert 1 <= found.runs <= 9


def test_what_is_shown_is_what_the_network_sees(eyes: Eyes, tmp_path: Path) -> None:
    dice = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(dice).save(tmp_path / "dice.png")
    found = eyes.look(tmp_path / "dice.png", "mlperf-tiny-ic")
    assert found.size == (32, 32)
    zoom = found.seen.width // 32
    assert np.array_equal(np.asarray(found.seen)[::zoom, ::zoom], dice)  # unaltered
    assert np.array_equal(np.asarray(found.seen), dice.repeat(zoom, 0).repeat(zoom, 1))


def test_checkpoints_that_the_page_is_given_stand_first(eyes: Eyes, person: Path) -> None:
    assert list(eyes.shelf)[:2] == [str(person), "mlperf-tiny-ic"]
    assert eyes.default == str(person)
    assert not [ref for ref in eyes.shelf if "kws" in ref]
    found = eyes.look(EXAMPLES[1], str(person))
    assert set(found.likely) == {"none", "person"}
    assert (found.seen.mode, found.size) == ("L", (128, 128))
    words = looking.facts(found, eyes.shelf[str(person)], shelf.costs(eyes.shelf[str(person)]))
    assert "128x128 grey pixels" in words
    assert "none, person" in words


def test_costs_are_those_of_the_command(eyes: Eyes) -> None:
    for ref in ("mlperf-tiny-ic", "mlperf-tiny-ic.cifar10-int8"):
        rows = shelf.costs(eyes.shelf[ref])
        assert len(rows) == len(shelf.DEVICES)
        for (where, time, words), name in zip(rows, shelf.DEVICES, strict=True):
            cost = zoo.estimate(ref, name)
            assert (where, time) == (shelf.DEVICES[name], f"{cost.latency_ms:.3g} ms")
            assert cost.obtained["latency_ms"] in words
        assert f'zoo.run("{ref}", "photo.jpg")' in looking.code(ref)


def test_what_is_no_picture_is_refused_in_one_line(eyes: Eyes, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("text.png", "is not a picture"), ("none.png", "no such file")):
        with pytest.raises(MismatchError, match=message):
            eyes.look(tmp_path / name, "mlperf-tiny-ic")
    with pytest.raises(MismatchError, match="there is no network 'x'"):
        eyes.look(EXAMPLES[0], "x")


def test_the_page_refuses_what_no_tab_shows() -> None:
    with pytest.raises(MismatchError, match=r"no tab shows sesr-m5-x2.*super-resolution"):
        app.build(models=[resolve("sesr-m5-x2")])


def test_without_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("zoo.registry.catalogue.WEIGHTS", tmp_path)
    for tasks in (TASKS, HEARD):
        with pytest.raises(MissingWeightsError, match="no network that flies has weights"):
            shelf.shelf(tasks, (), "flies")


def test_the_command_gives_the_page_its_checkpoints(
    person: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[str] = []
    monkeypatch.setattr(
        app, "serve", lambda port, *, models, **_: given.extend(m.ref for m in models)
    )
    assert main(["serve", str(person), "micronet-kws-s"]) == 0
    assert given == [str(person), "micronet-kws-s"]
    assert main(["serve", "no-such-network"]) == 1
    assert "no-such-network" in capsys.readouterr().err
