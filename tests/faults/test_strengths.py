"""Strengths, names and adapters that a switcher cannot use: one line each, and the base stays."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, Switcher
from zoo.errors import MismatchError, UnknownNameError


@pytest.fixture
def switcher() -> Iterator[Switcher]:
    model = nn.Linear(3, 2)
    made = Switcher(model)
    made.register("a", SparseAdapter.from_tensors({"weight": ([1, 4], [0.5, -2.0])}, model))
    before = made.verify()
    yield made
    assert (made.active, made.verify()) == ({}, before)


@pytest.mark.parametrize("what", [["a"], ("a", 0.5), None, 3])
def test_what_names_no_adapter_is_refused(switcher: Switcher, what: object) -> None:
    with pytest.raises(MismatchError, match=r"what to activate is .*; expected a name, or weights"):
        switcher.activate(what)


@pytest.mark.parametrize("weight", ["much", None, 1j, [1], 10**400, float("nan"), float("-inf")])
def test_a_strength_that_is_no_finite_number_is_refused(switcher: Switcher, weight: object) -> None:
    refused = pytest.raises(MismatchError, match=r"the weight of a is .*; expected a finite number")
    with refused:
        switcher.activate({"a": weight})
    with refused:
        switcher.activate("a", alpha=weight)
    with refused, switcher.using({"a": weight}):
        pass


def test_a_strength_beyond_the_range_of_the_weights_is_refused(switcher: Switcher) -> None:
    with pytest.raises(MismatchError, match=r"the weight of a is 1e\+39, .* beyond the range"):
        switcher.activate({"a": 1e39})


def test_names_that_are_not_registered_are_refused(switcher: Switcher) -> None:
    with pytest.raises(UnknownNameError, match="unknown adapter 3"):
        switcher.activate({3: 1.0})
    with pytest.raises(UnknownNameError, match=r"'b' .*register it first"):
        switcher.activate("a", strategy="priority", order=["b"])


@pytest.mark.parametrize("name", ["", 3, None])
def test_an_adapter_needs_a_name(switcher: Switcher, name: object) -> None:
    with pytest.raises(MismatchError, match="an adapter cannot be called"):
        switcher.register(name, "looks-oil")
    assert switcher.registered == ("a",)


@pytest.mark.parametrize("thing", [3, None, [], torch.zeros(2)])
def test_what_is_no_adapter_is_refused_by_its_type(switcher: Switcher, thing: object) -> None:
    with pytest.raises(MismatchError, match=f"the adapter is a {type(thing).__name__}; expected a"):
        switcher.register("b", thing)
