"""The benchmark of operations and time: its families are the recipes' networks at other widths."""

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import tinyml_linear as bench
from zoo import registry
from zoo.graph.trace import trace
from zoo.models.mlperf_tiny import AutoEncoder
from zoo.registry.checkpoint import build


@pytest.mark.parametrize(("name", "module"), [
    ("micronet-vww-4", bench.Pyramid(1.0)),
    ("mlperf-tiny-vww", bench.Pairs(8)),
    ("mlperf-tiny-ic", bench.Stacks(16)),
    ("mlperf-tiny-ad", AutoEncoder(640, 128)),
])  # fmt: skip
def test_at_the_recipes_width_it_is_the_recipes_network(name: str, module: nn.Module) -> None:
    recipe = registry.find(name)
    torch.manual_seed(0)
    wanted, found = (trace(m.eval(), recipe.input_shape) for m in (build(recipe), module))
    assert found.macs == wanted.macs
    assert found.parameters == wanted.parameters
    assert [op.kind for op in found.ops] == [op.kind for op in wanted.ops]


def test_every_network_but_the_wake_word_is_in_a_family() -> None:
    names = [name for members in bench.FAMILIES.values() for name, *_ in members()]
    recipes = [n for p in ("micronet-*", "mlperf-tiny-*") for n in registry.names(p)]
    assert set(recipes) - set(names) == {"mlperf-tiny-sww"}
    assert all(len(list(members())) >= 6 for members in bench.FAMILIES.values())


def test_a_line_is_fitted_and_how_well() -> None:
    rows = [{"family": "a", "x": x, "y": 3 * x + 2} for x in (1, 2, 5)]
    line = bench.fit(rows, "x", "y")
    assert (line["slope"], line["start"], line["r2"]) == pytest.approx((3, 2, 1))
    dice = np.random.default_rng(0)
    noisy = [{"x": x, "y": dice.normal()} for x in range(50)]
    assert bench.fit(noisy, "x", "y")["r2"] < 0.2
