"""Huffman codes of exponents to bf16 numbers, by the compiled kernel."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.errors import UnsafeFileError
from zoo.quantization.kernels import matvec

DAMAGED = "the codes do not end where they should: the file is damaged"


def decode(table: Tensor, parts: Mapping[str, Tensor], chunk: int) -> Tensor | None:
    """Return the numbers (n,) as int16, or None without a kernel.

    Args:
        table: int16 (4096,), an exponent and the length of its code << 8, by the next 12 bits.
        parts: of a tensor on the CPU, checked; see `zoo.quantization.entropy`.
        chunk: numbers of a chunk.

    Raises:
        UnsafeFileError: the codes do not end where they should.

    """
    if (built := matvec.library()) is None:
        return None
    run = built.zoo_entropy_decode
    run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, *[ctypes.c_void_p] * 3,
                    ctypes.c_int64, ctypes.c_int64, ctypes.c_int32]  # fmt: skip
    rest, stream, starts = parts["rest"], parts["stream"], parts["starts"]
    found = torch.empty(len(rest), dtype=torch.int16)
    failed = run(
        table.data_ptr(),
        stream.data_ptr(),
        len(stream),
        starts.data_ptr(),
        rest.data_ptr(),
        found.data_ptr(),
        len(rest),
        chunk,
        max(1, torch.get_num_threads()),
    )
    if failed:
        raise UnsafeFileError(DAMAGED)
    return found
