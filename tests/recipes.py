"""Which recipes a test that takes long is run on, so that the next size of a network costs nothing.

Recipes are of one kind if their tiny forms are the same network for the same task: they differ in
widths and depths alone. The smallest of a kind stands for it; the others are marked `slow`.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch

from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

LARGE = 2_000_000  # parameters


def _kind(recipe: Recipe) -> str:
    tiny = recipe.in_tiny_form()
    return str((recipe.subtask, tiny.model, tiny.args))


def _parameters(recipe: Recipe) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(recipe).parameters())


def smaller(recipe: Recipe) -> Recipe:
    """Return a recipe, or the tiny form of one that is large."""
    return recipe.in_tiny_form() if _parameters(recipe) > LARGE else recipe


def of_each_kind(recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return the smallest recipe of each kind, in the order of the recipes."""
    recipes = list(recipes)
    kinds = itertools.groupby(sorted(recipes, key=_kind), _kind)
    smallest = {min(members, key=_parameters).name for _, members in kinds}
    return [recipe for recipe in recipes if recipe.name in smallest]


def slow_but_for_one_of_each_kind(recipes: Iterable[Recipe]) -> list[Any]:
    """Return recipes as parameters of a test, `slow` but for those that stand for a kind."""
    recipes = list(recipes)
    quick = {recipe.name for recipe in of_each_kind(recipes)}
    return [
        pytest.param(recipe, id=recipe.name, marks=[] if recipe.name in quick else pytest.mark.slow)
        for recipe in recipes
    ]
