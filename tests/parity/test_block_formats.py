"""MX and NV formats, to the bit: against the specification by brute force, and torchao's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import MismatchError, UnsafeFileError
from zoo.quantization.core import QuantizedMatrix, quantize_matrix
from zoo.quantization.grids import find
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear

# Exponent bits, mantissa bits, largest exponent, largest number: OCP MX 1.0, tables 1, 4 and 5.
FLOATS = {
    "mxfp8": (4, 3, 8, 448.0),
    "mxfp8-e5m2": (5, 2, 15, 57344.0),
    "mxfp6": (2, 3, 2, 7.5),
    "mxfp6-e3m2": (3, 2, 4, 28.0),
    "mxfp4": (2, 1, 2, 6.0),
}
# Bits behind the point, largest integer.
INTEGERS = {"mxint8": (6, 127), "mxint4": (2, 7)}


def sample(rows: int = 24, columns: int = 96, seed: int = 0) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=dice)
    weight *= torch.exp2(torch.randint(-30, 30, (rows, 1), generator=dice).float())
    weight[3] = 0
    weight[4] = (weight[4] * 8).round() / 8  # ties
    weight[5, ::7] *= 300  # outliers: most of the block becomes subnormal
    return weight


def rounded(value: float, exponent_bits: int, mantissa_bits: int, largest: float) -> float:
    """Round half to even on the spacing of the element type, and saturate."""
    least = 1 - ((1 << (exponent_bits - 1)) - 1)
    exponent = max(math.frexp(abs(value))[1] - 1, least) if value else least
    step = 2.0 ** (exponent - mantissa_bits)
    return math.copysign(min(round(abs(value) / step) * step, largest), value)


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
def test_blocks_are_those_of_the_specification(name: str) -> None:
    weight = sample()
    found = quantize_matrix(weight, None, LayerOptions(method="rtn", grid=name)).dequantize()
    for row, values in enumerate(weight.tolist()):
        for start in range(0, 96, 32):
            block = values[start : start + 32]
            largest = max(map(abs, block))
            if not largest:
                assert not found[row, start : start + 32].any()
                continue
            if name in FLOATS:
                exponent_bits, mantissa_bits, top, most = FLOATS[name]
                scale = 2.0 ** (math.floor(math.log2(largest)) - top)
                wanted = [rounded(v / scale, exponent_bits, mantissa_bits, most) * scale
                          for v in block]  # fmt: skip
            else:
                places, most = INTEGERS[name]
                scale = 2.0 ** (math.floor(math.log2(largest)) - places)
                wanted = [max(-most, min(most, round(v / scale))) * scale for v in block]
            assert found[row, start : start + 32].tolist() == wanted


@pytest.mark.parametrize("name", FLOATS)
def test_elements_are_those_of_their_type(name: str) -> None:
    _, _, top, most = FLOATS[name]
    known = [value for value in find(name).VALUES if value is not None]
    assert max(known) == most == -min(known)
    assert math.floor(math.log2(most)) == top
    assert len({abs(v) for v in known if v}) * 2 + 2 == len(known)  # with both zeros
    kinds = {"mxfp8": torch.float8_e4m3fn, "mxfp8-e5m2": torch.float8_e5m2}
    if name in kinds:
        bits = torch.arange(256, dtype=torch.uint8).view(kinds[name]).float().tolist()
        wanted = [v if math.isfinite(v) else None for v in bits]
        assert list(find(name).VALUES) == wanted


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=32, max_size=32))
@settings(max_examples=60, deadline=None)
def test_a_block_in_its_own_units_stays_what_it_is(numbers: list[float]) -> None:
    for name in ("mxfp6", "mxint8", "nvfp4"):
        options = LayerOptions(method="rtn", grid=name)
        once = quantize_matrix(torch.tensor([numbers]), None, options).dequantize()
        if name == "nvfp4":  # whose scales are rounded: only the range is kept
            assert once.abs().max() <= 1.07 * max(map(abs, numbers)) + 1e-30
            continue
        twice = quantize_matrix(once, None, options).dequantize()
        assert torch.equal(once, twice)


@pytest.mark.parametrize("name", [*FLOATS])
def test_torchao_has_the_same_blocks(name: str) -> None:
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor")
    kinds = {
        "mxfp8": torch.float8_e4m3fn,
        "mxfp8-e5m2": torch.float8_e5m2,
        "mxfp4": torch.float4_e2m1fn_x2,
    }
    if name not in kinds:
        constants = pytest.importorskip("torchao.prototype.mx_formats.constants")
        kinds[name] = getattr(constants, {"mxfp6": "DTYPE_FP6_E2M3"}.get(name, "DTYPE_FP6_E3M2"))
    weight = sample(seed=1)
    theirs = mx.MXTensor.to_mx(weight, kinds[name], 32).dequantize(torch.float32)
    ours = quantize_matrix(weight, None, LayerOptions(method="rtn", grid=name)).dequantize()
    assert torch.equal(ours, theirs)


def test_torchao_has_the_same_nvfp4() -> None:
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor")
    dice = torch.Generator().manual_seed(4)
    weight = torch.randn(48, 96, generator=dice) * torch.rand(48, 1, generator=dice)
    whole = nv.per_tensor_amax_to_scale(weight.abs().amax())
    theirs = nv.NVFP4Tensor.to_nvfp4(weight, per_tensor_scale=whole).dequantize(torch.float32)
    ours = quantize_matrix(weight, None, LayerOptions(method="rtn", grid="nvfp4")).dequantize()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("name", "largest"), [("nvfp4", 6.0), ("nvint4", 7.0)])
def test_two_scales_by_brute_force(name: str, largest: float) -> None:
    weight = torch.randn(6, 48, generator=torch.Generator().manual_seed(5))
    matrix = quantize_matrix(weight, None, LayerOptions(method="rtn", grid=name))
    whole = weight.abs().max() / (448 * largest)
    found, elements = matrix.dequantize(), [v for v in find(name).VALUES if v is not None]
    assert matrix.bits == 8 * (6 * 24 + 6 * 3 + 4)
    for row in range(6):
        for start in range(0, 48, 16):
            block = weight[row, start : start + 16]
            scale = (block.abs().max() / largest / whole).to(torch.float8_e4m3fn).float() * whole
            nearest = torch.tensor(
                [min(elements, key=lambda e: abs(e - float(v / scale))) for v in block]
            )
            assert torch.allclose(found[row, start : start + 16], nearest * scale, rtol=1e-6)


def test_what_no_quantization_stores_is_refused() -> None:
    damages = {
        ("mxfp8", "codes"): [127, 255],
        ("mxfp8-e5m2", "codes"): [124, 125, 252],
        ("mxint8", "codes"): [128],
        ("mxfp4", "power"): [0, 255],
        ("nvfp4", "scale"): [0, 127, 200],
        ("nvint4", "codes"): [0x18],
    }
    for (name, tensor), values in damages.items():
        for value in values:
            options = LayerOptions(method="rtn", grid=name)
            stored = quantize_matrix(sample(), None, options).tensors()
            stored[tensor][1, 0] = value
            with pytest.raises(UnsafeFileError, match=r"holds|stands for no value"):
                QuantizedMatrix.from_tensors(stored, (24, 96), options)
            layer = PackedLinear(96, 24, options)
            layer.load_state_dict(stored)
            with pytest.raises(UnsafeFileError, match=r"holds|stands for no value"):
                layer.check()
    layer = PackedLinear(96, 24, LayerOptions(method="rtn", grid="nvfp4"))
    with pytest.raises(UnsafeFileError, match="scale holds zero"):
        layer.check()  # the tensors of a file that lacks them


def test_blocks_have_the_size_of_their_format() -> None:
    with pytest.raises(MismatchError, match="mxfp4 has blocks of 32: leave group_size out"):
        quantize_matrix(sample(), None, LayerOptions(method="rtn", grid="mxfp4", group_size=64))
    ragged = quantize_matrix(sample(8, 72), None, LayerOptions(method="rtn", grid="mxfp4"))
    assert ragged.dequantize().shape == (8, 72)
    assert len(ragged.grid.groups) == 3
