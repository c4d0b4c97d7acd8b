"""Integers as streams of bits: 1 to 8 bits each, rows padded to whole bytes; or whole bytes."""

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that `count` integers of `bits` bits take."""
    return -(-count * bits // 8)


def pack(values: Tensor, bits: int) -> Tensor:
    """Return (r, n) integers below 2^bits as (r, ceil(n * bits / 8)) bytes, lowest bits first."""
    rows, count = values.shape
    if bits > 8:
        places = torch.arange(0, bits, 8, device=values.device)
        return ((values.long().unsqueeze(-1) >> places) & 0xFF).to(torch.uint8).flatten(1)
    eights = -(-count // 8)  # eight integers of b bits fill b bytes exactly
    padded = torch.zeros(rows, eights * 8, dtype=torch.int64, device=values.device)
    padded[:, :count] = values
    shifts = torch.arange(8, device=values.device) * bits
    word = (padded.view(rows, eights, 8) << shifts).sum(-1)  # disjoint bits: a sum is an or
    places = torch.arange(bits, device=values.device) * 8
    stream = (word.unsqueeze(-1) >> places) & 0xFF
    return stream.to(torch.uint8).view(rows, -1)[:, : packed_bytes(count, bits)].contiguous()


def unpack(stream: Tensor, bits: int, count: int) -> Tensor:
    """Return the (r, count) integers of `bits` bits that `pack` stored: uint8, or int32 above 8.

    Raises:
        UnsafeFileError: the stream has the wrong length, or bits set in its padding.

    """
    rows = stream.shape[0]
    if stream.shape[1] != packed_bytes(count, bits):
        raise UnsafeFileError(
            f"{stream.shape[1]} bytes per row hold packed integers; {count} integers of {bits} "
            f"bits take {packed_bytes(count, bits)}"
        )
    if bits > 8:
        places = torch.arange(0, bits, 8, device=stream.device)
        wide = stream.to(torch.int32).view(rows, count, bits // 8)
        return (wide << places).sum(-1, dtype=torch.int32)
    eights = -(-count // 8)
    padded = torch.zeros(rows, eights * bits, dtype=torch.int64, device=stream.device)
    padded[:, : stream.shape[1]] = stream
    places = torch.arange(bits, device=stream.device) * 8
    word = (padded.view(rows, eights, bits) << places).sum(-1)
    shifts = torch.arange(8, device=stream.device) * bits
    values = ((word.unsqueeze(-1) >> shifts) & ((1 << bits) - 1)).view(rows, -1)
    if values[:, count:].any():
        raise UnsafeFileError("bits are set after the last packed integer of a row")
    return values[:, :count].to(torch.uint8)


def half_bits(values: Tensor) -> Tensor:
    """Return `values` as halves in int16, which no loader's `dtype=` would cast."""
    return values.to(torch.float16).contiguous().view(torch.int16)


def from_half_bits(stored: Tensor) -> Tensor:
    """Return what `half_bits` stored, as float32."""
    return stored.contiguous().view(torch.float16).to(torch.float32)
