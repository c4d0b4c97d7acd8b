"""Devices and types of loaded networks."""

from typing import Any

import torch
from torch import nn

from zoo.errors import UnknownNameError


def dtype_of(name: "str | torch.dtype | None") -> torch.dtype | None:
    """Return the floating torch dtype of that name; a dtype, or None, is returned as it is.

    Raises:
        UnknownNameError: there is no such dtype.

    """
    if name is None or isinstance(name, torch.dtype):
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UnknownNameError(f"unknown dtype {name!r} (float32, bfloat16 or float16)")
    return dtype


def placed(model: nn.Module, device: str, dtype: Any) -> nn.Module:
    """Return the model on a device, in a type.

    Raises:
        UnknownNameError: there is no such device.

    """
    try:
        return model.to(device=device, dtype=dtype)
    except (RuntimeError, AssertionError) as error:
        raise UnknownNameError(
            f"device {device!r} cannot be used here; there is {' and '.join(_devices())}"
        ) from error


def _devices() -> list[str]:
    found = torch.accelerator.current_accelerator(check_available=True)
    return ["cpu"] if found is None else ["cpu", found.type]
