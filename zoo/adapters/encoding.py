"""Masks as bytes: sorted flat indices in the smallest of several exact encodings.

`gap8` and `gap16` store how many positions lie between one element and the next; their largest
code (255, 65535) means "advance by this many; no element". A gap cannot be negative, so any bytes
in a file decode to a strictly increasing sequence: only its end must be checked. Indices that come
in whole aligned blocks (of 2, 4, ... 256) are stored as block numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import UnsafeFileError

Indices = npt.NDArray[np.int64]
Codes = npt.NDArray[Any]
KINDS: dict[str, Any] = {"gap8": np.uint8, "gap16": np.uint16, "i32": np.int32, "i64": np.int64}
MAX_BLOCK = 256


@dataclass(frozen=True)
class Encoded:
    """Indices as stored: `codes` of `kind`, of elements (block 1) or of blocks of `block`."""

    kind: str
    block: int
    codes: Codes


def block_size(indices: Indices, numel: int) -> int:
    """Return the largest power of two, up to 256, whose aligned blocks the indices fill."""
    block = 1
    while 2 * block <= MAX_BLOCK and not (len(indices) % (2 * block) or numel % (2 * block)):
        rows = indices.reshape(-1, 2 * block)
        aligned = not (rows[:, 0] % (2 * block)).any()
        if not (aligned and len(rows) and (rows[:, -1] - rows[:, 0] == 2 * block - 1).all()):
            break
        block *= 2
    return block


def encode(indices: Indices, numel: int) -> Encoded:
    """Return strictly increasing `indices` of a tensor of `numel` elements, in the fewest bytes."""
    block = block_size(indices, numel)
    starts = indices[::block] // block
    gaps = np.diff(starts, prepend=-1) - 1
    plain = "i64" if numel >= 2**31 else "i32"
    sizes = {plain: len(starts) * np.dtype(KINDS[plain]).itemsize}
    for kind in ("gap16", "gap8"):
        skip = int(np.iinfo(KINDS[kind]).max)
        sizes[kind] = int(len(gaps) + (gaps // skip).sum()) * np.dtype(KINDS[kind]).itemsize
    kind = min(sizes, key=lambda name: sizes[name])
    return encode_as(starts, kind, block)


def encode_as(starts: Indices, kind: str, block: int = 1) -> Encoded:
    """Return block starts (in blocks) in the encoding `kind`."""
    if kind in ("i32", "i64"):
        return Encoded(kind, block, starts.astype(KINDS[kind]))
    gaps = np.diff(starts, prepend=-1) - 1
    skip = int(np.iinfo(KINDS[kind]).max)
    skips, rest = np.divmod(gaps, skip)
    codes = np.full(len(gaps) + int(skips.sum()), skip, dtype=KINDS[kind])
    codes[np.cumsum(skips + 1) - 1] = rest
    return Encoded(kind, block, codes)


def decode(encoded: Encoded, numel: int, nnz: int) -> Indices:
    """Return the `nnz` indices, strictly increasing and within `numel`.

    Raises:
        UnsafeFileError: the codes are not such indices. Nothing larger than the codes and the
            announced `nnz` (which the caller has compared with the number of values) is
            allocated.

    """
    kind, block, codes = encoded.kind, encoded.block, encoded.codes
    if kind not in KINDS or codes.dtype != KINDS[kind] or codes.ndim != 1:
        raise UnsafeFileError(f"indices of kind {kind!r} are stored as {codes.dtype}")
    if not (1 <= block <= MAX_BLOCK and not block & (block - 1) and numel % block == 0):
        raise UnsafeFileError(f"blocks of {block} do not divide a tensor of {numel} elements")
    if kind in ("i32", "i64"):
        starts = codes.astype(np.int64)
        # Compared, not subtracted: a difference of two 64-bit numbers may wrap around.
        if len(starts) and (starts[0] < 0 or (starts[1:] <= starts[:-1]).any()):
            raise UnsafeFileError("indices are negative, unsorted or given twice")
    else:
        skip = int(np.iinfo(KINDS[kind]).max)
        element = codes != skip
        if len(codes) and not element[-1]:
            raise UnsafeFileError("indices end with a gap that leads to no element")
        # A step is at most 65536 and there are at most as many as bytes: no overflow in 64 bits.
        starts = np.cumsum(codes + element.astype(np.int64), dtype=np.int64)[element] - 1
    if len(starts) * block != nnz:
        raise UnsafeFileError(f"{len(starts) * block} indices were found, {nnz} announced")
    if len(starts) and int(starts[-1]) >= numel // block:
        raise UnsafeFileError(
            f"index {int(starts[-1]) * block} lies outside the tensor of {numel} elements"
        )
    if block == 1:
        return starts
    return (starts[:, None] * block + np.arange(block)).reshape(-1)
