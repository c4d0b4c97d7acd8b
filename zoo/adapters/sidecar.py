"""Sparse adapters next to the codes: a packed model is adapted without being quantized again.

An adapter of SHiRA (arXiv 2406.13175) adds S to a few entries of W. Codes cannot hold W + S, so S
stays what it is, and a packed layer computes y = W x + S x; taking it off leaves the codes as they
were.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters import registry
from zoo.adapters.format import SparseAdapter, added, check_base, check_form
from zoo.adapters.sparse import (
    BASE_TENSORS,
    SparseTensor,
    base_tensor,
    base_tensors,
    gather,
    places,
    unwrapped,
)
from zoo.errors import MismatchError
from zoo.quantization.bits import digest, dtype_name
from zoo.quantization.packed import PackedLinear
from zoo.registry import refs
from zoo.registry.layout import FACTS

log = logging.getLogger("zoo")

_ENTRIES = 1 << 22  # numbers in memory at once


class Delta:
    """S of one layer: `values` (nnz,) in float32 at flat positions of (rows, columns)."""

    def __init__(self, indices: Tensor, values: Tensor, shape: tuple[int, int]) -> None:
        self.indices, self.values, self.shape = indices, values.to(torch.float32), shape

    def __call__(self, x: Tensor) -> Tensor:
        """Return x S^T (..., rows) for x (..., columns), summed in float32."""
        rows, columns = self.shape
        indices, values = self.indices.to(x.device), self.values.to(x.device)
        owner, place = indices // columns, indices % columns
        flat = x.reshape(-1, columns).to(torch.float32)
        parts = [
            part.new_zeros(len(part), rows).index_add(1, owner, part[:, place] * values)
            for part in flat.split(max(1, _ENTRIES // max(len(values), 1)))
        ]
        return torch.cat(parts).view(*x.shape[:-1], rows)

    def add_to(self, weight: Tensor) -> Tensor:
        """Return W + S for W (rows, columns)."""
        values = self.values.to(weight)
        flat = weight.flatten().index_add(0, self.indices.to(weight.device), values)
        return flat.view(self.shape)


def is_packed(model: nn.Module) -> bool:
    """Say whether a model has packed layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


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
    layers = _packed(model)
    if any(layer.sidecar is not None for layer in layers.values()):
        raise MismatchError("an adapter is already on; take it off with sidecar.detach(model)")
    tensors = base_tensors(model)
    deltas: dict[str, Delta] = {}
    foreign: list[str] = []  # not trained on the packed weights
    plain: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in adapter.tensors.items():
        if (layer := layers.get(name)) is not None:
            before = _before(name, tensor, layer)
            if digest(before.to(tensor.dtype)) != tensor.base_sha256:
                foreign.append(name)
            values = tensor.values.to(torch.float32)
            change = values - before if adapter.mode == "overwrite" else values
            shape = (layer.out_features, layer.in_features)
            deltas[name] = Delta(tensor.indices, change * alpha, shape)
            continue
        live = base_tensor(tensors, name)
        before = gather(live, tensor.indices)
        check_form(name, tensor.shape, tensor.dtype, live)
        check_base(name, tensor, before)
        values = tensor.values.to(torch.float32)
        change = values - before.float() if adapter.mode == "overwrite" else values
        plain[name] = (before, added(name, before, change * alpha))
    if foreign:
        _check_origin(foreign, adapter, model)
    for name, delta in deltas.items():  # only when everything has been found to fit
        layers[name].sidecar = delta
    for name, (_, after) in plain.items():
        _put(tensors[name], adapter.tensors[name].indices, after)
    model.zoo_sidecar = {n: (adapter.tensors[n].indices, p[0]) for n, p in plain.items()}  # type: ignore[assignment]
    return model


def _packed(model: nn.Module) -> dict[str, PackedLinear]:
    """Return the packed layers by the checkpoint names of their weights."""
    named = unwrapped(model).named_modules()
    own = {f"{name}.weight": module for name, module in named if isinstance(module, PackedLinear)}
    return {name: own[place] for name, place in places(model, own).items()}


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


