"""Sparse adapters next to the codes: a packed model is adapted without being quantized again.

`zoo.adapters.beside` says how; here is when: only where an adapter fits.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters.beside import Delta, refuse_adapted
from zoo.adapters.format import SparseAdapter, added
from zoo.adapters.sparse import base_tensors, gather, packed_layers
from zoo.quantization.packed import PackedLinear


@torch.no_grad()
def attach(model: nn.Module, adapter: SparseAdapter, alpha: float = 1.0) -> nn.Module:
    """Attach an adapter to a packed model, next to its codes; return the model.

    It fits if it was trained on the packed weights or on the model that was packed, as digests
    show. If the adapter or the checkpoint predates digests of whole weights, both must name the
    same model, and a warning says that no more could be checked. One that overwrites gives its
    entries in full precision.

    Raises:
        MismatchError: the adapter is for other weights, shapes differ, or one is already on;
            nothing was changed.

    """
    layers = packed_layers(model)
    for packed in layers.values():
        refuse_adapted(packed)
    adapter.check(model)
    tensors, changes = base_tensors(model), adapter.deltas(model)
    plain: dict[str, tuple[Tensor, Tensor]] = {}
    for name in adapter.tensors.keys() - layers.keys():
        before = gather(tensors[name], adapter.tensors[name].indices)
        plain[name] = (before, added(name, before, changes[name] * alpha))
    for name in (
        adapter.tensors.keys() & layers.keys()
    ):  # only when everything has been found to fit
        layer, indices = layers[name], adapter.tensors[name].indices
        shape = (layer.out_features, layer.in_features)
        layer.sidecar = Delta(indices, changes[name] * alpha, shape)
    for name, (_, after) in plain.items():
        _put(tensors[name], adapter.tensors[name].indices, after)
    model.zoo_sidecar = {n: (adapter.tensors[n].indices, p[0]) for n, p in plain.items()}  # type: ignore[assignment]
    return model


@torch.no_grad()
def detach(model: nn.Module) -> nn.Module:
    """Take the adapter off again; the model has the bits that it had before."""
    for module in model.modules():
        if isinstance(module, PackedLinear):
            module.sidecar = None
    kept: Any = model.__dict__.pop("zoo_sidecar", {})
    tensors = base_tensors(model)
    for name, (indices, before) in kept.items():
        _put(tensors[name], indices, before)
    return model


def _put(tensor: Tensor, indices: Tensor, values: Tensor) -> None:
    flat = tensor.detach().view(-1)
    flat.index_copy_(0, indices.to(flat.device), values.to(flat))
