"""bf16 tensors without loss in about 70 % of their bytes: exponents in Huffman codes (DFloat11).

A weight's sign and mantissa look random, but of its 256 exponents a few dozen occur, most of them
rarely (arXiv 2504.11651). A coded tensor of n numbers has four parts: `rest`, sign and mantissa of
each in a byte; `stream`, the exponents' codes, lowest bits first; `starts`, where each chunk of
`CHUNK` numbers begins in it, so that chunks are decoded on their own; `lengths`, the lengths of all
256 codes, from which the codes follow (canonical). Every bit comes back, also of NaNs and
subnormals.
"""

import functools
import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.grids.contract import Layout, take
from zoo.quantization.kernels import entropy as kernel

CHUNK = 4096  # numbers; one start of 64 bits each 4096 costs 0.016 bits per number
LONGEST = 12  # bits of a code: the decoder's table of 2^12 entries stays in the fastest cache
PADDING = 8  # bytes behind the stream, which a decoder may load
_SLICE = 256 * CHUNK  # numbers encoded at a time
Coded = Mapping[str, Tensor]


def layout(count: int, stream_bytes: int) -> Layout:
    """Return name, shape and type of the parts of a tensor of `count` numbers."""
    chunks = -(-count // CHUNK)
    return {
        "rest": ((count,), torch.uint8),
        "stream": ((stream_bytes,), torch.uint8),
        "starts": ((chunks + 1,), torch.int64),
        "lengths": ((256,), torch.uint8),
    }


def encode(values: Tensor) -> dict[str, Tensor]:
    """Return the parts of a bf16 tensor of any shape."""
    bits = values.detach().cpu().contiguous().view(torch.int16).numpy().reshape(-1).view(np.uint16)
    exponents = ((bits >> 7) & 0xFF).astype(np.uint8)
    rest = ((bits >> 8) & 0x80 | bits & 0x7F).astype(np.uint8)
    lengths = code_lengths(np.bincount(exponents, minlength=256).tolist())
    codes, sizes = _codes(lengths).astype(np.int64), np.array(lengths, dtype=np.int64)
    streams, starts = [], [np.zeros(1, dtype=np.int64)]
    for begin in range(0, len(exponents), _SLICE):
        some = exponents[begin : begin + _SLICE]
        stream, ends = _written(codes[some], sizes[some])
        streams.append(stream)
        starts.append(ends + starts[-1][-1])
    streams.append(np.zeros(PADDING, dtype=np.uint8))
    return {
        "rest": torch.from_numpy(rest),
        "stream": torch.from_numpy(np.concatenate(streams)),
        "starts": torch.from_numpy(np.concatenate(starts)),
        "lengths": torch.tensor(lengths, dtype=torch.uint8),
    }


def decode(coded: Coded, shape: Sequence[int]) -> Tensor:
    """Return the bf16 tensor.

    By the compiled kernel, or without it in numpy: the same bits, more slowly.

    Raises:
        UnsafeFileError: the codes do not end where they should: the file is damaged.

    """
    parts = {name: tensor.cpu().contiguous() for name, tensor in coded.items()}
    table = torch.from_numpy(_table(bytes(parts["lengths"].numpy())).view(np.int16))
    found = kernel.decode(table, parts, CHUNK)
    if found is None:
        found = decode_numpy(parts)
    return found.view(torch.bfloat16).view(*shape).to(coded["rest"].device)


def check(coded: Coded, count: int) -> None:
    """Refuse parts that `encode` never returns, so that decoding them is safe.

    Raises:
        UnsafeFileError: a part is missing, or has another shape, type or range.

    """
    for name, (shape, kind) in layout(count, len(coded.get("stream", ()))).items():
        take(coded, name, shape, kind)
    starts, stream = coded["starts"], coded["stream"]
    room = len(stream) - PADDING
    if room < 0 or int(starts[0]) != 0 or int(starts[-1]) != room or (starts.diff() < 0).any():
        raise UnsafeFileError("starts do not divide the stream: the file is damaged")
    lengths = coded["lengths"].tolist()
    if max(lengths) > LONGEST or (count and not any(lengths)) or _room(lengths) > 1 << LONGEST:
        raise UnsafeFileError("lengths belong to no code: the file is damaged")


def decode_numpy(coded: Coded) -> Tensor:
    """Return the numbers (n,) as int16, decoded one number of every chunk at a time.

    Raises:
        UnsafeFileError: see `decode`.

    """
    table = _table(bytes(coded["lengths"].numpy()))
    stream, starts = coded["stream"].numpy(), coded["starts"].numpy()
    rest = coded["rest"].numpy()
    padded = np.zeros((len(starts) - 1) * CHUNK, dtype=np.uint8)
    exponents = padded.reshape(-1, CHUNK)
    # Three bytes from every place hold the next code, whatever its first bit.
    wide = np.concatenate([stream, np.zeros(2, dtype=np.uint8)]).astype(np.uint32)
    ahead = wide[:-2] | wide[1:-1] << 8 | wide[2:] << 16
    at = starts[:-1] * 8
    sizes = np.full(len(at), CHUNK)
    if len(at):
        sizes[-1] = len(rest) - (len(at) - 1) * CHUNK
    for place in range(CHUNK):
        live = place < sizes
        byte = np.minimum(at >> 3, len(ahead) - 1)
        entry = table[(ahead[byte] >> (at & 7).astype(np.uint32)) & ((1 << LONGEST) - 1)]
        exponents[:, place] = entry & 0xFF
        at = at + np.where(live, entry >> 8, 0)
    if ((at + 7) >> 3 != starts[1:]).any():
        raise UnsafeFileError(kernel.DAMAGED)
    low = rest.astype(np.uint16)
    bits = (low & 0x80) << 8 | padded[: len(rest)].astype(np.uint16) << 7 | low & 0x7F
    return torch.from_numpy(bits.view(np.int16))


def code_lengths(counts: Sequence[int], longest: int = LONGEST) -> list[int]:
    """Return the lengths of the best prefix code whose codes have at most `longest` bits.

    By package-merge (Larmore and Hirschberg, 1990). What never occurs has length 0; a single symbol
    has length 1.
    """
    leaves = sorted((count, (symbol,)) for symbol, count in enumerate(counts) if count)
    lengths = [0] * len(counts)
    if len(leaves) == 1:
        lengths[leaves[0][1][0]] = 1
        return lengths
    merged: list[tuple[int, tuple[int, ...]]] = []
    for _ in range(longest):
        both = list(heapq.merge(leaves, merged))
        merged = [(a[0] + b[0], a[1] + b[1]) for a, b in zip(both[::2], both[1::2], strict=False)]
    for _, symbols in merged[: len(leaves) - 1]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def _room(lengths: Sequence[int]) -> int:
    """Return how many of the 2^LONGEST entries of a table the codes take."""
    return sum(1 << (LONGEST - length) for length in lengths if length)


def _codes(lengths: Sequence[int]) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """Return the canonical codes by symbol, their first bit the lowest."""
    codes, code, before = np.zeros(len(lengths), dtype=np.uint16), 0, 0
    for length, symbol in sorted((n, symbol) for symbol, n in enumerate(lengths) if n):
        code <<= length - before
        codes[symbol] = int(f"{code:0{length}b}"[::-1], 2)
        code, before = code + 1, length
    return codes


@functools.lru_cache(maxsize=1024)
def _table(lengths: bytes) -> "np.ndarray[tuple[int], np.dtype[np.uint16]]":
    """Return, by the next LONGEST bits, a symbol and the length of its code << 8.

    Bits that begin no code have length 0: a decoder stays there, and ends in the wrong place.
    """
    table = np.zeros(1 << LONGEST, dtype=np.uint16)
    for symbol, (code, length) in enumerate(zip(_codes(lengths), lengths, strict=True)):
        if length:
            table[int(code) :: 1 << length] = symbol | length << 8
    return table


def _written(
    codes: "np.ndarray[tuple[int], np.dtype[np.int64]]",
    sizes: "np.ndarray[tuple[int], np.dtype[np.int64]]",
) -> tuple[
    "np.ndarray[tuple[int], np.dtype[np.uint8]]", "np.ndarray[tuple[int], np.dtype[np.int64]]"
]:
    """Return the bytes of codes in chunks, each of whole bytes, and where each chunk ends."""
    chunks = -(-len(codes) // CHUNK)
    padded = np.zeros(chunks * CHUNK, dtype=np.int64)
    padded[: len(sizes)] = sizes
    within = padded.reshape(chunks, CHUNK).cumsum(1)
    ends = ((within[:, -1] + 7) >> 3).cumsum()
    first = np.concatenate([np.zeros(1, dtype=np.int64), ends[:-1]]) * 8
    at = (within + first[:, None]).reshape(-1)[: len(sizes)] - sizes
    shifted, byte = codes << (at & 7), at >> 3
    # The bits of different codes are disjoint, so that sums are what "or" would give.
    total = np.zeros(int(ends[-1]) + 2, dtype=np.float64)
    for place in range(3):
        part = (shifted >> (8 * place)) & 0xFF
        total += np.bincount(byte + place, weights=part, minlength=len(total))[: len(total)]
    return total[:-2].astype(np.uint8), ends
