"""Packed weights times 8-bit inputs: each set of instructions, torch, whole numbers in numpy."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import MismatchError, UnknownNameError
from zoo.quantization.core import quantize_matrix
from zoo.quantization.kernels import build, int8, matvec
from zoo.quantization.operands import Entries, Nibbles, Operand
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import PackedLinear, set_cache
from zoo.quantization.packing import half_bits, pack

WITHOUT_COMPILER = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler on the PATH"
)
UNIT = 0.375  # of tables, here and in int8_check.c
CHECK = Path(__file__).with_name("int8_check.c")
# rows, columns, span: whole blocks and chunks, ragged ones, one row, one column, long groups
SHAPES = [
    (48, 256, 64), (37, 130, 64), (1, 64, 64), (5, 7, 64), (17, 1, 1), (16, 999, 1000),
    (33, 600, 256), (40, 200, 32), (19, 201, 30),
]  # fmt: skip


def weight(rows: int, columns: int, span: int, *, table: bool, extreme: bool = False) -> Nibbles:
    """Random codes, or those that bring sums nearest to overflow."""
    generator = torch.Generator().manual_seed(rows * columns + span)
    groups = -(-columns // span)
    codes = torch.randint(0, 16, (rows, columns), generator=generator)
    zero = torch.randint(0, 16, (groups, rows), generator=generator)
    values = torch.randint(-127, 128, (16,), generator=generator)
    values[:2] = torch.tensor([-127, 127])
    if extreme:
        codes = torch.where(torch.rand(rows, 1, generator=generator) < 0.5, 15, 1).expand_as(codes)
        zero = torch.where(torch.rand(groups, rows, generator=generator) < 0.5, 15, 0)
        values[15], values[1] = 127, -127
    scale = half_bits(torch.rand(groups, rows, generator=generator) * 0.01 + 1e-4)
    stored = (None, values.to(torch.int8), UNIT) if table else (pack(zero, 4), None, 1.0)
    return Nibbles(columns, span, pack(codes, 4), scale, *stored)


# rows, cells of a row, cells of a group, dim, bits, rows of a group: shapes whose tables are looked
# up by one shuffle, by several, and singly
BOOKS = [
    (32, 64, 32, 2, 6, 16), (37, 65, 32, 2, 6, 20), (1, 1, 1, 1, 1, 1), (19, 130, 64, 1, 4, 7),
    (20, 40, 33, 2, 5, 64), (18, 24, 8, 4, 8, 5), (9, 33, 16, 8, 7, 9), (16, 300, 300, 1, 8, 4),
    (24, 70, 70, 1, 3, 24),
]  # fmt: skip


def books(
    rows: int, cells: int, span: int, dim: int, bits: int, group_rows: int, *, extreme: bool = False
) -> Entries:
    """Random codebooks, or those that bring sums nearest to overflow."""
    generator = torch.Generator().manual_seed(rows * cells + dim)
    groups, owners = -(-cells // span), -(-rows // group_rows)
    shape = (groups, owners, 1 << bits, dim)
    values = torch.randint(-127, 128, shape, generator=generator)
    if extreme:
        values = torch.where(torch.rand(*shape[:2], 1, 1, generator=generator) < 0.5, -127, 127)
        values = values.expand(shape)
    codes = torch.randint(0, 1 << bits, (rows, cells), generator=generator)
    scale = half_bits(torch.rand(groups, owners, generator=generator) * 0.01 + 1e-4)
    return Entries(cells * dim, span * dim, bits, group_rows, pack(codes, bits),
                   values.to(torch.int8).contiguous(), scale)  # fmt: skip


def inputs(tokens: int, w: Operand, *, extreme: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs of 8 bits and their scales (tokens, groups)."""
    generator = torch.Generator().manual_seed(tokens + w.columns)
    q = torch.randint(-128, 128, (tokens, w.columns), generator=generator)
    if extreme:
        q = torch.where(torch.rand(tokens, 1, generator=generator) < 0.7, -128, 127).expand_as(q)
    groups = -(-w.columns // w.span)
    return q.to(torch.int8).contiguous(), torch.rand(tokens, groups, generator=generator) * 0.1


def as_integers(w: Operand) -> tuple[np.ndarray, np.ndarray]:
    """W as int64 (rows, columns) and its scales (groups, rows), from the bits that are stored."""
    steps = w.scale.view(torch.float16).float().numpy()
    rows = len(w.codes)
    bits = np.unpackbits(w.codes.numpy(), axis=1, bitorder="little")
    if isinstance(w, Entries):
        codes = bits[:, : w.columns // w.dim * w.bits].reshape(rows, -1, w.bits).astype(np.int64)
        codes = (codes << np.arange(w.bits)).sum(2)
        owner, group = np.arange(rows) // w.group_rows, np.arange(codes.shape[1]) * w.dim // w.span
        entries = w.codebook.numpy().astype(np.int64)[group, owner[:, None], codes]
        return entries.reshape(rows, -1), steps[:, owner]
    codes = (bits.reshape(rows, -1, 4).astype(np.int64) << np.arange(4)).sum(2)[:, : w.columns]
    if w.table is not None:
        return w.table.numpy().astype(np.int64)[codes], steps
    zero = np.unpackbits(w.zero.numpy(), axis=1, bitorder="little").reshape(len(steps), -1, 4)
    zero = (zero.astype(np.int64) << np.arange(4)).sum(2)[:, :rows]
    return codes - zero.T[:, np.arange(w.columns) // w.span], steps


def in_whole_numbers(w: Operand, q: torch.Tensor, scale: torch.Tensor) -> np.ndarray:
    """The contract of the kernels: int64 within a group, float32 from group to group."""
    integers, steps = as_integers(w)
    y = np.zeros((len(q), len(integers)), np.float32)
    for group, start in enumerate(range(0, w.columns, w.span)):
        part = slice(start, start + w.span)
        whole = q.numpy()[:, part].astype(np.int64) @ integers[:, part].T
        by = scale.numpy()[:, group, None] * np.float32(w.unit)
        y += steps[group] * by * whole.astype(np.float32)
    return y


def levels() -> list[int]:
    """The levels that this processor has."""
    kernels = matvec.library()
    return [at for at in range(len(int8.LEVELS)) if kernels.zoo_int8_level(at) == at]


def weights(*, extreme: bool) -> list[Operand]:
    """One of each shape, for 4-bit integers, tables and codebooks."""
    found: list[Operand] = [
        weight(*shape, table=table, extreme=extreme) for shape in SHAPES for table in (False, True)
    ]
    return found + [books(*shape, extreme=extreme) for shape in BOOKS]


@WITHOUT_COMPILER
@pytest.mark.parametrize("extreme", [False, True])
def test_every_level_is_exact(extreme, monkeypatch):
    assert 0 in levels()
    for w in weights(extreme=extreme):
        for tokens in (1, 3, 11):
            q, scale = inputs(tokens, w, extreme=extreme)
            expected = in_whole_numbers(w, q, scale)
            assert np.array_equal(int8.in_order(w, q, scale).numpy(), expected)
            for level in levels():
                monkeypatch.setattr(int8, "level", lambda level=level: level)
                found = int8.product(w, q, scale).numpy()
                assert np.array_equal(found, expected), (int8.LEVELS[level], w)


def with_threads(threads: int, w: Operand, tokens: int) -> None:
    q, scale = inputs(tokens, w)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        found = int8.product(w, q, scale)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(found.numpy(), in_whole_numbers(w, q, scale))
    assert torch.equal(found, int8.in_order(w, q, scale))


FEWER = st.tuples(st.integers(1, 10), st.integers(1, 5))  # tokens, threads


@WITHOUT_COMPILER
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(1, 150), FEWER, st.booleans())
def test_threads_and_shapes_change_no_bit(rows, columns, pairs, run, table):
    tokens, threads = run
    with_threads(threads, weight(rows, columns, 2 * pairs, table=table), tokens)


@WITHOUT_COMPILER
@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 50), st.integers(1, 90), st.integers(1, 70), st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 8), st.integers(1, 60), FEWER,
)  # fmt: skip
def test_nor_do_those_of_codebooks(rows, cells, span, dim, bits, group_rows, run):
    tokens, threads = run
    with_threads(threads, books(rows, cells, span, dim, bits, group_rows), tokens)


