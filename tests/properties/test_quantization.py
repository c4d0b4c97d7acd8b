"""The quantization core on matrices of every awkward size: what must hold whatever the numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import MismatchError, UnknownNameError, UnsafeFileError
from zoo.quantization.core import (
    Hessian,
    LayerOptions,
    QuantizedMatrix,
    prepare,
    quantize_matrix,
    stored_bits,
)
from zoo.quantization.kmeans import distortion, fit_codebooks, lloyd, nearest, seeds
from zoo.quantization.packing import pack, packed_bytes, unpack

FAST = {"iterations": 4, "update_steps": 2}
VARIANTS = [
    {"method": "rtn", "bits": 4},
    {"method": "gptq", "bits": 3, "act_order": True},
    {"method": "gptvq", "dim": 1, "bits": 3, "group_size": 128},
    {"method": "gptvq", "dim": 1, "bits": 2, "group_size": 60, "codebook_rank": -1, "rounds": 1},
    {"method": "gptvq", "dim": 1, "bits": 3, "codebook_rank": 3, "act_order": True},
    {"method": "gptvq", "dim": 2, "bits": 2.5, "group_size": 512, "rounds": 1},
    {"method": "gptvq", "dim": 2, "bits": 2, "group_size": 500, "scale_block": 16, "rounds": 1},
    {"method": "gptvq", "dim": 4, "bits": 1, "codebook_bits": 16, "act_order": True},
]


def case(rows: int, columns: int, seed: int = 0, tokens: int = 400) -> tuple[Tensor, Tensor]:
    """Return a weight, and the Hessian of inputs whose columns are correlated."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    hessian = Hessian(columns)
    hessian.update(torch.randn(tokens, columns, generator=generator) @ (mix + torch.eye(columns)))
    return torch.randn(rows, columns, generator=generator), hessian.finish()


