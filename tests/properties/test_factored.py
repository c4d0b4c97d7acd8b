"""Codebooks stored as a product of low rank: sorted, tuned, exact, and ordinary once multiplied."""

import pytest
import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.core import Hessian, LayerOptions, QuantizedMatrix, quantize_matrix
from zoo.quantization.grids import make_grid
from zoo.quantization.grids.factored import Factored
from zoo.quantization.kernels.matvec import Matvec, in_order
from zoo.quantization.packed import PackedLinear, decode_codebooks
from zoo.quantization.solvers.contract import Solution
from zoo.quantization.steps.factor import ordered

SHAPE = (48, 96)
OPTIONS = LayerOptions(dim=1, bits=3, group_size=192, iterations=5, codebook_rank=-1)


def case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(96, 96, generator=generator) / 96**0.5 + torch.eye(96)
    hessian = Hessian(96)
    hessian.update(torch.randn(400, 96, generator=generator) @ mix)
    rows = torch.rand(48, 1, generator=generator) + 0.1  # groups of different size
    return torch.randn(SHAPE, generator=generator) * rows, hessian.finish()


def error(options: LayerOptions) -> float:
    report = quantize_matrix(*case(), options).report
    assert report is not None
    return report.relative_error


def test_the_bits_are_those_of_the_formula() -> None:
    assert OPTIONS.codebook_rank == 4
    matrix = quantize_matrix(*case(), OPTIONS)
    grid = matrix.grid
    assert isinstance(grid, Factored)
    groups = len(grid.groups) * grid.row_groups
    assert groups == 48 * 96 // 192
    # codes, an 8-bit integer per group and rank, a half per rank and entry
    assert matrix.bits == 3 * 48 * 96 + 8 * groups * 4 + 16 * 4 * 8
    assert {name: tuple(value.shape) for name, value in matrix.tensors().items()} == {
        "codes": (48, 36),
        "factor": (len(grid.groups), grid.row_groups, 4),
        "basis": (4, 8),
    }


def test_sorting_renames_codes_and_changes_no_value() -> None:
    grid = make_grid(OPTIONS, *SHAPE)
    assert isinstance(grid, Factored)
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(len(grid.groups), grid.row_groups, 8, 1, generator=generator)
    codes = torch.randint(0, 8, SHAPE, generator=generator)
    before = Solution(codes, {"codebook": codebook})
    after = ordered(grid, before)
    assert torch.equal(after.decode(grid), before.decode(grid))
    assert (after.parameters["codebook"].diff(dim=2) >= 0).all()
    assert not torch.equal(after.codes, codes)


def test_rank_tuning_and_rounds_only_help() -> None:
    changes: list[dict[str, int]] = [
        {"codebook_rank": 1, "update_steps": 0},
        {"codebook_rank": 2, "update_steps": 0},
        {"codebook_rank": 2, "update_steps": 6},
        {"codebook_rank": 2, "update_steps": 6, "rounds": 1},
    ]
    errors = [error(LayerOptions.from_dict(OPTIONS.to_dict() | change)) for change in changes]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.95 * errors[1]
    # what seven of eight ranks lose is little compared with what eight 8-bit entries lose
    full = error(LayerOptions(dim=1, bits=3, group_size=192, iterations=5))
    assert error(LayerOptions.from_dict(OPTIONS.to_dict() | {"codebook_rank": 7})) < 1.05 * full


def test_kernels_see_ordinary_codebooks() -> None:
    matrix = quantize_matrix(*case(), OPTIONS)
    layer = PackedLinear.of(matrix)
    codebook, scale = layer.codebooks()
    assert (codebook.dtype, codebook.shape) == (torch.int8, (*scale.shape, 8, 1))
    assert torch.equal(layer.dequantize(), matrix.dequantize())
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x), x @ matrix.dequantize().T, rtol=1e-4, atol=1e-4)
    plain = in_order(matrix.grid, decode_codebooks(layer, scaled=False), scale, x)
    assert torch.equal(layer(x), plain)
    compiled = Matvec(matrix.grid)(x, layer.get_buffer("codes"), codebook, scale)
    assert compiled is None or torch.equal(compiled, plain)


def test_damaged_factors_are_refused() -> None:
    options = OPTIONS
    good = quantize_matrix(*case(), options).tensors()
    lowest = good["factor"].clone()
    lowest[0, 0, 0] = -128
    with pytest.raises(UnsafeFileError, match="factor holds -128"):
        QuantizedMatrix.from_tensors(good | {"factor": lowest}, SHAPE, options)
    layer = PackedLinear(96, 48, options)
    layer.load_state_dict(good)
    layer.check()
    assert layer.dequantize().any()
    layer.load_state_dict(good | {"factor": torch.zeros_like(good["factor"])})
    assert not layer.dequantize().any()  # nothing is left of what was multiplied out before
    for bad in (0, 0x7C00, 0x7E00):  # lost, infinite, NaN
        layer.load_state_dict(good | {"basis": torch.full_like(good["basis"], bad)})
        with pytest.raises(UnsafeFileError, match="basis holds"):
            layer.check()


def test_zeros_stay_zeros_and_few_groups_have_less_rank() -> None:
    _, hessian = case()
    zeros = quantize_matrix(torch.zeros(SHAPE), hessian, OPTIONS)
    assert not zeros.dequantize().any()
    PackedLinear.of(zeros).check()
    one = LayerOptions(dim=1, bits=3, group_size=48 * 96, columns_per_group=96, codebook_rank=4)
    matrix = quantize_matrix(*case(), one)  # a single codebook has rank one
    assert matrix.report is not None
    plain = error(LayerOptions(dim=1, bits=3, group_size=48 * 96, columns_per_group=96))
    assert matrix.report.relative_error < 1.05 * plain
