"""Fusion by hand and by its laws; the interference report by brute force."""

from pathlib import Path

import pytest
import torch
from torch import nn

from zoo.adapters import SparseAdapter, compare, fuse
from zoo.adapters.fusion import STRATEGIES
from zoo.errors import MismatchError, UnknownNameError

BASE = {"w": torch.zeros(2, 4)}
#          position:     0     1     2     3     4
A = ([0, 1, 2, 3], [1.0, 2.0, -3.0, 1.0])
B = ([1, 2, 3, 4], [4.0, 2.0, -1.0, 8.0])
C = ([2, 3], [2.0, -2.0])


def made(**given: tuple[list[int], list[float]]) -> dict[str, SparseAdapter]:
    return {
        name: SparseAdapter.from_tensors({"w": pair}, BASE, metadata={"base": {"repo": "r"}})
        for name, pair in given.items()
    }


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("sum", [1, 6, 1, -2, 8]),
        ("mean", [1, 3, 1 / 3, -2 / 3, 8]),
        ("ties", [1, 3, 2, -1.5, 8]),
        ("max-abs", [1, 4, -3, -2, 8]),
        ("priority", [1, 2, -3, 1, 8]),
    ],
)
def test_strategies_by_hand(strategy: str, expected: list[float]) -> None:
    found = fuse(made(a=A, b=B, c=C), BASE, strategy=strategy)
    tensor = found.tensors["w"]
    assert tensor.indices.tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(tensor.values, torch.tensor(expected, dtype=torch.float32))
    assert found.metadata["base"] == {"repo": "r"}
    assert found.metadata["fusion"]["strategy"] == strategy
    found.check(BASE)


def test_priority_goes_by_order_then_weight() -> None:
    adapters = made(a=A, b=B)
    by_weight = fuse(adapters, BASE, {"a": 0.5, "b": 1.0}, "priority").tensors["w"]
    assert by_weight.values.tolist() == [0.5, 4.0, 2.0, -1.0, 8.0]
    by_order = fuse(adapters, BASE, {"a": 0.5}, "priority", order=["a"]).tensors["w"]
    assert by_order.values.tolist() == [0.5, 1.0, -1.5, 0.5, 8.0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_given_does_not_matter(strategy: str) -> None:
    torch.manual_seed(0)
    base = {"w": torch.randn(40, 50)}
    adapters = {
        name: SparseAdapter.from_tensors(
            {"w": (torch.randperm(2000)[:600], torch.randn(600))}, base
        )
        for name in "dcab"
    }
    weights = {"a": 0.3, "b": -0.7, "d": 1.9}
    one = fuse(adapters, base, weights, strategy)
    two = fuse(dict(sorted(adapters.items())), base, dict(reversed(weights.items())), strategy)
    assert torch.equal(one.tensors["w"].indices, two.tensors["w"].indices)
    assert torch.equal(one.tensors["w"].values, two.tensors["w"].values)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "dare"])
def test_disjoint_adapters_do_not_know_of_each_other(strategy: str) -> None:
    adapters = made(a=([0, 2], [1.0, 2.0]), b=([1, 7], [3.0, 4.0]))
    found = fuse(adapters, BASE, {"b": 0.5}, strategy).tensors["w"]
    assert found.values.tolist() == [1.0, 1.5, 2.0, 2.0]


def test_dare_keeps_the_mean_and_the_seed() -> None:
    base = {"w": torch.zeros(100_000)}
    adapter = SparseAdapter.from_tensors({"w": (range(100_000), torch.ones(100_000))}, base)
    found = [
        fuse({"a": adapter}, base, strategy="dare", density=0.25, seed=seed).tensors["w"]
        for seed in (1, 1, 2)
    ]
    assert set(found[0].values.tolist()) == {4.0}
    # 25 000 expected, standard deviation 137
    assert abs(found[0].nnz - 25_000) < 6 * 137
    assert torch.equal(found[0].indices, found[1].indices)
    assert not torch.equal(found[0].indices[:100], found[2].indices[:100])


def test_weight_zero_takes_no_part() -> None:
    found = fuse(made(a=A, b=B), BASE, {"b": 0.0}, "mean").tensors["w"]
    assert found.values.tolist() == A[1]


def test_wrong_names_are_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean max-abs"):
        fuse(made(a=A), BASE, strategy="maxabs")
    with pytest.raises(UnknownNameError, match="'b'"):
        fuse(made(a=A), BASE, {"b": 1.0})
    with pytest.raises(MismatchError, match="density"):
        fuse(made(a=A), BASE, strategy="dare", density=0.0)
    with pytest.raises(MismatchError, match="finite"):
        fuse(made(a=A), BASE, {"a": float("nan")})


@pytest.mark.parametrize("weight", ["much", None, 1j, [0.5], 10**400, float("inf")])
def test_a_weight_that_is_no_finite_number_is_refused(weight: object) -> None:
    with pytest.raises(MismatchError, match=r"the weight of a is .*; expected a finite number"):
        fuse(made(a=A), BASE, {"a": weight})


