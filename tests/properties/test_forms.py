"""Every form of a matrix: two ways to the same numbers, counts, fits and the JSON."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lokr.layer import make_kron
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.compression.fit import fit, relative_error, root_of, spectrum
from zoo.errors import MismatchError, UnknownNameError
from zoo.models.structured.composed import FORMS, BlocksForm, RowsForm, SumForm, from_json
from zoo.models.structured.forms import DenseForm, Form, KronForm, LowRankForm
from zoo.models.structured.layers import StructuredConv2d, StructuredLinear

M, N = 24, 12
LOW = LowRankForm(3)
EVERY = [
    DenseForm(), LOW, LowRankForm(0), LowRankForm(12), LowRankForm(2, "diag"),
    LowRankForm(4, "full"), KronForm(4, 3), KronForm(1, 1), KronForm(24, 12), KronForm(6, 2),
    RowsForm(2, LOW), RowsForm(2, LowRankForm(1), gates=4), RowsForm(2, KronForm(4, 3), gates=4),
    BlocksForm(4, LowRankForm(1)), RowsForm(2, BlocksForm(4, LowRankForm(1)), gates=4),
    SumForm((LowRankForm(1), KronForm(4, 3))), SumForm((LOW, LowRankForm(2))),
]  # fmt: skip
every = pytest.mark.parametrize("form", EVERY, ids=str)
JOINT = {SumForm((LowRankForm(1), KronForm(4, 3)))}  # whose best parts are not known in one go


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def forms(m: int, n: int, depth: int = 2) -> st.SearchStrategy[Form]:
    """Any form that fits a matrix (m, n)."""
    ways: list[st.SearchStrategy[Form]] = [
        st.just(DenseForm()),
        st.builds(LowRankForm, st.integers(0, min(m, n)), st.sampled_from(["", "diag", "full"])),
        st.builds(KronForm, st.sampled_from(divisors(m)), st.sampled_from(divisors(n))),
    ]
    if depth:
        inner = forms(m, n, depth - 1)
        ways.append(st.lists(inner, min_size=1, max_size=3).map(lambda p: SumForm(tuple(p))))
        ways.append(
            st.sampled_from(divisors(m)).flatmap(
                lambda k: forms(m // k, n, depth - 1).map(lambda below: BlocksForm(k, below))
            )
        )
        if gates := [g for g in divisors(m) if m // g > 1]:
            ways.append(
                st.sampled_from(gates).flatmap(
                    lambda g: st.integers(1, m // g - 1).flatmap(
                        lambda d: forms(m - g * d, n, depth - 1).map(
                            lambda below: RowsForm(d, below, g)
                        )
                    )
                )
            )
    return st.one_of(ways)


sized = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(
    lambda s: forms(*s).map(lambda form: (form, *s))
)


@given(sized, st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_any_form_applies_as_its_weight(case: tuple[Form, int, int], seed: int) -> None:
    form, m, n = case
    torch.manual_seed(seed)
    factors = {name: torch.randn(s).double() for name, s in form.shapes(m, n).items()}
    x, bias = torch.randn(2, 3, n).double(), torch.randn(m).double()
    weight = form.weight(factors)
    assert weight.shape == (m, n)
    torch.testing.assert_close(form.apply(factors, x), x @ weight.T, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(
        form.apply(factors, x, bias), x @ weight.T + bias, atol=1e-12, rtol=1e-12
    )
    assert form.count(m, n) == sum(f.numel() for f in factors.values())
    assert torch.linalg.matrix_rank(weight) <= form.rank_bound(m, n) <= min(m, n)
    assert from_json(json.loads(json.dumps(form.to_json()))) == form
    drawn = form.drawn(m, n, 1.0)
    assert {k: tuple(v.shape) for k, v in drawn.items()} == form.shapes(m, n)


@every
def test_multiply_accumulates_are_those_that_run(form: Form) -> None:
    factors = form.drawn(M, N, 1.0)
    with FlopCounterMode(display=False) as counter:
        form.apply(factors, torch.randn(1, N))
    scaled = 2 * form.rank if form == LowRankForm(2, "diag") else 0  # not counted by torch
    assert 2 * form.macs(M, N) == counter.get_total_flops() + scaled


@every
def test_as_large_as_the_layers_of_torch_and_its_rank_is_reached(form: Form) -> None:
    torch.manual_seed(0)
    many = [form.weight(form.drawn(M, N, 0.25)) for _ in range(200)]
    stacked = torch.stack(many)
    if form.rank_bound(M, N):
        assert stacked.var().item() == pytest.approx(0.25, rel=0.25)
        assert torch.linalg.matrix_rank(many[0]) == form.rank_bound(M, N)


def inputs(seed: int = 0, n: int = N) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, n, generator=generator) @ torch.randn(n, n, generator=generator)
    return x.T @ x / 400


@every
@pytest.mark.parametrize("seen", [False, True])
def test_a_weight_of_the_form_is_fitted_exactly(form: Form, seen: bool) -> None:
    torch.manual_seed(1)
    weight = form.weight({k: v.double() for k, v in form.drawn(M, N, 1.0).items()})
    found = fit(form, weight, inputs() if seen else None)
    if form not in JOINT:
        assert found.error < 1e-10
    other = torch.randn(M, N)
    found = fit(form, other, inputs() if seen else None)
    root = root_of(inputs() if seen else None, N)
    error = relative_error(other.double(), form.weight(found.factors).double(), root)
    assert found.error == pytest.approx(error, abs=1e-6)
    assert 0 <= found.error <= 1 + 1e-9


@every
def test_seeing_the_inputs_never_hurts(form: Form) -> None:
    torch.manual_seed(2)
    weight, hessian = torch.randn(M, N).double(), inputs()
    root = root_of(hessian, N)
    plain = fit(form, weight).factors
    blind = relative_error(weight, form.weight(plain), root)
    assert fit(form, weight, hessian).error <= blind * (1 + 1e-6) + 1e-12


def test_the_error_falls_with_size() -> None:
    weight, hessian = torch.randn(M, N), inputs()
    by_rank = [fit(LowRankForm(r), weight, hessian).error for r in range(N + 1)]
    assert by_rank == sorted(by_rank, reverse=True)
    assert by_rank[0] == pytest.approx(1)
    assert by_rank[-1] < 1e-10
    by_rows = [fit(RowsForm(d, LOW), weight, hessian).error for d in (1, 5, 10, 20)]
    assert by_rows == sorted(by_rows, reverse=True)
    by_part = [fit(SumForm((KronForm(4, 3),) * k), weight).error for k in (1, 2, 3)]
    assert by_part == sorted(by_part, reverse=True)


def test_dropped_singular_values_are_the_error_exactly() -> None:
    torch.manual_seed(0)
    weight, root = torch.randn(M, N).double(), root_of(inputs(), N)
    rows = torch.rand(M).double() + 0.1
    found = spectrum(weight, root, rows)
    for rank, loss in enumerate(found.losses()):
        form = LowRankForm(rank)
        error = rows[:, None] * (weight - form.weight(found.cut(form))) @ root
        assert float(error.square().sum()) == pytest.approx(float(loss), rel=1e-9, abs=1e-12)


def test_kron_is_that_of_peft() -> None:
    factors = KronForm(4, 3).drawn(M, N, 1.0)
    theirs = make_kron(factors["a"], factors["b"], 1.0)
    torch.testing.assert_close(KronForm(4, 3).weight(factors), theirs)


@every
def test_a_layer_computes_what_its_dense_one_does(form: Form) -> None:
    layer = StructuredLinear.like(nn.Linear(N, M), form)
    x = torch.randn(5, 7, N)
    torch.testing.assert_close(layer(x), layer.plain()(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in layer.parameters()) == form.count(M, N) + M
    layer(x).square().sum().backward()
    assert all(p.grad is not None or not p.numel() for p in layer.parameters())
    point = StructuredConv2d.like(nn.Conv2d(N, M, 1, 2, bias=False), form)
    x = torch.randn(2, N, 5, 6)
    torch.testing.assert_close(point(x), point.plain()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("middle", ["", "diag", "full"])
@pytest.mark.parametrize(
    "how",
    [{}, {"padding": 1}, {"padding": "same", "dilation": 2}, {"stride": (2, 1), "bias": False}],
    ids=str,
)
def test_a_convolution_of_several_pixels_may_have_low_rank(
    rank: int, middle: str, how: dict[str, object]
) -> None:
    form = LowRankForm(rank, middle)  # type: ignore[arg-type]
    layer = StructuredConv2d.like(nn.Conv2d(3, 6, (3, 2), **how), form)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(layer(x), layer.plain()(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        (LowRankForm(13), r"lowrank\(rank=13, middle=''\) does not fit a matrix of 24 x 12: "
         "expected a rank of 0 to 12"),
        (LowRankForm(-1), "expected a rank of 0 to 12"),
        (KronForm(5, 3), "expected a divisor of 24 and one of 12"),
        (KronForm(0, 3), "expected a divisor"),
        (RowsForm(24, LOW), "expected 1 to 23 dense rows"),
        (RowsForm(0, LOW), "expected 1 to 23 dense rows"),
        (RowsForm(2, LOW, gates=5), "24 rows are not 5 equal gates"),
        (RowsForm(2, LOW, gates=0), "24 rows are not 0 equal gates"),
        (RowsForm(20, LowRankForm(5)), "matrix of 4 x 12: expected a rank of 0 to 4"),
        (BlocksForm(5, LOW), "expected a divisor of 24"),
        (SumForm(()), "expected one part or more"),
        (SumForm((LOW, KronForm(7, 1))), "expected a divisor of 24"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused(form: Form, says: str) -> None:
    for refusing in (form.shapes, form.check):
        with pytest.raises(MismatchError, match=says):
            refusing(M, N)
    with pytest.raises(MismatchError, match=says):
        fit(form, torch.randn(M, N))
    with pytest.raises(MismatchError, match=says):
        StructuredLinear(form, M, N, bias=True)


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], {}, "lowrank", {"lowrank": 3}, {"lowrank": {}}, {"lowrank": {"rank": "3"}},
        {"lowrank": {"rank": 3.0}}, {"lowrank": {"rank": True}},
        {"lowrank": {"rank": 3, "size": 1}}, {"lowrank": {"rank": 3, "middle": "x"}},
        {"lowrank": {"rank": 3}, "dense": {}}, {"sum": {"parts": {"dense": {}}}},
        {"sum": {"parts": [3]}}, {"rows": {"dense": 1, "below": None}},
        {"rows": {"dense": 1, "below": {"lowrank": {"rank": []}}}}, {"dense": None},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_form_is_refused(value: object) -> None:
    with pytest.raises(MismatchError, match="expected"):
        from_json(value)


def test_an_unknown_form_names_the_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown form 'lowrnak'; did you mean lowrank"):
        from_json({"lowrnak": {"rank": 3}}, "blocks.0.fc1")
    assert all(from_json({n: f.to_json()[n]}) == f for f in EVERY for n in FORMS if n == f.NAME)
