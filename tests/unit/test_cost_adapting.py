"""Another target from a few measurements: what is learned of ten, and that it never harms much."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_cost_learned import FACTS, TARGET, graph, some, wild
from zoo import cost
from zoo.cli import main
from zoo.cost.learned import adapting
from zoo.cost.learned.features import NAMES, passes_of
from zoo.cost.learned.layers import UNITS
from zoo.cost.learned.model import Predictor, batch, save
from zoo.cost.networks.families import network
from zoo.deploy.tflite_write import write_tflite
from zoo.errors import MismatchError

__all__ = ["some", "wild"]  # fixtures


@pytest.fixture(scope="module")
def many():
    return [passes_of(graph(index), TARGET) for index in range(56)]


def error(predictor, networks, truth):
    """Return how far predictions are off on average, as logarithms of ratios."""
    with torch.inference_mode():
        cycles = predictor.eval()(batch(networks)).cycles.numpy()
    return float(np.abs(np.log(cycles / truth)).mean())


def test_ten_measurements_teach_another_target(some) -> None:
    """A device whose depthwise layers take three times as long."""
    base = Predictor()
    base.fit_ranges(batch(some).features)
    unit = NAMES.index("unit depthwise")

    def truth(one):
        return float((one.cycles * (1 + 2 * one.features[:, unit])).sum())

    seen = [passes_of(graph(index), TARGET) for index in (2, 3, 4, 6, 11, 12, 16, 17, 18, 20)]
    rest = [passes_of(graph(index), TARGET) for index in range(30, 70)]
    found, facts = adapting.adapted(base, FACTS, [(one, truth(one)) for one in seen], "board")

    def error(predictor):
        with torch.inference_mode():
            cycles = predictor(batch(rest)).cycles.numpy()
        return float(np.abs(cycles / np.array([truth(one) for one in rest]) - 1).mean())

    assert error(base) > 0.15
    assert error(found) < 0.4 * error(base)
    assert facts.target == "board"
    assert "10 measurements on board" in facts.source
    assert float(base.scale.abs().max()) == 0
    with pytest.raises(MismatchError, match="2 measurements; a target is learned from 3 or more"):
        adapting.adapted(base, FACTS, [(seen[0], 1.0), (seen[1], 2.0)], "board")


def test_adapt_on_the_command_line(wild, tmp_path, capsys) -> None:
    file = tmp_path / "w.safetensors"
    save(wild, FACTS, file)
    lines = []
    for index in range(10):
        drawn = network(7, index)[1]
        write_tflite(drawn, tmp_path / f"{index}.tflite")
        cycles = float(passes_of(drawn, cost.target("ethos-u55-64")).cycles.sum())
        lines.append(f"{index}.tflite, {2e-6 * cycles}")
    measured = tmp_path / "m.csv"
    measured.write_text("\n".join(lines) + "\n")
    words = ["cost", "adapt", str(measured), "--target", "ethos-u55-64", "--base", str(file)]
    out = tmp_path / "new.safetensors"
    assert main([*words, "--out", str(out)]) == 0
    assert "ethos-u55-64, 10 networks" in capsys.readouterr().out
    found = cost.estimate(
        network(7, 3)[1], cost.target("ethos-u55-64"), method="learned", weights=str(out)
    )
    assert found.target == "ethos-u55-64"
    measured.write_text("0.tflite; 3")
    assert main([*words, "--out", str(out)]) == 1
    assert "line 1: '0.tflite; 3'; expected FILE.tflite, milliseconds" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "new.bin")]) == 1
    assert "ends in .safetensors" in capsys.readouterr().err


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    noise=st.floats(0.0, 0.3),
    units=st.floats(0.0, 0.5),
    whole=st.floats(-1.0, 1.0),
)
def test_ten_measurements_never_make_it_much_worse(seed, noise, units, whole, many) -> None:
    """Whatever the device is like: noise of each network, other units, another clock."""
    rng = np.random.default_rng(seed)
    base = Predictor()
    base.fit_ranges(batch(many).features)
    places = [NAMES.index(f"unit {name}") for name in UNITS]
    own = np.exp(whole + units * rng.standard_normal(len(places))).astype(np.float32)
    truth = np.array(
        [
            float((one.cycles * (one.features[:, places] @ own)).sum())
            * math.exp(noise * rng.standard_normal())
            for one in many
        ]
    )
    order = rng.permutation(len(many))
    ten = [(many[place], truth[place]) for place in order[:10]]
    found, _ = adapting.adapted(base, FACTS, ten, "board")
    rest = order[10:]
    left = [many[place] for place in rest]
    after, before = (error(one, left, truth[rest]) for one in (found, base))
    assert after < 1.25 * before + 0.01
    if abs(whole) > 0.5 and noise < 0.1 and units < 0.2:
        assert after < before / 2
