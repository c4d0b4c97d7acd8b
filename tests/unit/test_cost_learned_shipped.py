"""Learned costs that ship, against the compiler."""

import numpy as np
import pytest

import zoo
from tests.unit.test_cost_learned import TARGET, compiled
from zoo import cost
from zoo.cost.learned import learning
from zoo.cost.learned.model import WEIGHTS, load
from zoo.cost.networks.families import network
from zoo.deploy.tflite_write import serialize_tflite
from zoo.errors import MismatchError

SHIPPED = sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


@pytest.mark.parametrize(
    "name", [SHIPPED[0], *(pytest.param(n, marks=pytest.mark.slow) for n in SHIPPED[1:])]
)
def test_shipped_weights_are_near_the_compiler(name: str) -> None:
    """On networks of a seed that no training saw."""
    clock, off = cost.target(name).get("clock_hz"), []
    for index in range(14):
        drawn = network(99, index)[1]
        truth = 1e3 * compiled(serialize_tflite(drawn), name)["totalCycles"] / clock
        off.append(
            abs(cost.estimate(drawn, cost.target(name), method="learned").latency_ms / truth - 1)
        )
    assert np.mean(off) < (0.02 if "u55" in name else 0.05 if "u65" in name else 0.1)


def test_shipped_weights_are_small_and_say_where_they_are_from() -> None:
    assert {"ethos-u55-128", "ethos-u55-256"} <= set(SHIPPED)
    assert sum(path.stat().st_size for path in WEIGHTS.glob("*.safetensors")) < 300_000
    for name in SHIPPED:
        facts = load(WEIGHTS / f"{name}.safetensors")[1]
        assert facts.target == name
        assert "Vela" in facts.source
        assert facts.interval[0] < 1 < facts.interval[1]


def test_a_recipe_is_priced() -> None:
    found = zoo.estimate("mlperf-tiny-ic", "ethos-u55-128", method="learned")
    assert 0.3 < found.latency_ms < 0.6  # Vela: 0.40 on the published file
    assert found.input_shape == (1, 3, 32, 32)


def test_too_few_networks_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"0 networks have costs for ethos-u55-128; .* needs"):
        learning.examples([], TARGET)
