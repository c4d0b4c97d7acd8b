"""Products of few tokens: the compiled kernel, torch and a loop in plain Python, bit for bit."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.quantization.core import quantize_matrix
from zoo.quantization.grids.codebook import Codebooks
from zoo.quantization.kernels import matvec
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear, set_cache
from zoo.quantization.packing import from_half_bits, half_bits

WITHOUT_COMPILER = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler on the PATH"
)
# bits, dim, weights per codebook: indices of 1 to 8 bits
SHAPES = [
    (1, 1, 64),
    (2, 1, 256),
    (3, 1, 512),
    (2, 2, 512),
    (2.5, 2, 512),
    (3, 2, 2048),
    (7, 1, None),
    (2, 4, 4096),
    (1, 8, 4096),
]


def layer(bits: float, dim: int, size: int | None, rows: int, columns: int) -> PackedLinear:
    torch.manual_seed(rows + columns)
    options = LayerOptions(bits=bits, dim=dim, group_size=size, iterations=2)
    weight = torch.randn(rows, columns)
    return PackedLinear.of(quantize_matrix(weight, None, options), torch.randn(rows))


def in_torch(packed: PackedLinear, x: torch.Tensor) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matvec, "library", lambda: None)
        return packed(x)


@WITHOUT_COMPILER
@settings(max_examples=60)
@given(
    st.sampled_from(SHAPES),
    st.integers(1, 70),
    st.integers(1, 200),
    st.integers(1, matvec.FEW),
    st.integers(1, 3),
)
def test_the_kernel_has_the_bits_of_torch(shape, rows, columns, tokens, threads):
    assert matvec.library() is not None
    packed = layer(*shape, rows, columns)
    x = torch.randn(tokens, columns)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = packed(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found, in_torch(packed, x))
    expected = torch.nn.functional.linear(x.double(), packed.dequantize().double())
    assert (found - packed.bias - expected).abs().max() < 1e-4 * (1 + expected.abs().max())


KINDS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
UNIFORM = [LayerOptions(method="rtn", bits=b, group_size=g) for b, g in ((2, 7), (4, 64), (8, 32))]
CODEBOOKS = [
    LayerOptions(bits=bits, dim=dim, group_size=size, iterations=1) for bits, dim, size in SHAPES
]
MORE = [
    LayerOptions(method="gptq", bits=3, act_order=True),
    LayerOptions(bits=2, dim=2, group_size=512, iterations=1, act_order=True),
    LayerOptions(bits=3, dim=1, group_size=512, iterations=1, codebook_rank=-1),
    LayerOptions(bits=2, dim=2, group_size=512, iterations=1, codebook_bits=16),
    LayerOptions(bits=2, dim=2, group_size=512, iterations=1, scale_block=16),  # has no kernel
]


@WITHOUT_COMPILER
@settings(max_examples=60)
@given(
    st.sampled_from(UNIFORM + CODEBOOKS + MORE),
    st.integers(1, 40),
    st.integers(1, 200),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_a_whole_weight_has_the_bits_of_its_grid(options, rows, columns, kind, threads):
    torch.manual_seed(rows + columns)
    weight = torch.randn(rows, columns)
    hessian = torch.diag(torch.rand(columns) + 0.1)
    matrix = quantize_matrix(weight, hessian, options)
    packed = PackedLinear.of(matrix)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = packed.dequantize(kind)
    finally:
        torch.set_num_threads(before)
    assert found.dtype == kind
    assert torch.equal(found, matrix.dequantize().to(kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matvec, "library", lambda: None)
        assert torch.equal(packed.dequantize(kind), found)


def by_the_book(packed: PackedLinear, x: torch.Tensor) -> np.ndarray:
    """The order that `codebook_matvec.c` promises, number by number in float32."""
    grid, lanes = packed.grid, matvec.LANES
    units = packed.matrix().codes.long()
    books = packed.codebook.float().numpy()
    scales = packed.codebook_scale.view(torch.float16).float().numpy()
    values = torch.nn.functional.pad(x, (0, grid.padded - grid.columns)).numpy()
    y = np.zeros(grid.rows, np.float32)
    for row in range(grid.rows):
        sums = np.zeros(lanes, np.float32)
        for index, (start, end) in enumerate(grid.groups):
            part = np.zeros(lanes, np.float32)
            owner, cells = row // grid.group_rows, range(start // grid.dim, end // grid.dim)
            for plane in range(grid.dim):
                for place, cell in enumerate(cells):
                    weight = books[index, owner, units[row, cell], plane]
                    part[place % lanes] += weight * values[0, cell * grid.dim + plane]
            sums += scales[index, owner] * part
        while len(sums) > 1:
            sums = sums[: len(sums) // 2] + sums[len(sums) // 2 :]
        y[row] = sums[0]
    return y


@pytest.mark.parametrize("shape", [(3, 2, 1024), (2, 4, 2048), (3, 1, 256)])
def test_torch_sums_in_the_order_that_is_written_down(shape):
    packed = layer(*shape, 20, 90)
    packed.bias = None
    x = torch.randn(1, 90)
    assert np.array_equal(in_torch(packed, x)[0].numpy(), by_the_book(packed, x))


@WITHOUT_COMPILER
@pytest.mark.parametrize("flags", [("-O0",), ("-O3",), ("-O3", "-march=native")])
def test_instruction_sets_change_no_bit(flags, tmp_path, monkeypatch):
    import ctypes

    source = Path(matvec.__file__).with_name("codebook_matvec.c")
    built = tmp_path / "kernel.so"
    words = ["cc", "-std=c11", "-ffp-contract=off", "-shared", "-fPIC", *flags]
    subprocess.run([*words, "-o", str(built), str(source)], check=True)
    other = ctypes.CDLL(str(built))
    for name in ("zoo_codebook_matvec", "zoo_rows_matvec", "zoo_decode"):
        getattr(other, name).argtypes = getattr(matvec.library(), name).argtypes
    for shape in SHAPES:
        packed = layer(*shape, 37, 130)
        for tokens in (1, 3):
            x = torch.randn(tokens, 130)
            expected = packed(x)
            with monkeypatch.context() as patch:
                patch.setattr(matvec, "library", lambda: other)
                assert torch.equal(packed(x), expected)
        with monkeypatch.context() as patch:
            whole = packed.dequantize()
            patch.setattr(matvec, "library", lambda: other)
            assert torch.equal(packed.dequantize(), whole)
    codes, scale = torch.randint(-127, 128, (37, 130), dtype=torch.int8), half_bits(torch.rand(37))
    expected = matvec.rows_matvec(x, codes, scale)
    with monkeypatch.context() as patch:
        patch.setattr(matvec, "library", lambda: other)
        assert torch.equal(matvec.rows_matvec(x, codes, scale), expected)


@WITHOUT_COMPILER
@settings(max_examples=60)
@given(
    st.integers(1, 70), st.integers(1, 90), st.integers(1, matvec.FEW), st.integers(1, 3),
    st.integers(0, 3),
)  # fmt: skip
def test_rows_are_summed_as_codes_that_stand_for_themselves(rows, columns, tokens, threads, shift):
    generator = torch.Generator().manual_seed(rows * columns)
    stored = torch.randint(-127, 128, (rows * columns + shift,), generator=generator)
    codes = stored.to(torch.int8)[shift:].view(rows, columns)  # at any address, as in a file
    scale = half_bits(torch.rand(rows, generator=generator))
    x = torch.randn(tokens, columns, generator=generator)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = matvec.rows_matvec(x, codes, scale)
    finally:
        torch.set_num_threads(before)
    grid = Codebooks(rows, columns, 1, 8, columns, group_rows=1)
    assert torch.equal(found, matvec.in_order(grid, codes.float(), scale.unsqueeze(0), x))
    exact = (x.double() @ codes.double().T) * from_half_bits(scale).double()
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)


def test_what_flows_through_is_not_lost():
    packed = layer(3, 2, 1024, 12, 40)
    x = torch.randn(2, 40, requires_grad=True)
    packed(x).sum().backward()  # adapters above a packed layer train through it
    torch.testing.assert_close(x.grad, packed.dequantize().sum(0).expand(2, -1))
    assert packed(torch.zeros(0, 40)).shape == (0, 12)
    assert packed(torch.zeros(2, 3, 40)).shape == (2, 3, 12)
    infinite = torch.zeros(1, 40)
    infinite[0, 3] = math.inf
    assert not torch.isfinite(packed(infinite)).all()


def test_the_decoded_cache_is_close(monkeypatch):
    packed = layer(3, 2, 1024, 30, 70)
    x = torch.randn(1, 70)
    fused = packed(x)
    set_cache(packed, "decoded")
    torch.testing.assert_close(packed(x), fused, rtol=1e-5, atol=1e-5)
    assert packed.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16


def test_without_a_compiler_torch_does_it(monkeypatch, caplog, tmp_path):
    for name, value in ((matvec.SWITCH, "0"), ("CC", "no-such-compiler")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert matvec.library.__wrapped__() is None
    assert not caplog.text
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho cannot >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    assert matvec.library.__wrapped__() is None
    assert "decoded in torch" in caplog.text


INTERPRETED = """
import torch
from zoo.quantization.core import quantize_matrix
from zoo.quantization.kernels.triton_matvec import matvec
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear

for bits, dim, size in {shapes}:
    for rows, columns in ((37, 130), (16, 8)):
        options = LayerOptions(bits=bits, dim=dim, group_size=size, iterations=2)
        layer = PackedLinear.of(quantize_matrix(torch.randn(rows, columns), None, options))
        x = torch.randn(3, columns)
        found = matvec(layer.grid, x, layer.codes, layer.codebook, layer.codebook_scale)
        torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)
print("equal")
"""


def test_the_triton_kernel_is_right_when_it_is_interpreted(repository):
    pytest.importorskip("triton", reason="Triton is not installed")
    answer = subprocess.run(
        [sys.executable, "-c", INTERPRETED.format(shapes=SHAPES)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout == "equal\n", answer.stderr
