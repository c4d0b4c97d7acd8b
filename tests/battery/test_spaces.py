"""The contract of every space of architectures: a new one is tested by being there."""

import dataclasses

import pytest
import torch

from zoo.errors import UnknownNameError
from zoo.nas.spaces import contract
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

NAMES = contract.names()


def test_there_is_one_and_others_are_named():
    assert "ran-e" in NAMES
    with pytest.raises(UnknownNameError, match="did you mean ran-e"):
        contract.find("rane")


@pytest.mark.parametrize("name", NAMES)
def test_its_choices_are_networks(name: str):
    space = contract.find(name)
    assert space.SUMMARY.strip() == space.SUMMARY
    assert dataclasses.is_dataclass(space.Options)
    options = space.Options()
    decisions = space.decisions(options)
    assert len({decision.name for decision in decisions}) == len(decisions)
    first = contract.start(decisions)
    last = {decision.name: decision.values[-1] for decision in decisions}
    for choice in (first, last):
        recipe = space.recipe(options, choice, "found")
        assert recipe.name == "found"
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert space.capacity(options, choice) > 0
        with torch.device("meta"):
            build(recipe)
