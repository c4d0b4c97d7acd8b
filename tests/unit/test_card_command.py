"""The command on a card makes the weights it is shipped with, however the recipe has changed."""

import dataclasses
import itertools
import json
import shlex
import subprocess

import pytest

import zoo
from zoo import registry
from zoo.cards.model import render
from zoo.cli import _parser
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Compress, Recipe

SHIPPED = sorted(folder.name for folder in registry.weights_folder().iterdir() if folder.is_dir())


@pytest.mark.parametrize("name", SHIPPED)
def test_the_command_of_shipped_weights_gives_their_settings(name):
    checkpoint = zoo.checkpoint(name)
    card = (checkpoint.path / "README.md").read_text()
    assert card == render(checkpoint)
    starts = ("zoo train ", "zoo adapter joint ", "zoo compress ")
    line = next(line for line in card.splitlines() if line.startswith(starts))
    made = checkpoint.recipe.make
    if isinstance(made, Compress):
        typed = shlex.split(line)
        given = dict(itertools.pairwise(typed[3:]))
        assert (typed[2], given["--method"]) == (made.base, made.method)
        for key, value in made.options.items():
            assert type(value)(given[f"--{key.replace('_', '-')}"]) == value
        return
    words = _parser().parse_args(shlex.split(line)[1:])
    recipe = zoo.find(words.name).override(dict(item.split("=", 1) for item in words.set))
    if getattr(words, "init", None) is not None:
        init = None if words.init == "none" else words.init
        recipe = recipe.override({"train.init": init})
    assert recipe.train == checkpoint.recipe.train


def test_an_option_that_was_not_there_is_taken_away():
    recipe = zoo.find("sesr-m3-x2")
    fewer = recipe.override({"train.options.shrunk_copies": "none"})
    assert set(recipe.train.options) - set(fewer.train.options) == {"shrunk_copies"}
    assert dataclasses.replace(fewer, make=recipe.train) == recipe


def test_the_card_of_a_folder_loads_that_folder(made):
    card = zoo.card(str(made.path))
    assert f'zoo.load("{made.path}")' in card
    assert 'zoo.load("sesr-m5-x2.free")' in zoo.card("sesr-m5-x2")


def test_the_card_of_a_recipe_of_ones_own_gives_its_file(tmp_path):
    recipe = dataclasses.replace(zoo.find("sesr-m3-x2"), name="mine")
    made = Checkpoint.write(
        tmp_path / "run", recipe, build(recipe).state_dict(), {}, license="mit",
        data={"source": "nothing", "images": 1, "held_out": [], "sha256": "0"},
    )  # fmt: skip
    block = render(made).partition("```\npython -c")[2].partition("```")[0]
    written, train = f"python -c{block}".strip().splitlines()
    assert train == "zoo train mine.json --data DIR --out runs/mine"
    subprocess.run(["bash", "-ec", written], cwd=made.path, check=True)
    assert Recipe.from_json(json.loads((made.path / "mine.json").read_text())) == recipe
