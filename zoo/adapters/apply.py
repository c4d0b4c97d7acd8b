"""Apply an adapter to a model permanently: what `zoo.load(base, adapter=...)` returns."""

from typing import TYPE_CHECKING

import torch
from torch import nn

from zoo.adapters.compact import put
from zoo.adapters.format import added
from zoo.adapters.sparse import base_tensors, gather, is_packed

if TYPE_CHECKING:
    from zoo.adapters.format import SparseAdapter


@torch.no_grad()
def apply(model: nn.Module, adapter: "SparseAdapter", alpha: float = 1.0) -> nn.Module:
    """Overwrite the masked entries of a pristine base with base + alpha * S; return the model.

    Use `zoo.adapters.Switcher` to switch, fuse and restore.

    Raises:
        MismatchError: the model is not the adapter's base; nothing was changed.

    """
    from zoo.adapters import sidecar

    if is_packed(model):  # codes cannot hold the sum
        return sidecar.attach(model, adapter, alpha)
    adapter.check(model)
    changes = adapter.deltas(model)
    tensors = base_tensors(model)
    fused = {
        name: added(name, gather(tensors[name], tensor.indices), changes[name] * alpha)
        for name, tensor in adapter.tensors.items()
    }
    for name, values in fused.items():  # only when every sum has been found finite
        put(tensors[name], adapter.tensors[name].indices, values)
    return model
