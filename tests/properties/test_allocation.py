"""Mixed precision against exhaustive search, and its estimates against what really happens."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.core import Hessian, LayerOptions, quantize_matrix
from zoo.quantization.language.allocate import Choice, allocate, expected_loss, sensitivities

OPTIONS = LayerOptions()
lists = st.lists(
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 10)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(lists, st.integers(0, 90))
def test_allocation_is_feasible_and_near_the_best(
    table: list[list[tuple[int, float]]], budget: int
) -> None:
    choices = {
        str(i): [Choice(OPTIONS, bits, loss) for bits, loss in row] for i, row in enumerate(table)
    }
    feasible = [
        sum(choice.loss for choice in combination)
        for combination in itertools.product(*choices.values())
        if sum(choice.bits for choice in combination) <= budget
    ]
    if not feasible:
        with pytest.raises(MismatchError, match="even the cheapest"):
            allocate(choices, budget)
        return
    found = allocate(choices, budget)
    assert sum(choice.bits for choice in found.values()) <= budget
    loss = sum(choice.loss for choice in found.values())
    # the gap to the optimum is at most the one step that did not fit
    step = max(max(c.loss for c in row) - min(c.loss for c in row) for row in choices.values())
    assert loss <= min(feasible) + step + 1e-9


def test_allocation_is_exact_where_a_step_ends() -> None:
    choices = {
        "a": [Choice(OPTIONS, 2, 8.0), Choice(OPTIONS, 3, 2.0), Choice(OPTIONS, 4, 1.0)],
        "b": [Choice(OPTIONS, 2, 3.0), Choice(OPTIONS, 3, 1.0), Choice(OPTIONS, 4, 0.5)],
    }
    assert [allocate(choices, 5)[name].bits for name in "ab"] == [3, 2]
    assert [allocate(choices, 6)[name].bits for name in "ab"] == [3, 3]
    assert [allocate(choices, 7)[name].bits for name in "ab"] == [4, 3]


class Two(nn.Module):
    """Two linear layers between an embedding and logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(30, 24)
        self.first = nn.Linear(24, 40)
        self.second = nn.Linear(40, 30)

    def forward(self, ids: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(self.embed(ids))))


def test_the_estimate_of_the_loss_is_close_to_the_loss() -> None:
    model = Two()
    ids = torch.randint(0, 30, (40, 50), generator=torch.Generator().manual_seed(0))
    names = ["first", "second"]
    found = sensitivities(model, names, ids, forward=lambda m, x: m(x))
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        wanted = model(ids).log_softmax(-1)
    for name in names:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        hessian = Hessian(layer.in_features)
        hook = layer.register_forward_pre_hook(lambda _, x, h=hessian: h.update(x[0]))
        with torch.no_grad():
            model(ids)
        hook.remove()
        options = LayerOptions(method="rtn", bits=4, group_size=8)
        matrix = quantize_matrix(layer.weight, hessian.finish(), options)
        expected = expected_loss(layer.weight, hessian.finish(), matrix, found[name])
        kept = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.copy_(matrix.dequantize())
            divergence = (wanted.exp() * (wanted - model(ids).log_softmax(-1))).sum(-1).mean()
            layer.weight.copy_(kept)
        assert expected == pytest.approx(divergence.item(), rel=0.3)


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(MismatchError, match="third"):
        sensitivities(Two(), ["third"], torch.zeros(1, 4, dtype=torch.int64))
