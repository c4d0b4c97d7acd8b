"""What to use instead of an operator: of operators that exist, and that are not traced."""

import pytest
import torch

from zoo.graph.kinds import ATEN
from zoo.graph.substitutes import SUBSTITUTES

PARTLY = {"adaptive_avg_pool2d", "adaptive_max_pool2d"}  # traced where sizes divide


@pytest.mark.parametrize("name", sorted(SUBSTITUTES))
def test_a_substitute_is_for_an_operator_that_is_refused(name: str) -> None:
    assert hasattr(torch.ops.aten, name)
    assert name not in ATEN or name in PARTLY
    assert not SUBSTITUTES[name].endswith(".")
