"""Whether an adapter fits a packed model: by digests of the weights, or by the names of old ones.

It fits if it was trained on what the codes decode to, or on the weights that were packed.
"""

import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.adapters import registry
from zoo.adapters.sparse import BASE_TENSORS, Base, SparseTensor, check_shape, gather, packed_layers
from zoo.errors import MismatchError
from zoo.quantization.bits import digest, dtype_name
from zoo.registry import refs
from zoo.registry.layout import FACTS

log = logging.getLogger("zoo")

Tensors = Mapping[str, SparseTensor]
Facts = Mapping[str, Any]  # an adapter's metadata


def check(tensors: Tensors, facts: Facts, model: Base) -> Collection[str]:
    """Check an adapter's changes to packed layers; return their names.

    Args:
        tensors: the adapter's changes, by checkpoint name.
        facts: its metadata.
        model: the model; without packed layers there is nothing to check here.

    Raises:
        MismatchError: it was trained neither on the packed weights nor on those that were packed.

    """
    if not isinstance(model, nn.Module):
        return ()
    layers = packed_layers(model)
    names = [name for name in tensors if name in layers]
    foreign = []
    for name in names:
        tensor, layer = tensors[name], layers[name]
        check_shape(name, tensor.shape, (layer.out_features, layer.in_features))
        before = gather(layer.dequantize(tensor.dtype), tensor.indices)
        if digest(before) != tensor.base_sha256:
            foreign.append(name)
    if foreign:
        _check_origin(foreign, tensors, facts, model)
    return names


def _check_origin(names: list[str], tensors: Tensors, facts: Facts, model: nn.Module) -> None:
    """Check that the weights an adapter was trained on are those that were packed."""
    if rotation := _recipe(model).get("rotate"):
        raise MismatchError(
            f"{names[0]}: this checkpoint's weights were rotated ({rotation}) before they were "
            "packed, so that an adapter of its base does not fit: train one on this checkpoint, or "
            "pack the base without --rotate"
        )
    if _recipe(model).get("awq"):
        raise MismatchError(
            f"{names[0]}: this checkpoint's weights were scaled before they were packed, so that "
            "an adapter of its base does not fit: train one on this checkpoint, or pack the base "
            "without --awq"
        )
    packed, trained = _packed_digests(model), _trained_digests(tensors, facts)
    unknown = []
    for name in names:
        kind = dtype_name(tensors[name].dtype)
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
        _check_names(unknown[0], facts, model, "adapter" if packed else "checkpoint")


def _packed_digests(model: nn.Module) -> Mapping[str, Mapping[str, str]]:
    config = getattr(getattr(model, "config", None), "quantization_config", None)
    digests = getattr(config, BASE_TENSORS, None)
    return digests if isinstance(digests, Mapping) else {}


def _trained_digests(tensors: Tensors, facts: Facts) -> dict[str, dict[str, str]]:
    """Return the digests of the base's weights, its own or, by its base's name, what ships."""
    own = facts.get(BASE_TENSORS)
    if isinstance(own, dict):
        kinds = {name: dtype_name(tensor.dtype) for name, tensor in tensors.items()}
        return {name: {kinds[name]: own[name]} for name in kinds if isinstance(own.get(name), str)}
    base = facts.get("base")
    return registry.base_digests(base) if isinstance(base, str) else {}


def _check_names(name: str, facts: Facts, model: nn.Module, older: str) -> None:
    """Check the names of the bases, the only trace of them where `older` holds no digests."""
    wanted, packed = _trained_on(facts), _packed_from(model)
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


def _trained_on(facts: Facts) -> tuple[str, str | None] | None:
    base = facts.get("base")
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
