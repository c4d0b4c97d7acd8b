"""What the Detect tab shows: the objects that the command finds, in pictures of any size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo.errors import MismatchError
from zoo.page import detecting
from zoo.page.detecting import EXAMPLES, Scout
from zoo.page.given import number


@pytest.fixture(scope="module")
def scout() -> Scout:
    return Scout()


def test_it_finds_what_the_command_does(scout: Scout) -> None:
    for file in EXAMPLES:
        found = scout.find(file, scout.default)
        assert found.items == zoo.run(scout.default, file).items
        assert len(found.items) > 5
        assert np.array_equal(np.asarray(detecting.shown(found)), np.asarray(found.image))
        assert {item.label for item in found.items} <= {"RBC", "WBC", "Platelets"}


def test_a_higher_score_leaves_the_surest(scout: Scout) -> None:
    every, few = (scout.find(EXAMPLES[0], scout.default, least) for least in (0.1, 0.6))
    assert 0 < len(few.items) < len(every.items)
    assert min(item.score for item in few.items) >= 0.6
    own = scout.threshold(scout.default)
    assert scout.find(EXAMPLES[0], scout.default, None).items == (
        scout.find(EXAMPLES[0], scout.default, own).items
    )


def test_a_large_picture_is_searched_whole_and_shown_small(scout: Scout, tmp_path: Path) -> None:
    with Image.open(EXAMPLES[0]) as cells:
        cells.resize((2560, 1920), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    found = scout.find(tmp_path / "large.png", scout.default)
    assert found.pixels.shape == (1920, 2560, 3)
    assert max(item.box[0] + item.box[2] for item in found.items) > 1600
    assert detecting.shown(found).size == (1600, 1200)


def test_what_is_said(scout: Scout) -> None:
    eye, found = scout.shelf[scout.default], scout.find(EXAMPLES[0], scout.default)
    text = detecting.facts(found, eye, [("On Mars", "1 ms", "estimated")])
    assert f"<b>{len(found.items)}</b>" in text
    assert "640x480 pixels in 320x240" in text
    assert "On Mars" in text
    nothing = scout.find(EXAMPLES[0], scout.default, 1.0)
    assert "lower the least score" in detecting.facts(nothing, eye, [])


@pytest.mark.parametrize(
    ("ref", "threshold", "message"),
    [
        ("sesr-m5-x2", None, "there is no network 'sesr-m5-x2'; take ran-i-detector"),
        ("ran-i-detector", 1.5, "the least score is 1.5; expected 0 to 1"),
        ("ran-i-detector", -1, "the least score is -1; expected 0 to 1"),
        ("ran-i-detector", float("nan"), "the least score is nan; expected 0 to 1"),
        ("ran-i-detector", "half", "the least score is 'half'; expected a number"),
        ("ran-i-detector", True, "the least score is True; expected a number"),
    ],
)
def test_what_is_refused(scout: Scout, ref: str, threshold: object, message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        scout.find(EXAMPLES[0], ref, threshold)


def test_an_emptied_slider_is_its_default() -> None:
    assert number(None, "x", 0, 1, 0.25) == number("", "x", 0, 1, 0.25) == 0.25
    assert number(1, "x", 0, 1, 0.25) == 1.0
