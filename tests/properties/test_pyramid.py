"""Pyramid vector quantization: indices and points are one to one."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import UnsafeFileError
from zoo.quantization.core import QuantizedMatrix, quantize_matrix
from zoo.quantization.grids.pvq import count, index_of, nearest, point_of
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear
from zoo.quantization.packing import pack, packed_bytes, unpack

RTN = LayerOptions(method="rtn", grid="pvq")
SMALL = [(1, 1), (1, 6), (2, 1), (2, 5), (3, 4), (4, 3), (5, 2), (6, 3)]


def points(dimensions: int, total: int) -> list[tuple[int, ...]]:
    """All points, by trying all."""
    span = range(-total, total + 1)
    return [p for p in itertools.product(span, repeat=dimensions) if sum(map(abs, p)) == total]


@pytest.mark.parametrize(("dimensions", "total"), SMALL)
def test_every_point_has_an_index_and_every_index_a_point(dimensions: int, total: int) -> None:
    every = torch.tensor(points(dimensions, total))
    assert count(dimensions, total) == len(every)
    indices = index_of(every)
    assert sorted(indices.tolist()) == list(range(len(every)))
    assert torch.equal(point_of(indices, dimensions, total), every)
    assert torch.equal(index_of(point_of(torch.arange(len(every)), dimensions, total)),
                       torch.arange(len(every)))  # fmt: skip


def test_counts_are_the_published_ones() -> None:
    # Fischer 1986, table I; and RFC 6716, section 4.3.4.1: V(8, 1) to V(8, 4).
    assert [count(2, k) for k in (1, 2, 3)] == [4, 8, 12]
    assert [count(3, k) for k in (1, 2, 3)] == [6, 18, 38]
    assert [count(8, k) for k in (1, 2, 3, 4)] == [16, 128, 688, 2816]


@given(st.integers(0, 2**24))
@settings(deadline=None)
def test_indices_of_the_format_come_back(index: int) -> None:
    total = quantize_matrix(torch.ones(1, 8), None, RTN).grid.total
    assert count(8, total) <= 1 << 24 < count(8, total + 1)
    index %= count(8, total)
    point = point_of(torch.tensor([index]), 8, total)
    assert point.abs().sum() == total
    assert index_of(point).tolist() == [index]


@given(st.lists(st.floats(-4, 4, width=32), min_size=3, max_size=3), st.integers(1, 5))
@settings(deadline=None)
def test_the_nearest_point_is_nearest(values: list[float], total: int) -> None:
    x = torch.tensor([values])
    found = nearest(x, total)
    assert found.abs().sum() == total
    norm = x.abs().sum()
    if norm < 1e-3:
        return
    scaled = x.double() * total / x.double().abs().sum()
    every = torch.tensor(points(3, total)).double()
    distances = (every - scaled).square().sum(1)
    assert (found - scaled).square().sum() <= distances.min() + 1e-5


def test_a_weight_goes_through_storage() -> None:
    weight = torch.randn(24, 84, generator=torch.Generator().manual_seed(0))  # ragged
    weight[2] = 0
    matrix = quantize_matrix(weight, None, RTN)
    assert matrix.codes.dtype == torch.int32
    assert matrix.bits == 8 * 24 * 11 * 4  # three bytes of index and one of gain
    values = matrix.dequantize()
    assert not values[2].any()
    assert (values - weight).square().mean() / weight.square().mean() < 0.025
    layer = PackedLinear.of(matrix)
    layer.check()
    assert torch.equal(layer.dequantize(), values)
    assert torch.equal(
        QuantizedMatrix.from_tensors(matrix.tensors(), (24, 84), RTN).dequantize(), values
    )
    # Positive factors that are powers of two change gains only.
    assert torch.equal(quantize_matrix(8 * weight, None, RTN).codes, matrix.codes)


def test_error_feedback_helps_here_too() -> None:
    dice = torch.Generator().manual_seed(1)
    weight, x, mix = (torch.randn(n, 64, generator=dice) for n in (32, 300, 64))
    x = x @ mix
    hessian = 2 / len(x) * x.T @ x
    ours = quantize_matrix(weight, hessian, LayerOptions(method="gptq", grid="pvq"))
    plain = quantize_matrix(weight, hessian, RTN)
    assert ours.report.relative_error < 0.8 * plain.report.relative_error


def test_what_names_no_point_is_refused() -> None:
    matrix = quantize_matrix(torch.randn(4, 16), None, RTN)
    for tensor, value, match in (("codes", 255, "codes out of table"), ("gain", 0, "gain holds 0")):
        stored = matrix.tensors()
        stored[tensor][:] = value
        with pytest.raises(UnsafeFileError, match=match):
            QuantizedMatrix.from_tensors(stored, (4, 16), RTN)
        layer = PackedLinear(16, 4, RTN)
        layer.load_state_dict(stored)
        with pytest.raises(UnsafeFileError, match=match):
            layer.check()


@given(st.lists(st.integers(0, 2**24 - 1), min_size=1, max_size=9))
def test_wide_integers_are_packed_to_bytes(values: list[int]) -> None:
    row = torch.tensor([values])
    for bits in (24, 32):
        stream = pack(row, bits)
        assert stream.shape == (1, packed_bytes(len(values), bits))
        assert unpack(stream, bits, len(values)).tolist() == [values]