def plain(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@given(st.integers(1, 8), st.integers(1, 5), st.integers(0, 40), st.integers(0, 9))
def test_packing_round_trips(bits: int, rows: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(0, 1 << bits, (rows, count), generator=generator)
    stream = pack(values, bits)
    assert stream.shape == (rows, math.ceil(count * bits / 8))
    assert torch.equal(unpack(stream, bits, count).long(), values)
    # the layout is a plain little-endian stream of bits
    for row, stored in zip(values.tolist(), stream.tolist(), strict=True):
        number = sum(value << (bits * place) for place, value in enumerate(row))
        assert number.to_bytes(len(stored), "little") == bytes(stored)


def test_bits_behind_the_last_code_are_refused() -> None:
    stream = pack(torch.ones(1, 3, dtype=torch.int64), 3)
    stream[0, 1] |= 0x80
    with pytest.raises(UnsafeFileError, match="after the last"):
        unpack(stream, 3, 3)


@settings(max_examples=40)
@given(
    st.sampled_from(range(len(VARIANTS))),
    st.integers(1, 40),
    st.integers(1, 80),
    st.integers(0, 9),
)
def test_stored_tensors_round_trip_and_are_as_long_as_said(
    variant: int, rows: int, columns: int, seed: int
) -> None:
    weight, hessian = case(rows, columns, seed)
    options = LayerOptions(**(FAST | VARIANTS[variant]))
    matrix = quantize_matrix(weight, hessian, options)
    tensors = matrix.tensors()
    assert not any(tensor.is_floating_point() for tensor in tensors.values())
    assert 8 * plain(tensors) == matrix.bits == stored_bits((rows, columns), options)
    again = QuantizedMatrix.from_tensors(tensors, (rows, columns), options)
    assert torch.equal(again.codes, matrix.codes)
    assert torch.equal(again.dequantize(), matrix.dequantize())
    assert matrix.dequantize().shape == weight.shape
    assert LayerOptions.from_dict(options.to_dict()) == options
    assert matrix.report is not None
    error = weight - matrix.dequantize()
    relative = ((error @ hessian) * error).sum() / ((weight @ hessian) * weight).sum()
    assert matrix.report.relative_error == pytest.approx(relative.item(), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_tensors_that_were_tampered_with_are_refused(variant: int) -> None:
    weight, hessian = case(12, 40)
    options = LayerOptions(**(FAST | VARIANTS[variant]))
    good = quantize_matrix(weight, hessian, options).tensors()
    for name, tensor in good.items():
        without = {key: value for key, value in good.items() if key != name}
        for damaged in (
            without,
            without | {name: tensor[:-1]},
            without | {name: tensor.to(torch.float32)},
            good | {"other": tensor},
        ):
            with pytest.raises(UnsafeFileError):
                QuantizedMatrix.from_tensors(damaged, (12, 40), options)
    halves = [name for name, tensor in good.items() if tensor.dtype == torch.int16]
    for name in halves:
        infinite = torch.full_like(good[name], 0x7C00)
        with pytest.raises(UnsafeFileError, match="infinity"):
            QuantizedMatrix.from_tensors(good | {name: infinite}, (12, 40), options)
    if options.act_order:
        twice = torch.zeros_like(good["order"])
        with pytest.raises(UnsafeFileError, match="permutation"):
            QuantizedMatrix.from_tensors(good | {"order": twice}, (12, 40), options)


def test_codes_out_of_range_are_refused() -> None:
    weight, hessian = case(8, 16)
    matrix = quantize_matrix(weight, hessian, LayerOptions(bits=2, **FAST))
    with pytest.raises(UnsafeFileError, match="out of range"):
        QuantizedMatrix(matrix.codes + 16, matrix.parameters, matrix.grid, matrix.options)


@pytest.mark.parametrize("dim", [1, 2, 4])
@pytest.mark.parametrize("seeding", ["normal", "mahalanobis", "kmeans++"])
def test_kmeans_never_gets_worse(dim: int, seeding: str) -> None:
    generator = torch.Generator().manual_seed(dim)
    points = torch.randn(3, 300, dim, generator=generator)
    weights = torch.rand(3, 300, dim, generator=generator) + 0.01
    codebook = seeds(points, weights, 16, seeding, 0)
    last = distortion(points, weights, codebook)
    first = last
    for _ in range(12):
        codebook = lloyd(points, weights, codebook, 1)
        now = distortion(points, weights, codebook)
        assert (now <= last * (1 + 1e-5)).all()
        last = now
    assert (last < 0.95 * first).any()
    settled = lloyd(points, weights, codebook, 500)
    assert torch.equal(settled, lloyd(points, weights, settled, 1))


def test_empty_clusters_keep_their_centroid() -> None:
    points = torch.randn(1, 50, 2, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([[[0.0, 0.0], [100.0, 100.0]]])
    moved = lloyd(points, torch.ones_like(points), far, 5)
    torch.testing.assert_close(moved[0, 0], points[0].mean(0))
    assert torch.equal(moved[0, 1], far[0, 1])


@given(st.integers(1, 4), st.integers(1, 30), st.booleans(), st.integers(0, 99))
def test_nearest_is_the_nearest(dim: int, count: int, full: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(2, count, dim, generator=generator, dtype=torch.float64)
    codebook = torch.randn(2, 8, dim, generator=generator, dtype=torch.float64)
    root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    metric = root @ root.T + torch.eye(dim) if full else torch.rand(dim, generator=generator) + 0.1
    square = metric if full else torch.diag(metric)
    difference = points.unsqueeze(2) - codebook.unsqueeze(1)
    distance = ((difference @ square.to(difference)) * difference).sum(3)
    assert torch.equal(nearest(points, metric.to(points), codebook), distance.argmin(2))


def test_a_group_with_no_more_distinct_vectors_than_centroids_is_lossless() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-60, 60, (16, 2), generator=generator) / 8  # exact as halves
    _, hessian = case(1, 40)
    weight = vectors[torch.randint(0, 16, (48, 20), generator=generator)].reshape(48, 40)
    matrix = quantize_matrix(weight, hessian, LayerOptions(codebook_bits=16, group_size=1000))
    assert torch.equal(matrix.dequantize(), weight)
    constant = torch.full((48, 40), 0.375)
    for bits in (8, 16):
        options = LayerOptions(codebook_bits=bits, group_size=1000)
        result = quantize_matrix(constant, hessian, options).dequantize()
        torch.testing.assert_close(result, constant, rtol=1e-3, atol=0)
    for options in (LayerOptions(), LayerOptions(method="gptq", bits=4)):
        zeros = quantize_matrix(torch.zeros(8, 40), hessian, options)
        assert not zeros.dequantize().any()
        assert zeros.report is not None
        assert zeros.report.relative_error == 0


def test_more_centroids_than_points() -> None:
    points = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    codebook = fit_codebooks(points, torch.ones_like(points), 16, iterations=5)
    assert not distortion(points, torch.ones_like(points), codebook).any()


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_the_scale_of_the_hessian_changes_nothing(variant: int) -> None:
    weight, hessian = case(24, 64)
    options = LayerOptions(**(FAST | VARIANTS[variant]))
    matrix = quantize_matrix(weight, hessian, options)
    for factor in (2.0**-20, 2.0**20):
        again = quantize_matrix(weight, hessian * factor, options)
        assert torch.equal(again.codes, matrix.codes)
        torch.testing.assert_close(again.dequantize(), matrix.dequantize(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rounds", [0, 2])
def test_rows_can_be_quantized_apart(rounds: int) -> None:
    weight, hessian = case(96, 64)
    options = LayerOptions(group_size=1024, columns_per_group=32, rounds=rounds, **FAST)
    whole = quantize_matrix(weight, hessian, options)
    ready = prepare(hessian, 64, options)  # shared, as by query, key and value
    parts = [quantize_matrix(rows, ready, options) for rows in weight.split(32)]
    assert torch.equal(torch.cat([part.codes for part in parts]), whole.codes)
    torch.testing.assert_close(
        torch.cat([part.dequantize() for part in parts]), whole.dequantize(), rtol=1e-5, atol=1e-5
    )


def test_rounds_and_updates_only_help() -> None:
    weight, hessian = case(64, 96)
    errors = []
    for extra in ({"update_steps": 0}, {"update_steps": 8}, {"update_steps": 8, "rounds": 3}):
        report = quantize_matrix(weight, hessian, LayerOptions(group_size=512, **extra)).report
        assert report is not None
        errors.append(report.relative_error)
    assert errors[0] > errors[1] > errors[2]


def test_degenerate_hessians() -> None:
    weight, hessian = case(32, 64, tokens=10)  # rank 10 of 64
    dead = hessian.clone()
    dead[5] = dead[:, 5] = 0
    _, sink = case(1, 64)
    sink[3] *= 1000**0.5
    sink[:, 3] *= 1000**0.5
    for method in ("gptq", "gptvq"):
        options = LayerOptions(method=method, bits=3, group_size=64)
        rounded = quantize_matrix(weight, None, options).dequantize()
        for bad in (hessian, dead, sink):
            matrix = quantize_matrix(weight, bad, options)
            assert matrix.report is not None
            assert matrix.report.fallbacks == ()
            error, plain_error = weight - matrix.dequantize(), weight - rounded
            assert ((error @ bad) * error).sum() < ((plain_error @ bad) * plain_error).sum()
        # an input that calibration never saw keeps its weights, roughly
        column = quantize_matrix(weight, dead, options).dequantize()[:, 5]
        assert (column - weight[:, 5]).square().mean() < 0.3 * weight[:, 5].square().mean()


def test_an_expert_without_tokens_is_rounded_and_says_so() -> None:
    weight, _ = case(16, 32)
    matrix = quantize_matrix(weight, Hessian(32).finish(), LayerOptions(**FAST))
    assert matrix.report is not None
    assert "no calibration tokens" in matrix.report.fallbacks[0]
    assert torch.equal(matrix.codes, quantize_matrix(weight, None, LayerOptions(**FAST)).codes)


def test_damping_rises_and_then_gives_up() -> None:
    weight, hessian = case(16, 32)
    options = LayerOptions(**FAST)
    shifted = hessian - torch.eye(32) * (
        torch.linalg.eigvalsh(hessian)[0] + 0.03 * hessian.trace() / 32
    )
    report = quantize_matrix(weight, shifted, options).report
    assert report is not None
    assert report.damp == pytest.approx(0.1)
    assert "damp raised" in report.fallbacks[0]
    indefinite = torch.ones(32, 32) * 1000  # and zeros next to it on the diagonal
    indefinite.fill_diagonal_(1.0)
    report = quantize_matrix(weight, indefinite, options).report
    assert report is not None
    assert "rounded to nearest" in report.fallbacks[0]


def test_bad_input_is_refused() -> None:
    weight, hessian = case(16, 32)
    options = LayerOptions(**FAST)
    for bad in (math.nan, math.inf):
        broken = weight.clone()
        broken[3, 3] = bad
        with pytest.raises(MismatchError, match="weight holds NaN"):
            quantize_matrix(broken, hessian, options)
        broken = hessian.clone()
        broken[3, 3] = bad
        with pytest.raises(MismatchError, match="Hessian holds NaN"):
            quantize_matrix(weight, broken, options)
    with pytest.raises(MismatchError, match="needs \\(32, 32\\)"):
        quantize_matrix(weight, hessian[:-1], options)
    with pytest.raises(MismatchError, match="negative"):
        quantize_matrix(weight, -hessian, options)
    with pytest.raises(MismatchError, match="expected \\(rows, columns\\)"):
        quantize_matrix(weight[0], hessian, options)
    with pytest.raises(MismatchError, match="columns; expected"):
        Hessian(4).update(torch.ones(3, 5))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bits": 3, "dim": 4}, "whole number"),
        ({"bits": 2.3}, "whole number"),
        ({"bits": 2, "dim": 3}, "dim is 3"),
        ({"method": "gptq", "dim": 2}, "takes dim 1"),
        ({"codebook_bits": 4}, "8 or 16"),
        ({"codebook_rank": 2}, "codebook_rank is 2 and dim 2; only codebooks of dim 1"),
        ({"codebook_rank": 4, "dim": 1}, "expected 1 to 3"),
        ({"codebook_rank": -2, "dim": 1}, "expected 1 to 3"),
        ({"codebook_rank": 1, "method": "gptq"}, "only codebooks of dim 1"),
        ({"codebook_rank": 1, "dim": 1, "codebook_bits": 16}, "goes with codebook_bits 8"),
        ({"scale_block": 3}, "multiple of dim"),
        ({"columns_per_group": 9}, "multiple of dim"),
        ({"target_bpv": 3.0, "group_size": 8}, "one of the two"),
        ({"damp": -1.0}, "damp"),
        ({"iterations": -1}, "iterations"),
        ({"group_size": 0}, "group_size"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(MismatchError, match=message):
        LayerOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(MismatchError):
        LayerOptions.from_dict(wrong)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean gptvq"):
        LayerOptions(method="gptvg")
    with pytest.raises(UnknownNameError, match="did you mean group_size"):
        LayerOptions.from_dict({"groupsize": 3})
    with pytest.raises(MismatchError, match="option bits is 'two'"):
        LayerOptions.from_dict({"bits": "two"})


@settings(max_examples=25)
@given(st.sampled_from([1, 2, 4]), st.integers(8, 600), st.integers(8, 600), st.floats(2.02, 3.5))
def test_target_bits_are_met_from_below(dim: int, rows: int, columns: int, target: float) -> None:
    options = LayerOptions(dim=dim, bits=2, target_bpv=target)
    least = rows * packed_bytes(-(-columns // dim), 2 * dim) + (1 << 2 * dim) * dim + 2
    if 8 * least > target * rows * columns:  # even with a single codebook
        with pytest.raises(MismatchError, match="one codebook"):
            stored_bits((rows, columns), options)
    else:
        assert stored_bits((rows, columns), options) <= target * rows * columns


def test_target_bits_are_used() -> None:
    options = LayerOptions(target_bpv=2.25)
    assert 2.2 < stored_bits((576, 576), options) / 576**2 <= 2.25


def test_the_hessian_does_not_depend_on_how_the_data_was_split() -> None:
    inputs = torch.randn(6, 7, 5, generator=torch.Generator().manual_seed(0))
    whole, left, right = Hessian(5), Hessian(5), Hessian(5)
    for window in inputs:
        whole.update(window)
    for window in inputs[:2]:
        right.update(window)
    for window in inputs[2:]:
        left.update(window)
    left.merge(right)
    assert torch.equal(left.finish(), whole.finish())
    flat = inputs.reshape(-1, 5)
    torch.testing.assert_close(whole.finish(), 2 / 42 * flat.T @ flat)
