"""Structured LSTM and GRU against torch's, and the papers' networks counted to the byte."""

import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.models.structured.composed import BlocksForm, RowsForm
from zoo.models.structured.forms import DenseForm, Form, KronForm, LowRankForm
from zoo.models.structured.recurrent import (
    Recurrent,
    StructuredGRU,
    StructuredLSTM,
    full_rank_factors,
)

GOLDEN = tomllib.loads(
    (Path(__file__).parents[1] / "golden" / "compression.toml").read_text(encoding="utf-8")
)
FORMS = {
    "dense": (DenseForm(), DenseForm()),
    "lmf": (LowRankForm(2), LowRankForm(3)),
    "kp": (KronForm(4, 3), KronForm(4, 2)),
    "hkp": (RowsForm(1, LowRankForm(1), 1), RowsForm(2, LowRankForm(2), 1)),
}


@pytest.mark.parametrize("of", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("kind", [StructuredLSTM, StructuredGRU])
def test_steps_are_those_of_torch(kind: type[Recurrent], of: tuple[Form, Form]) -> None:
    torch.manual_seed(0)
    layer, x = kind(6, 8, *of), torch.randn(3, 7, 6)
    theirs = (nn.LSTM if kind is StructuredLSTM else nn.GRU)(6, 8, batch_first=True)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(layer.of_inputs.matrix())
        theirs.weight_hh_l0.copy_(layer.of_state.matrix())
        theirs.bias_ih_l0.copy_(layer.of_inputs.bias)
        theirs.bias_hh_l0.copy_(0 if layer.of_state.bias is None else layer.of_state.bias)
    wanted, after = theirs(x)
    outputs, state = layer(x)
    torch.testing.assert_close(outputs, wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(layer.trained(x), wanted, atol=1e-6, rtol=1e-5)
    last = after if isinstance(after, tuple) else (after,)
    for ours, its in zip(state, last, strict=True):
        torch.testing.assert_close(ours, its[0], atol=1e-6, rtol=1e-5)
    first, between = layer(x[:, :3])  # a stream in two pieces
    second, _ = layer(x[:, 3:], between)
    torch.testing.assert_close(torch.cat([first, second], 1), outputs)
    layer.trained(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", ["mnist-lstm", "kws-lstm", "har1-bilstm"])
def test_the_papers_networks_to_the_byte(name: str) -> None:
    golden = GOLDEN[name]
    inputs, hidden, classes, directions = golden["sizes"]
    layer = StructuredLSTM(inputs, hidden, DenseForm(), DenseForm())
    head = nn.Linear(directions * hidden, classes)
    numbers = directions * layer.count() + sum(p.numel() for p in head.parameters())
    assert numbers == golden["numbers"]
    assert round(4 * numbers / 1024, 2) == golden["kilobytes"]


@pytest.mark.parametrize(
    ("m", "n", "r", "rank"), GOLDEN["hybrid-rank"]["square"] + GOLDEN["hybrid-rank"]["gates"]
)
def test_dense_rows_double_the_rank_at_equal_count(m: int, n: int, r: int, rank: int) -> None:
    rows = rank - 1
    low, form = LowRankForm(r), RowsForm(rows, LowRankForm(1))
    assert form.rank_bound(m, n) == rank
    assert form.count(m, n) <= low.count(m, n) < RowsForm(rows + 1, LowRankForm(1)).count(m, n)
    torch.manual_seed(0)
    factors = {name: f.double() for name, f in form.drawn(m, n, 1.0).items()}
    assert torch.linalg.matrix_rank(form.weight(factors)) == rank


@pytest.mark.parametrize(("m", "n", "numbers"), GOLDEN["kronecker"]["factors"])
def test_the_smallest_factors_of_full_rank(m: int, n: int, numbers: int) -> None:
    form = full_rank_factors(m, n)
    assert form.count(m, n) == numbers
    assert form.rank_bound(m, n) == min(m, n)
    first = form.a * form.b  # the larger factor belongs second
    assert first <= numbers - first
    assert form.macs(m, n) <= KronForm(m // form.a, n // form.b).macs(m, n)
    assert KronForm(2, 40).count(160, 40) == 160  # as few numbers, of rank 2
    assert KronForm(2, 40).rank_bound(160, 40) == 2


def test_the_published_variants_count_as_the_sheet_says() -> None:
    """The LSTM of 28 inputs and 40 units: numbers of both matrices, without biases."""

    def numbers(of_inputs: Form, of_state: Form) -> int:
        return of_inputs.count(160, 28) + of_state.count(160, 40)

    kron = full_rank_factors(160, 28), full_rank_factors(160, 40)
    assert numbers(*kron) == GOLDEN["kronecker"]["mnist-lstm"]
    assert numbers(DenseForm(), DenseForm()) == 10880
    assert numbers(LowRankForm(5), LowRankForm(5)) == 1940
    block = BlocksForm(4, LowRankForm(1))
    assert numbers(RowsForm(5, block, 4), RowsForm(5, block, 4)) == 1912
    assert RowsForm(5, block, 4).rank_bound(160, 40) == 24
