"""The contract of every analysis of reliability: a new one is tested by being there."""

import dataclasses

import pytest

from zoo.registry.options import options
from zoo.resilience import contract


@pytest.mark.parametrize("name", contract.names())
def test_it_keeps_the_contract(name):
    analysis = contract.find(name)
    assert analysis.SUMMARY[0].islower()
    assert not analysis.SUMMARY.endswith(".")
    assert analysis.Options() == analysis.Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        analysis.Options().seed = 3
    assert all(option.text for option in options(analysis.Options))


def test_each_is_chosen_by_an_option_of_its_own():
    chosen = contract.choices()
    assert sorted([contract.DEFAULT, *chosen.values()]) == contract.names()
    for option, name in chosen.items():
        assert contract.chosen([option]) == name
    assert contract.chosen([]) == contract.DEFAULT
