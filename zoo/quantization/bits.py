"""The bits of tensors: digests, and the same memory as integers."""

import hashlib

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's bits: NaN payloads and the sign of zero count."""
    bits = integers(values.detach().cpu().contiguous()).numpy()
    return hashlib.sha256(bits.astype(bits.dtype.newbyteorder("<"), copy=False).data).hexdigest()


def digests(weight: Tensor) -> dict[str, str]:
    """Return the digest of a weight in each type that it may be loaded in, by the type's name."""
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return {dtype_name(kind): digest(weight.to(kind)) for kind in kinds}


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type: "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def integers(tensor: Tensor) -> Tensor:
    """Return the same memory as integers of the same width.

    bf16 through PyTorch's CPU scatter is some fifty times slower than the same bits as int16,
    and NumPy has no bf16 at all.
    """
    return tensor.view(_INTEGERS[tensor.element_size()])
