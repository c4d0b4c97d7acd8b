"""A filter of one's own: named explicitly, made into pairs, refused where it does not fit."""

import pytest
from PIL import Image

from zoo.adapters import registry
from zoo.errors import MismatchError
from zoo.tasks import picture
from zoo.verbs.adapters import train_adapter

MINE = """
def dark(picture):
    return picture // 2

def wide(picture):
    return picture[:, :5]

def broken(picture):
    return 1 / 0
"""


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (80, 76), (200, 100, number)).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


def test_a_function_of_a_file_makes_pairs(photos, tmp_path):
    change = picture.from_file(f"{tmp_path}/mine.py:dark")
    pairs = picture.make_pairs(photos, change, tmp_path / "pairs")
    for number in range(2):
        after = Image.open(pairs / "after" / f"{number}.png")
        assert after.getpixel((3, 3)) == (100, 50, number // 2)


@pytest.mark.parametrize(
    ("name", "message"),
    [("wide", r"makes uint8 \(76, 5, 3\) of 0.png; expected uint8 \(76, 80, 3\)"),
     ("broken", "fails on 0.png: division by zero"),
     ("light", "has no function 'light'")],
)  # fmt: skip
def test_a_function_that_does_not_fit_is_refused(photos, tmp_path, name, message):
    place = f"{tmp_path}/mine.py:{name}"
    with pytest.raises(MismatchError, match=message):  # either of the two
        picture.make_pairs(photos, picture.from_file(place), tmp_path / "pairs")
    assert not (tmp_path / "pairs").exists()


def test_only_a_named_file_is_executed(photos, tmp_path):
    for place in ("dark", "mine.py:dark", f"{tmp_path}/photos:dark"):
        with pytest.raises(MismatchError, match="expected a file and a function"):
            picture.from_file(place)
    (tmp_path / "bad.py").write_text("import nothing_like_it\n")
    with pytest.raises(MismatchError, match="cannot be run: ModuleNotFoundError"):
        picture.from_file(f"{tmp_path}/bad.py:dark")


def test_a_new_look_starts_with_the_mask_of_its_task():
    recipe = registry.recipe_for("mylook", "looks", "picture", {})
    assert (recipe.mask.kind, recipe.mask.density) == ("snip", 0.15)
    assert recipe.mask.share("body.0.bias") == 1
    assert recipe.mask.share("body.0.weight") == 0.15


def test_a_filter_is_for_pictures_alone(photos, tmp_path):
    with pytest.raises(MismatchError, match="--filter makes pictures"):
        train_adapter("sesr-m5-x2-text", tmp_path / "run", data=str(photos), own_filter="x.py:y")
