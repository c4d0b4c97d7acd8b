"""The contract of every space of architectures: a new one is tested by being there."""

import dataclasses
import random
from collections import Counter
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from zoo import registry
from zoo.errors import MismatchError, UnknownNameError
from zoo.nas.spaces import contract
from zoo.nas.spaces.contract import Choice, Decision
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks import task_of

NAMES = contract.names()
BUILT_IN = {"micronet-ad", "micronet-kws", "micronet-vww", "ran-e", "sesr", "vit-tiny"}


def network(recipe: Recipe) -> nn.Module:
    with torch.device("meta"):
        return build(recipe)


def test_they_are_there_and_others_are_named():
    assert set(NAMES) >= BUILT_IN
    with pytest.raises(UnknownNameError, match="did you mean ran-e"):
        contract.find("rane")


@pytest.mark.parametrize("name", NAMES)
def test_its_choices_are_networks(name: str):
    space = contract.find(name)
    assert space.SUMMARY.strip() == space.SUMMARY
    assert dataclasses.is_dataclass(space.Options)
    options = space.Options()
    decisions = contract.decided(space, options)
    dice = random.Random(0)
    first = contract.start(decisions)
    last = {decision.name: decision.values[-1] for decision in decisions}
    drawn = {decision.name: dice.choice(decision.values) for decision in decisions}
    for choice in (first, last, drawn):
        recipe = space.recipe(options, choice, "found")
        assert recipe.name == "found"
        assert recipe.train.steps > 0
        assert Recipe.from_json(recipe.to_json()) == recipe
        assert task_of(recipe).FACTS.name == recipe.subtask
        if hasattr(space, "capacity"):
            assert space.capacity(options, choice) > 0
        network(recipe)


@pytest.mark.parametrize("name", NAMES)
def test_its_layers_are_those_of_the_largest_network(name: str):
    space = contract.find(name)
    options = space.Options()
    decisions = contract.decided(space, options)
    most: Choice = {d.name: d.values[-1] for d in decisions}
    whole = network(space.recipe(options, most, "found"))
    for decision in decisions:
        layers = [whole.get_submodule(path) for path in decision.layers]
        if decision.kind == "width":
            assert {channels(layer) for layer in layers} <= {decision.values[-1]}
        if decision.kind == "depth":
            assert len(layers) % int(decision.values[-1]) == 0
        if decision.kind == "depth":
            shallow = {**most, decision.name: decision.values[0]}
            fewer = network(space.recipe(options, shallow, "found"))
            part = len(layers) // int(decision.values[-1])
            left = layers[: int(decision.values[0]) * part]
            kept = [parameter.shape for layer in left for parameter in layer.parameters()]
            least = [parameter.shape for parameter in fewer.parameters()]
            assert not Counter(kept) - Counter(least)


def channels(layer: nn.Module) -> int:
    """Output channels of a layer, or of the last one in a module."""
    sized = [m for m in layer.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sized[-1].weight.shape[0]


def pairs(name: str) -> Mapping[str, int]:
    args = registry.find(name).args
    rows, most = args["blocks"], 6 if "ad" in name else 7
    numbers = list(range(1, len(rows) + 1))
    if "ad" in name:  # the last two are those of the deepest network
        numbers[-2:] = [most - 1, most]
    widths = {f"pair {n}": row[0] for n, row in zip(numbers, rows, strict=True)}
    return {"pairs": len(widths), "stem": args["width"], **widths}


@pytest.mark.parametrize("name", [f"micronet-{kind}-{s}" for kind in ("kws", "ad") for s in "sml"])
def test_the_published_networks_are_in_their_space(name: str):
    space = contract.find(name[:-2])
    options = space.Options(base=name)
    choice = pairs(name)
    values = {decision.name: decision.values for decision in contract.decided(space, options)}
    assert all(value in values[key] for key, value in choice.items())
    found, published = space.recipe(options, choice, "found"), registry.find(name)
    assert found.args == published.args
    assert found.make == published.make
    assert {k: v for k, v in space.choice_of(options, published).items() if k in choice} == choice  # type: ignore[attr-defined]


def test_the_published_network_of_pictures_is_in_its_space():
    space, published = contract.find("micronet-vww"), registry.find("micronet-vww-4")
    decisions = contract.decided(space, space.Options(percent=(100,), sides=(128,)))
    found = space.recipe(space.Options(), contract.start(decisions), "found")
    assert found.input_shape == published.input_shape
    shapes = [
        [tuple(p.shape) for p in network(recipe).parameters()] for recipe in (found, published)
    ]
    assert shapes[0] == shapes[1]


def test_a_front_end_is_chosen_with_its_shape():
    space = contract.find("micronet-kws")
    options = space.Options(front_ends=("mfcc-mlperf", "log-mel-mlperf"), pairs=(1,), widest=8)
    decisions = contract.decided(space, options)
    choice = {**contract.start(decisions), "front end": "log-mel-mlperf"}
    found = space.recipe(options, choice, "found")
    assert found.preprocessing["front_end"] == "log-mel-mlperf"
    assert found.input_shape == (1, 1, 30, 128)  # 1 + (16000 - 1024) // 512 frames
    assert space.recipe(options, contract.start(decisions), "found").input_shape == (1, 1, 49, 10)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((), "has no values"),
        ((8, 4), "expected rising numbers"),
        ((4, 4), "expected rising numbers"),
        (("a", "b", "a"), "expected each value once"),
    ],
)
def test_a_decision_that_is_none_is_refused(values: tuple[object, ...], told: str):
    with pytest.raises(MismatchError, match=told):
        Decision(name="width", values=values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("micronet-kws", {"widest": 0}, "widths from 4 to 0"),
        ("micronet-kws", {"base": "sesr-m5-x2"}, "there are: .*micronet-kws-s"),
        ("micronet-kws", {"front_ends": ("mfcc",)}, "mfcc-m"),
        ("micronet-kws", {"pairs": ()}, "expected 1 or more"),
        ("micronet-ad", {"pairs": (2, 3)}, "expected 3 or more"),
        ("micronet-vww", {"sides": ()}, "'side' has no values"),
        ("sesr", {"base": "ran-e-c"}, "not a SESR"),
        ("sesr", {"blocks": ()}, "'blocks' has no values"),
        ("vit-tiny", {"depths": ()}, "'depth' has no values"),
    ],
)
def test_options_that_cannot_be_meant_are_told(name: str, options: dict[str, object], told: str):
    space = contract.find(name)
    with pytest.raises((MismatchError, UnknownNameError), match=told):
        contract.decided(space, space.Options(**options))
