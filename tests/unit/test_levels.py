"""Formats of a table and a scale: their tables, as published, and what is refused."""

import itertools
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.compression import catalogue
from zoo.errors import MismatchError, UnknownNameError, UnsafeFileError
from zoo.quantization.core import QuantizedMatrix, quantize_matrix
from zoo.quantization.grids import find, make_grid
from zoo.quantization.grids._tables import nearest
from zoo.quantization.options import FORMATS, LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.solvers import Problem

GOLDEN = tomllib.loads(
    (Path(__file__).parents[1] / "golden" / "low_bits.toml").read_text(encoding="utf-8")
)
TABLES = list(GOLDEN["tables"])


def values(name: str) -> tuple[float | None, ...]:
    return find(name).VALUES


def matrix_of(name: str, rows: int = 8, columns: int = 128, **more: object) -> QuantizedMatrix:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))
    return quantize_matrix(weight, None, LayerOptions(method="rtn", grid=name, **more))


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_those_published(name: str) -> None:
    wanted = [None if value == "none" else value for value in GOLDEN["tables"][name]]
    assert list(values(name)) == wanted


def test_posit4_is_what_softposit_computes() -> None:
    softposit = pytest.importorskip("softposit")
    for code, value in enumerate(values("posit4")):
        wide = softposit.posit8(bits=code << 4)  # es 0 too: bits appended to a posit are zeros
        if value is None:
            assert code == 8
            assert wide.isNaR()
        else:
            assert float(wide) == value


@pytest.mark.parametrize("name", TABLES)
@given(numbers=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_every_number_goes_to_a_nearest_value_and_ties_to_an_even_code(
    name: str, numbers: list[float]
) -> None:
    table = values(name)
    known = [value for value in table if value is not None]
    for number, code in zip(numbers, nearest(torch.tensor(numbers), table).tolist(), strict=True):
        value = table[code]
        assert value is not None
        assert abs(value - number) <= min(abs(other - number) for other in known) * (1 + 1e-6)
    ordered = sorted(set(known))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(ordered)]
    if name != "nf4":  # whose values are no sums of a few powers of two
        codes = nearest(torch.tensor(middles), table).tolist()
        firsts = {value: code for code, value in reversed(list(enumerate(table)))}
        for middle, code in zip(middles, codes, strict=True):
            below = max(v for v in ordered if v < middle)
            above = min(v for v in ordered if v > middle)
            evens = [firsts[v] for v in (below, above) if firsts[v] % 2 == 0]
            assert code in (evens or [firsts[below], firsts[above]])


def test_the_scale_is_better_than_the_one_that_just_covers_the_group() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for name in TABLES:
        grid = make_grid(LayerOptions(method="rtn", grid=name), 64, 64)
        ones = torch.ones(64)
        fitted = grid.fit(weight, ones)
        top = max(value for value in values(name) if value is not None)
        cover = {"scale": (weight.abs().amax(1) / top).half().float()}
        errors = [
            (weight - grid.decode_group(g, grid.encode(g, weight, ones))).square().sum(1)
            for g in (fitted, cover)
        ]
        assert (errors[0] <= errors[1]).all()
        assert errors[0].sum() < errors[1].sum()


def test_mixed_takes_the_table_of_less_weighted_error() -> None:
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(1)).pow(3)
    importance = torch.rand(64, generator=torch.Generator().manual_seed(2)).pow(4)
    errors, chosen = {}, None
    for name in ("fixp4", "posit4", "mixed"):
        grid = make_grid(LayerOptions(method="rtn", grid=name), 96, 64)
        group = grid.fit(weight, importance)
        found = grid.decode_group(group, grid.encode(group, weight, importance))
        errors[name] = ((weight - found).square() * importance).sum(1)
        chosen = group.get("table")
    assert chosen is not None
    assert set(chosen.tolist()) == {0.0, 1.0}
    assert torch.equal(chosen == 1, errors["posit4"] < errors["fixp4"])
    assert torch.equal(errors["mixed"], torch.minimum(errors["fixp4"], errors["posit4"]))


def test_without_feedback_errors_count_by_the_diagonal_of_the_hessian() -> None:
    weight, inputs = (torch.randn(n, 64, generator=torch.Generator().manual_seed(n))
                      for n in (64, 300))  # fmt: skip
    inputs = inputs * torch.logspace(-2, 1, 64)
    hessian = 2 / len(inputs) * inputs.T @ inputs
    options = LayerOptions(method="rtn", grid="mixed")
    known, blind = (quantize_matrix(weight, h, options).dequantize() for h in (hessian, None))
    error = Problem(weight, hessian, None).error
    assert error(known).sum() < 0.9 * error(blind).sum()


