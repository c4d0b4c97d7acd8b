"""Masks as bytes and back, and whole adapter files: nothing is lost."""

import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from zoo.adapters import SparseAdapter
from zoo.adapters.encoding import KINDS, Encoded, block_size, decode, encode, encode_as
from zoo.errors import UnsafeFileError

gaps = st.lists(
    st.sampled_from([0, 1, 2, 15, 253, 254, 255, 256, 509, 510, 65534, 65535, 65536, 200_000])
)


@given(gaps=gaps, tail=st.sampled_from([0, 1, 255, 70_000, 2**31]))
def test_every_encoding_gives_the_indices_back(gaps: list[int], tail: int) -> None:
    indices = np.cumsum(np.asarray(gaps, np.int64) + 1) - 1
    numel = int(indices[-1]) + 1 + tail if gaps else tail
    for kind in KINDS:
        if kind != "i32" or numel < 2**31:
            found = decode(encode_as(indices, kind), numel, len(indices))
            np.testing.assert_array_equal(found, indices)
    chosen = encode(indices, numel)
    np.testing.assert_array_equal(decode(chosen, numel, len(indices)), indices)


@given(
    rows=st.sets(st.integers(0, 200), max_size=50),
    power=st.integers(0, 9),
    drop=st.booleans(),
)
def test_blocks_are_found_and_given_back(rows: set[int], power: int, drop: bool) -> None:
    block = 2**power
    indices = (np.array(sorted(rows), np.int64)[:, None] * block + np.arange(block)).reshape(-1)
    if drop:
        indices = indices[1:]
    numel = 201 * 512
    found = block_size(indices, numel)
    assert found >= min(block, 256) or drop or not len(indices)
    np.testing.assert_array_equal(decode(encode(indices, numel), numel, len(indices)), indices)


@pytest.mark.parametrize(
    ("indices", "numel", "kind"),
    [
        ([], 0, "i32"),
        ([0], 1, "gap8"),
        ([254], 255, "gap8"),
        ([255 * 4], 1100, "gap16"),
        ([2**20], 2**21, "i32"),
        ([65_534, 2 * 65_535], 200_000, "gap16"),
        ([2**33], 2**34, "i64"),
        (range(7), 7, "gap8"),
    ],
)
def test_the_smallest_encoding_is_chosen(indices: list[int], numel: int, kind: str) -> None:
    found = encode(np.array(indices, np.int64), numel)
    assert found.kind == kind
    assert decode(found, numel, len(indices)).tolist() == list(indices)


@pytest.mark.parametrize(
    ("codes", "kind", "numel", "nnz"),
    [
        ([5, 4], "i32", 10, 2),
        ([4, 4], "i32", 10, 2),
        ([-1, 4], "i32", 10, 2),
        ([4, 10], "i32", 10, 2),
        ([0, 2**63 - 1, 5 - 2**63], "i64", 10, 3),
        ([9, 0], "gap8", 10, 2),
        ([1, 255], "gap8", 1000, 1),
        ([1, 1], "gap8", 1000, 3),
        ([65_535, 0], "gap16", 65_535, 1),
    ],
)
def test_codes_that_are_no_mask_are_refused(
    codes: list[int], kind: str, numel: int, nnz: int
) -> None:
    with pytest.raises(UnsafeFileError):
        decode(Encoded(kind, 1, np.array(codes, KINDS[kind])), numel, nnz)


def test_types_and_blocks_that_do_not_fit_are_refused() -> None:
    for codes, kind, block, numel in (
        (np.zeros(1, np.int64), "i32", 1, 8),
        (np.zeros((1, 1), np.uint8), "gap8", 1, 8),
        (np.zeros(1, np.uint8), "gap7", 1, 8),
        (np.zeros(1, np.uint8), "gap8", 3, 9),
        (np.zeros(1, np.uint8), "gap8", 512, 1024),
        (np.zeros(1, np.uint8), "gap8", 4, 9),
        (np.zeros(1, np.uint8), "gap8", 0, 9),
    ):
        with pytest.raises(UnsafeFileError):
            decode(Encoded(kind, block, codes), numel, block)


@st.composite
def adapters(draw: st.DrawFn) -> tuple[SparseAdapter, dict[str, torch.Tensor]]:
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    shapes = draw(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=1, max_size=4))
    seed = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    base = {
        f"t.{i}": torch.randn(shape, generator=seed).to(dtype) for i, shape in enumerate(shapes)
    }
    given = {}
    for name, tensor in base.items():
        count = draw(st.integers(0, tensor.numel()))
        where = torch.randperm(tensor.numel(), generator=seed)[:count]
        given[name] = (where, torch.randn(count, generator=seed))
    return SparseAdapter.from_tensors(given, base, metadata={"base": {"repo": "é/x"}}), base


@given(made=adapters(), shared=st.booleans())
def test_saving_and_loading_changes_nothing(
    made: tuple[SparseAdapter, dict[str, torch.Tensor]], shared: bool
) -> None:
    adapter, base = made
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("delta", "overwrite"):
            written = adapter.to_mode(mode, base)
            path = written.save(Path(folder) / mode, shared_mask=shared)
            first = path.read_bytes()
            found = SparseAdapter.load(path.parent)
            assert (found.mode, found.metadata) == (mode, adapter.metadata)
            assert set(found.tensors) == set(adapter.tensors)
            for name, tensor in written.tensors.items():
                other = found.tensors[name]
                assert torch.equal(other.indices, tensor.indices)
                assert other.values.dtype == tensor.values.dtype
                assert torch.equal(other.values, tensor.values)
                assert (other.shape, other.dtype) == (tensor.shape, tensor.dtype)
            found.check(base)
            again = found.save(path, shared_mask=shared)
            assert again.read_bytes() == first
