"""Matrices of integers as blocks of llama.cpp: the same numbers, in its layout.

A block is 32 columns of a row with a 16-bit scale d, and in some types a 16-bit minimum m:

| type | value | q |
|---|---|---|
| Q4_0, Q5_0, Q8_0 | d (q - 8), d (q - 16), d q | 4, 5 and 8 bits |
| Q4_1, Q5_1 | d q + m | 4 and 5 bits |

With w = scale * (code - zero), types without a minimum hold a matrix to the bit if code - zero
is in their range; those with one have m = -scale * zero rounded to 16 bits: an error of at most
2^-11 |m|, and none in d.

Source: `ggml-common.h` and `ggml-quants.c` of llama.cpp describe the layout; the package `gguf`
reads it, which is how files are checked.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.deploy.language.weights import IntegerMatrix
from zoo.errors import MismatchError

BLOCK = 32
Array = np.ndarray[Any, np.dtype[Any]]


def blocks(matrix: IntegerMatrix, name: str) -> tuple[str, Array]:
    """Return the name of the smallest type that holds a matrix, and its bytes (rows, ...).

    Raises:
        MismatchError: groups and blocks do not fit, or no type has the numbers.

    """
    _check_groups(matrix, name)
    signed = matrix.signed()
    low, high = int(signed.min()), int(signed.max())
    scale = _per_block(matrix, matrix.scale)
    if low >= -8 and high <= 7:
        return "Q4_0", _joined(scale, _nibbles(signed + 8))
    if matrix.zero is not None and matrix.bits <= 5:
        exact = -matrix.scale.to(torch.float32) * matrix.zero.to(torch.float32)
        least = exact.to(torch.float16)
        if torch.isfinite(least).all():
            heads, codes = (scale, _per_block(matrix, least)), matrix.codes
            if matrix.bits <= 4:
                return "Q4_1", _joined(*heads, _nibbles(codes))
            return "Q5_1", _joined(*heads, _fifths(codes), _nibbles(codes & 15))
    if low >= -16 and high <= 15:
        codes = signed + 16
        return "Q5_0", _joined(scale, _fifths(codes), _nibbles(codes & 15))
    if low >= -128 and high <= 127:
        return "Q8_0", _joined(scale, _cut(signed.to(torch.int8)))
    raise MismatchError(
        f"{name} has {matrix.bits} bits with zero points that put numbers from {low} to {high} in "
        "one group, and GGUF's widest type has -128 to 127; compress the model with --bits 7 or "
        "fewer"
    )


def _check_groups(matrix: IntegerMatrix, name: str) -> None:
    columns = matrix.shape[1]
    if columns % BLOCK:
        raise MismatchError(
            f"{name} has {columns} columns, and GGUF's blocks of integers have {BLOCK}: leave the "
            f"layer in floats when you compress the model, --skip '*{name.split('.')[-1]}'"
        )
    if matrix.place is not None:
        raise MismatchError(
            f"{name} was quantized with act_order, whose groups are columns from all over the "
            "matrix; GGUF's are neighbours: compress the model without --set act_order=true"
        )
    if matrix.span < columns and matrix.span % BLOCK:
        raise MismatchError(
            f"{name} has groups of {matrix.span} columns, and GGUF's blocks have {BLOCK}; compress "
            f"the model with --group-size {BLOCK} or {2 * BLOCK}"
        )


def _per_block(matrix: IntegerMatrix, values: Tensor) -> Tensor:
    """Return (rows, blocks, 2) bytes of halves (rows, groups)."""
    each = matrix.spread(values)[:, ::BLOCK].contiguous()
    return each.view(torch.uint8).view(*each.shape, 2)


def _cut(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8).view(len(values), -1, BLOCK)


def _nibbles(values: Tensor) -> Tensor:
    """Return 16 bytes per block: column i in the low four bits, i + 16 in the high ones."""
    parts = _cut(values.to(torch.uint8))
    half = BLOCK // 2
    return parts[..., :half] | (parts[..., half:] << 4)


def _fifths(values: Tensor) -> Tensor:
    """Return 4 bytes per block: the fifth bit of each column, the first in the lowest."""
    bits = (_cut(values.to(torch.uint8)) >> 4).view(len(values), -1, 4, 8)
    places = torch.arange(8, dtype=torch.uint8)
    return (bits << places).sum(-1, dtype=torch.uint8)


def _joined(*parts: Tensor) -> Array:
    made: Array = torch.cat(parts, -1).flatten(1).numpy()
    return made