def test_files_with_codes_that_stand_for_nothing_are_refused() -> None:
    for name, bad in GOLDEN["none"].items():
        matrix = matrix_of(name)
        tensors = matrix.tensors()
        bits = matrix.grid.index_bits
        tensors["codes"][3, 5] = bad  # the lowest bits of the byte
        assert int(tensors["codes"][3, 5]) & ((1 << bits) - 1) == bad
        options = matrix.options
        with pytest.raises(UnsafeFileError, match=f"out of table: {bad} stands for no value"):
            QuantizedMatrix.from_tensors(tensors, matrix.shape, options)
        layer = PackedLinear(128, 8, options)
        layer.load_state_dict(tensors)
        with pytest.raises(UnsafeFileError, match="stands for no value"):
            layer.check()


def test_nar_is_refused_only_where_the_group_is_of_posits() -> None:
    matrix = matrix_of("mixed", rows=64)
    table = matrix.parameters["table"]  # (groups, rows)
    for wanted in (0, 1):
        group, row = (table == wanted).nonzero()[0].tolist()
        tensors = {name: value.clone() for name, value in matrix.tensors().items()}
        tensors["codes"][row, group * 32] = 0x18  # codes 8 and 1
        if wanted:
            with pytest.raises(UnsafeFileError, match="8 stands for no value"):
                QuantizedMatrix.from_tensors(tensors, matrix.shape, matrix.options)
        else:
            read = QuantizedMatrix.from_tensors(tensors, matrix.shape, matrix.options)
            assert torch.isfinite(read.dequantize()).all()


@pytest.mark.parametrize("damage", [0, -1, 31744, 32000])  # zero, NaN, infinity, NaN
def test_scales_that_no_quantization_gives_are_refused(damage: int) -> None:
    layer = PackedLinear.of(matrix_of("nf4"))
    layer.get_buffer("scale")[1, 2] = damage
    with pytest.raises(UnsafeFileError, match="scale holds"):
        layer.check()


def test_zeros_stay_zeros_and_ragged_rows_are_whole() -> None:
    for name in [*TABLES, "mixed"]:
        zero = quantize_matrix(torch.zeros(3, 70), None, LayerOptions(method="rtn", grid=name))
        assert not zero.dequantize().any()
        layer = PackedLinear.of(zero)
        layer.check()
        assert layer.dequantize().shape == (3, 70)


def test_group_sizes_that_do_not_divide_are_refused_with_some_that_do() -> None:
    with pytest.raises(MismatchError, match=r"group_size 50 does not divide 128 columns.*32, 64"):
        matrix_of("posit4", group_size=50)
    assert matrix_of("posit4", group_size=32).grid.span == 32
    assert matrix_of("posit4", group_size=512).grid.span == 128  # the whole row


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"method": "rtn", "grid": "nf4", "bits": 3}, MismatchError, "bits is 3; nf4 has 4"),
        ({"method": "rtn", "grid": "nf4", "dim": 2}, MismatchError, "nf4 takes dim 1"),
        ({"method": "gptvq", "grid": "nf4"}, MismatchError, "gptvq makes codebooks"),
        ({"method": "rtn", "grid": "codebook"}, MismatchError, "go with method='gptvq'"),
        ({"method": "rtn", "grid": "nf5"}, UnknownNameError, "nf4"),
    ],
)
def test_contradictions_are_refused(
    options: dict[str, object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        LayerOptions(**options)


def test_formats_are_methods_by_name() -> None:
    assert catalogue.split("nf4") == ("rtn", {"grid": "nf4"})
    assert catalogue.split("int4") == ("rtn", {"bits": 4})
    assert catalogue.split("gptq-mixed") == ("gptq", {"grid": "mixed"})
    with pytest.raises(UnknownNameError, match="nf4"):
        catalogue.split("nf44")
    for name, changes in FORMATS.items():
        options = LayerOptions(method="gptq", **changes)
        assert LayerOptions.from_dict(options.to_dict()) == options
        assert name in (options.grid, f"int{options.bits:g}")


def test_overrides_change_format_and_bits_together() -> None:
    plan = QuantizationPlan.read(
        "rtn",
        {
            "grid": "nf4",
            "overrides": {
                "a": {"grid": "ternary"},
                "b": {"method": "gptvq"},
                "c": {"grid": "uniform", "bits": 8},
                "d": {"group_size": 32},
                "e": {"method": "gptq"},
            },
        },
    )
    found = {name: plan.of(name) for name in "abcdex"}
    assert [(o.method, o.grid, o.bits, o.group_size) for o in found.values() if o] == [
        ("rtn", "ternary", 2, None),
        ("gptvq", "codebook", 2, None),
        ("rtn", "uniform", 8, None),
        ("rtn", "nf4", 4, 32),
        ("gptq", "nf4", 4, None),
        ("rtn", "nf4", 4, None),
    ]