def test_a_weight_beyond_the_range_of_the_changes_is_refused() -> None:
    with pytest.raises(MismatchError, match=r"the weight of b is 1e\+39, .* beyond the range"):
        fuse(made(a=A, b=B), BASE, {"a": 1.0, "b": 1e39})


def test_what_fusing_cannot_use_is_refused_in_one_line() -> None:
    with pytest.raises(MismatchError, match=r"weights are .*; expected numbers by name"):
        fuse(made(a=A), BASE, ["a"])
    with pytest.raises(UnknownNameError, match="unknown adapter 3"):
        fuse(made(a=A), BASE, {3: 1.0})
    with pytest.raises(MismatchError, match="order is 'a'; expected names"):  # not its letters
        fuse(made(a=A, b=B), BASE, strategy="priority", order="a")
    with pytest.raises(UnknownNameError, match=r"'c' .*order names given adapters"):
        fuse(made(a=A, b=B), BASE, strategy="priority", order=["c"])
    with pytest.raises(MismatchError, match="density is 'half'"):
        fuse(made(a=A), BASE, strategy="dare", density="half")
    for both in ({"a": "looks-oil"}, {"a": "looks-oil", "b": "looks-film"}):
        with pytest.raises(MismatchError, match="the adapter 'a' is a str; expected a Sparse"):
            (compare if len(both) > 1 else fuse)(both, BASE)


def test_the_report_equals_brute_force() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 20, bias=False), nn.Linear(20, 10))
    dense: dict[str, dict[str, torch.Tensor]] = {}
    adapters = {}
    for name, keys in (("a", ("0.weight", "1.bias")), ("b", ("0.weight", "1.weight"))):
        given, dense[name] = {}, {}
        for key, p in model.named_parameters():
            mask = (torch.rand(p.numel()) < 0.3) & torch.tensor(key in keys)
            where = mask.nonzero().view(-1)
            given[key] = (where, torch.randn(len(where)))
            dense[name][key] = torch.zeros(p.numel()).index_copy(0, *given[key]).view(p.shape)
        adapters[name] = SparseAdapter.from_tensors(given, model)
    report = compare(adapters, model, {"b": 0.5}, orthogonality=True)
    found = report.pairs["a", "b"]
    a = torch.cat([v.view(-1) for v in dense["a"].values()]).double()
    b = torch.cat([v.view(-1) for v in dense["b"].values()]).double() * 0.5
    both, clash = (a != 0) & (b != 0), a * b < 0
    assert (found.overlap, found.conflicts) == (int(both.sum()), int(clash.sum()))
    assert found.overlap > 30
    assert found.jaccard == pytest.approx(int(both.sum()) / int(((a != 0) | (b != 0)).sum()))
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), rel=1e-6)
    assert found.energy_ratio == pytest.approx(
        float((a + b).square().sum() / (a.square().sum() + b.square().sum())), rel=1e-6
    )
    energy = a.square() + b.square()
    assert found.conflict_share == pytest.approx(
        float(energy[clash].sum() / energy.sum()), rel=1e-6
    )
    product = dense["a"]["0.weight"].T @ dense["b"]["0.weight"] * 0.5
    other = report.orthogonality["a", "b"]
    assert other.awom == pytest.approx(float(product.norm()), rel=1e-5)
    m, n = 30 * 30, 20 * 20
    zeros = int((product.abs() < 1e-12).sum()) + n  # the second layer's matrix: "a" is not there
    assert other.awor == pytest.approx(zeros / (m + n), abs=1e-6)


def test_awor_is_arithmetic_of_densities() -> None:
    """The figures of the reference: 0.951 / 0.902 / 0.814 for widths 512 / 1024 / 2048 at 1 %."""
    for width, expected in ((512, 0.951), (1024, 0.902)):
        base = {"w": torch.zeros(width, width)}
        count = width * width // 100
        adapters = {
            name: SparseAdapter.from_tensors(
                {"w": (torch.randperm(width * width)[:count], torch.randn(count))}, base
            )
            for name in "ab"
        }
        found = compare(adapters, base, orthogonality=True).orthogonality["a", "b"]
        assert found.awor == pytest.approx(expected, abs=0.003)
        assert found.baseline == pytest.approx((1 - 1e-4) ** width, abs=0.001)


def test_losses_are_measured_and_the_model_is_left_alone(tmp_path: Path) -> None:
    model = nn.Linear(4, 1, bias=False)
    model.weight.data.zero_()
    given = {"a": ([0], [1.0]), "b": ([1], [2.0])}
    adapters = {n: SparseAdapter.from_tensors({"weight": p}, model) for n, p in given.items()}
    report = compare(adapters, model, {"b": 0.5}, loss=lambda m: m(torch.ones(4)).item())
    assert report.losses == {"base": 0.0, "a": 1.0, "b": 1.0, "fused": 2.0}
    assert not model.weight.any()
    assert not model._forward_hooks
    assert "loss fused" in report.table()
    picture = report.picture(tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size < 100_000
    assert len(picture.getcolors(10**6) or []) > 10
    with pytest.raises(MismatchError, match="two or more"):
        compare({"a": adapters["a"]}, model)
