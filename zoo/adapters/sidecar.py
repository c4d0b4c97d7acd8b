"""Sparse adapters beside the codes: a packed model is adapted without being quantized anew.

An adapter of SHiRA (arXiv 2406.13175) adds S to few entries of W. Codes cannot hold W + S, so S
stays what it is, and a packed layer computes y = W x + S x; taking it off leaves the codes as they
were.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters.format import SparseAdapter, added, check_base, check_form
from zoo.adapters.sparse import SparseTensor, base_tensor, base_tensors, digest, gather
from zoo.errors import MismatchError
from zoo.quantization.delta import Delta
from zoo.quantization.packed import PackedLinear
from zoo.registry import refs
from zoo.registry.layout import FACTS


def is_packed(model: nn.Module) -> bool:
    """Say whether a model has packed layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


@torch.no_grad()
def attach(model: nn.Module, adapter: SparseAdapter, alpha: float = 1.0) -> nn.Module:
    """Put an adapter beside the codes of a packed model; return the model.

    It fits if it was trained on the packed weights, which their digest shows, or on the model that
    was packed, which both must name. One that overwrites gives its entries in full precision.

    Raises:
        MismatchError: it is for another base or revision, shapes differ, or one is on already;
            nothing was changed.

    """
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, PackedLinear)}
    if any(layer.sidecar is not None for layer in layers.values()):
        raise MismatchError("an adapter is on already; take it off with sidecar.detach(model)")
    tensors = base_tensors(model)
    deltas: dict[str, Delta] = {}
    plain: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        if (layer := layers.get(name)) is not None:
            deltas[name] = _delta(name, tensor, layer, adapter, model, alpha)
            continue
        live = base_tensor(tensors, name)
        before = gather(live, tensor.indices)
        check_form(name, tensor.shape, tensor.dtype, live)
        check_base(name, tensor, before)
        values = tensor.values.to(torch.float32)
        change = values - before.float() if adapter.mode == "overwrite" else values
        plain[name] = (before, added(name, before, change * alpha))
    for name, delta in deltas.items():  # only when everything has been found to fit
        layers[name].sidecar = delta
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


def _delta(
    name: str,
    tensor: SparseTensor,
    layer: PackedLinear,
    adapter: SparseAdapter,
    model: nn.Module,
    alpha: float,
) -> Delta:
    shape = (layer.out_features, layer.in_features)
    if tensor.shape != shape:
        raise MismatchError(f"{name} has shape {shape}; the adapter expects {tensor.shape}")
    before = layer.dequantize().flatten().cpu().index_select(0, tensor.indices)
    if digest(before.to(tensor.dtype)) != tensor.base_sha256:
        _check_origin(name, adapter, model)
    values = tensor.values.to(torch.float32)
    if adapter.mode == "overwrite":
        values = values - before
    return Delta(tensor.indices, values * alpha, shape)


def _check_origin(name: str, adapter: SparseAdapter, model: nn.Module) -> None:
    """Check that the model an adapter was trained on is the one that was packed."""
    if rotation := _recipe(model).get("rotate"):
        raise MismatchError(
            f"{name}: this checkpoint's weights were rotated ({rotation}) before they were packed, "
            "so that an adapter of its base does not fit: train one on this checkpoint, or pack "
            "the base without --rotate"
        )
    wanted, packed = _trained_on(adapter), _packed_from(model)
    if wanted is None or packed is None:
        unknown = "the adapter does not say what" if wanted is None else "the model does not say of"
        raise MismatchError(
            f"{name}: the adapter was not trained on these packed weights, and {unknown} base it "
            "is; give an adapter whose metadata name its base, and a checkpoint of zoo compress"
        )
    same = wanted[0] == packed[0] and (wanted[1] is None or wanted[1] == packed[1])
    if not same:
        raise MismatchError(
            f"{name}: the adapter was trained on {_named(wanted)}; this checkpoint was packed "
            f"from {_named(packed)}"
        )


def _named(base: tuple[str, str | None]) -> str:
    return base[0] + (f"@{base[1]}" if base[1] else "")


def _trained_on(adapter: SparseAdapter) -> tuple[str, str | None] | None:
    base = adapter.metadata.get("base")
    if isinstance(base, dict) and isinstance(base.get("repo"), str):
        return base["repo"], base.get("commit")
    return _split(base) if isinstance(base, str) else None


def _packed_from(model: nn.Module) -> tuple[str, str | None] | None:
    found = _recipe(model).get("base")
    return _split(found) if isinstance(found, str) else None


def _recipe(model: nn.Module) -> dict[str, Any]:
    """Return how the model's folder says that it was compressed, its options among the rest."""
    path = Path(str(getattr(model, "name_or_path", ""))) / FACTS
    try:
        made = dict(json.loads(path.read_text(encoding="utf-8"))["recipe"]["compress"])
        return {**dict(made.get("options", {})), **made}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _split(ref: str) -> tuple[str, str | None]:
    try:
        parsed = refs.parse(ref)
    except ValueError:
        return ref, None
    return (parsed.repo, parsed.revision) if isinstance(parsed, refs.RepoRef) else (ref, None)