def _before(name: str, tensor: SparseTensor, layer: PackedLinear) -> Tensor:
    """Return the packed weight's values where an adapter changes it."""
    shape = (layer.out_features, layer.in_features)
    if tensor.shape != shape:
        raise MismatchError(f"{name} has shape {shape}; the adapter expects {tensor.shape}")
    return layer.dequantize().flatten().cpu().index_select(0, tensor.indices)


def _check_origin(names: list[str], adapter: SparseAdapter, model: nn.Module) -> None:
    """Check that the weights an adapter was trained on are those that were packed."""
    if rotation := _recipe(model).get("rotate"):
        raise MismatchError(
            f"{names[0]}: this checkpoint's weights were rotated ({rotation}) before they were "
            "packed, so that an adapter of its base does not fit: train one on this checkpoint, or "
            "pack the base without --rotate"
        )
    packed, trained = _packed_digests(model), _trained_digests(adapter)
    unknown = []
    for name in names:
        kind = dtype_name(adapter.tensors[name].dtype)
        ours, theirs = packed.get(name, {}).get(kind), trained.get(name, {}).get(kind)
        if ours is None or theirs is None:
            unknown.append(name)
        elif ours != theirs:
            raise MismatchError(
                f"{name}: the adapter was trained on other weights (sha256 {theirs[:12]}...) than "
                f"those that this checkpoint was packed from (sha256 {ours[:12]}...), whatever "
                "both are called: pack the adapter's own base, or train it on this checkpoint"
            )
    if unknown:
        _check_names(unknown[0], adapter, model, "adapter" if packed else "checkpoint")


def _packed_digests(model: nn.Module) -> Mapping[str, Mapping[str, str]]:
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    digests = getattr(config, BASE_TENSORS, None)
    return digests if isinstance(digests, Mapping) else {}


def _trained_digests(adapter: SparseAdapter) -> dict[str, dict[str, str]]:
    """Return the digests of the base's weights, its own or, by its base's name, what ships."""
    own = adapter.metadata.get(BASE_TENSORS)
    if isinstance(own, dict):
        kinds = {name: dtype_name(tensor.dtype) for name, tensor in adapter.tensors.items()}
        return {name: {kinds[name]: own[name]} for name in kinds if isinstance(own.get(name), str)}
    base = adapter.metadata.get("base")
    return registry.base_digests(base) if isinstance(base, str) else {}


def _check_names(name: str, adapter: SparseAdapter, model: nn.Module, older: str) -> None:
    """Check the names of the bases, the only trace of them where `older` holds no digests."""
    wanted, packed = _trained_on(adapter), _packed_from(model)
    if wanted is None or packed is None:
        unknown = "the adapter does not say what" if wanted is None else "the model does not say of"
        raise MismatchError(
            f"{name}: the adapter was not trained on these packed weights, and {unknown} base it "
            "is; give an adapter whose metadata name its base, and a checkpoint of zoo compress"
        )
    same = wanted[0] == packed[0] and (wanted[1] is None or wanted[1] == packed[1])
    make = {"adapter": "train the adapter again", "checkpoint": "pack the base again"}[older]
    if not same:
        raise MismatchError(
            f"{name}: the adapter was trained on {_named(wanted)}; this checkpoint was packed "
            f"from {_named(packed)}. Only the names could be compared, because the {older} has no "
            f"digest of the base's weights: {make} to record them"
        )
    log.warning(
        "the %s has no digest of the base's weights, so only the name of the base was checked: %s",
        older,
        _named(wanted),
    )


def _named(base: tuple[str, str | None]) -> str:
    return base[0] + (f"@{base[1]}" if base[1] else "")


def _trained_on(adapter: SparseAdapter) -> tuple[str, str | None] | None:
    base = adapter.metadata.get("base")
    if isinstance(base, dict) and isinstance(base.get("repo"), str):
        return base["repo"], base.get("commit")
    return _split(base) if isinstance(base, str) else None


def _packed_from(model: nn.Module) -> tuple[str, str | None] | None:
    base = _recipe(model).get("base")
    return _split(base) if isinstance(base, str) else None


def _recipe(model: nn.Module) -> dict[str, Any]:
    """Return how the model was compressed, options included, as its folder says."""
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