def operands(w: Operand, q: torch.Tensor, scale: torch.Tensor) -> bytes:
    """A product as `int8_check.c` reads it."""
    rows = len(w.codes)
    if isinstance(w, Entries):
        sizes = (2, rows, w.columns, w.span, len(q), w.dim, w.bits, w.group_rows)
        stored = (w.codes, w.codebook, w.scale, q, scale)
    else:
        table = w.table is not None
        sizes = (int(table), rows, w.columns, w.span, len(q), 1, 4, 1)
        stored = (w.codes, w.table if table else w.zero, w.scale, q, scale)
    parts = [np.array(sizes, np.int32), *(tensor.numpy() for tensor in stored)]
    return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def check(words: list[str], level: str) -> None:
    """Compare the products of the built check with numpy's."""
    given, expected = b"", []
    for extreme in (False, True):
        for w in weights(extreme=extreme):
            q, scale = inputs(2, w, extreme=extreme)
            given += operands(w, q, scale)
            expected.append(in_whole_numbers(w, q, scale).ravel())
    answer = subprocess.run(
        [*words, str(int8.LEVELS.index(level))],
        input=given, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, (answer.returncode, answer.stderr[-800:])
    found = np.frombuffer(answer.stdout, np.float32)
    assert np.array_equal(found, np.concatenate(expected))


def compiled(compiler: str, to: Path, *flags: str) -> str:
    """Build the check with no more instructions than every processor of its family has."""
    sources = [str(CHECK), str(build.FOLDER / "int4_int8.c"),
               str(build.FOLDER / "codebook_int8.c")]  # fmt: skip
    words = [compiler, "-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror",
             "-Wno-unknown-pragmas", *flags, f"-I{build.FOLDER}", *sources, "-lm"]  # fmt: skip
    subprocess.run([*words, "-o", str(to)], check=True, timeout=120)
    return str(to)


def tool(name: str, switch: str) -> str:
    """The path of a program; its absence is a failure where the switch is set, as in CI."""
    path = shutil.which(name)
    if path is None and os.environ.get(switch) != "1":
        pytest.skip(f"{name} is not installed")
    assert path is not None, f"{switch}=1, and {name} is not installed"
    return path


@pytest.mark.parametrize("level", ["portable", "neon", "dotprod"])
def test_arm_has_the_bits_of_numpy(level, tmp_path):
    compiler = tool("aarch64-linux-gnu-gcc", "ZOO_TEST_ARM")
    emulator = tool("qemu-aarch64", "ZOO_TEST_ARM")
    check([emulator, compiled(compiler, tmp_path / "check", "-static")], level)


@WITHOUT_COMPILER
@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of other processors")
def test_nothing_behind_an_operand_is_touched(tmp_path):
    valgrind = tool("valgrind", "ZOO_TEST_VALGRIND")
    built = compiled("cc", tmp_path / "check")
    # valgrind knows no AVX-512, and says so: the best level there is AVX2
    check([valgrind, "--quiet", "--error-exitcode=9", built], "avx2")
    check([built], "portable")


def rounded(shape: tuple[int, int], **options: object) -> PackedLinear:
    torch.manual_seed(sum(shape))
    seen = torch.randn(300, shape[1])
    chosen = LayerOptions(**{"method": "gptq", "bits": 4, "activations": "int8", **options})
    matrix = quantize_matrix(torch.randn(shape), seen.T @ seen, chosen)
    return PackedLinear.of(matrix, torch.randn(shape[0]))


PLANES = {"method": "gptvq", "bits": 3, "iterations": 2}
LAYERS = [
    {}, {"group_size": 32}, {"group_size": 7},  # a group begins within a byte
    {**PLANES, "dim": 2}, {**PLANES, "dim": 1}, {**PLANES, "bits": 2, "dim": 4},
    {"grid": "fp4"}, {"grid": "fixp4"}, {"grid": "posit4"}, {"grid": "apot4"},
]  # fmt: skip


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("options", LAYERS, ids=str)
@pytest.mark.parametrize("columns", [90, 91])
def test_a_layer_multiplies_what_eight_bits_hold(columns, options, act_order):
    packed = rounded((20, columns), act_order=act_order, **options)
    x = torch.randn(2, 3, columns)
    x[..., 3] *= 100  # leaves other groups their digits
    order = packed.order.long() if act_order else torch.arange(columns)
    span = packed.grid.span
    exact = torch.zeros(6, 20, dtype=torch.double)
    for start in range(0, columns, span):
        part = x.view(6, columns)[:, order[start : start + span]].double()
        step = part.abs().amax(1, keepdim=True) / 127
        held = (part / step).round() * step
        assert ((held - part).abs() <= 0.501 * step).all()
        exact += held @ packed.dequantize().double()[:, order[start : start + span]].T
    exact = (exact + packed.bias.double()).view(2, 3, 20)
    few = packed(x)
    torch.testing.assert_close(few.double(), exact, rtol=1e-4, atol=1e-4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matvec, "library", lambda: None)
        assert torch.equal(packed(x), few)
    many = packed(x.repeat(1, 5, 1))
    torch.testing.assert_close(many[:, :3].double(), exact, rtol=1e-4, atol=1e-4)
    set_cache(packed, "decoded")
    torch.testing.assert_close(packed(x).double(), exact, rtol=1e-4, atol=1e-4)
    assert packed.to(torch.bfloat16)(x.bfloat16()).dtype == torch.bfloat16
    assert packed(x[:0].bfloat16()).shape == (0, 3, 20)


def test_gradients_pass_the_rounding():
    packed = rounded((12, 40))
    x = torch.randn(2, 40, requires_grad=True)
    packed(x).sum().backward()
    torch.testing.assert_close(x.grad, packed.dequantize().sum(0).expand(2, -1))


def test_tokens_without_a_scale():
    x = torch.zeros(5, 8)
    x[1, 2], x[2, 3], x[3, 4], x[4, 5] = torch.inf, torch.nan, 1e-44, -3e38
    q, scale = int8.inputs(x, 8)
    scale = scale[:, 0]
    assert scale[:4].isnan().tolist() == [False, True, True, False]
    assert scale[[0, 3]].tolist() == [1, 1]
    assert q[:4].count_nonzero() == 0
    assert q[4, 5] == -127
    packed = rounded((4, 8))
    y = packed(x)
    assert torch.equal(y[0], packed.bias)
    assert y[1:3].isnan().all()


def test_options_that_have_no_such_product():
    for wrong in (
        {"bits": 3}, {"bits": 8}, {**PLANES, "codebook_bits": 16}, {**PLANES, "scale_block": 8},
        {**PLANES, "dim": 1, "codebook_rank": 2},
    ):  # fmt: skip
        with pytest.raises(MismatchError, match=r"activations int8 go with 4 bits of uniform"):
            LayerOptions(**{"method": "rtn", "activations": "int8", **wrong})
    with pytest.raises(UnknownNameError, match=r"int4.*did you mean"):
        LayerOptions(method="rtn", bits=4, activations="int4")


@WITHOUT_COMPILER
def test_a_level_is_chosen_by_its_name(monkeypatch):
    for name in ("portable", ""):
        monkeypatch.setenv(matvec.SWITCH, name)
        assert int8.level.__wrapped__() == (0 if name else max(levels()))
    monkeypatch.setenv(matvec.SWITCH, "avx3")
    with pytest.raises(UnknownNameError, match=r"avx3.*did you mean avx2"):
        int8.level.__wrapped__()
