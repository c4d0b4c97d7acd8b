"""To and from the SHiRA format of the peft library, and to its LoRA's, without peft itself.

peft stores per Linear layer `shira_weight` (nnz,) in fp32 and `shira_indices` (2, nnz) of rows and
columns; a flat position is row * in_features + column. Every layer must have r (in + out) of
them, so an export is filled up with zeros at unused positions; the file records how many are real,
and an import drops the rest: the round trip is exact.

peft does not check the indices of a file; here they are checked.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.adapters.format import SparseAdapter
from zoo.adapters.sparse import Base, base_tensors, unwrapped
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.files import replacing, write_json

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _REAL = "base_model.model.", "edge_zoo_nnz"


def to_peft(adapter: SparseAdapter, folder: str | Path, model: nn.Module) -> Path:
    """Write a folder that `peft.PeftModel.from_pretrained(model, folder)` loads; return it.

    Args:
        adapter: an adapter of Linear weights only.
        folder: the folder to write.
        model: the pristine base.

    Raises:
        MismatchError: the adapter changes something that peft's SHiRA cannot, such as a
            convolution.

    """
    folder = Path(folder)
    model = unwrapped(model)
    adapter.check(model)
    modules = [_linear(model, name) for name in adapter.tensors]
    rank = max(
        (math.ceil(t.nnz / sum(t.shape)) for t in adapter.tensors.values() if t.nnz), default=1
    )
    tensors: dict[str, Tensor] = {}
    deltas = adapter.deltas(model)
    for module, (name, tensor) in zip(modules, adapter.tensors.items(), strict=True):
        wanted = rank * sum(tensor.shape)
        if wanted > tensor.numel:
            raise MismatchError(
                f"peft gives every layer r (in + out) elements; with r = {rank}, {name} of shape "
                f"{tensor.shape} is too small; leave that layer out"
            )
        where = _filled(tensor.indices.numpy(), wanted, tensor.numel)
        values = np.zeros(wanted, dtype=np.float32)
        values[: tensor.nnz] = deltas[name].numpy()
        pairs = np.stack(np.divmod(where, tensor.shape[1])).astype(np.int32)
        tensors[f"{_PREFIX}{module}.shira_weight"] = torch.from_numpy(values)
        tensors[f"{_PREFIX}{module}.shira_indices"] = torch.from_numpy(pairs)
    real = {name: tensor.nnz for name, tensor in adapter.tensors.items()}
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary, metadata={_REAL: json.dumps(real)})
    base = adapter.metadata.get("base")
    base = base if isinstance(base, Mapping) else {}
    write_json(
        folder / CONFIG,
        {
            "peft_type": "SHIRA",
            "task_type": None,
            "base_model_name_or_path": base.get("repo"),
            "revision": base.get("commit"),
            "inference_mode": True,
            "r": rank,
            "mask_type": "custom",  # or peft would work out a random mask only to discard it
            "target_modules": _targets(model, modules),
            "fan_in_fan_out": False,
            "init_weights": True,
        },
    )
    return folder


def write_lora(folder: Path, model: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Write a LoRA that `peft.PeftModel.from_pretrained(model, folder)` loads.

    Args:
        folder: the folder to write.
        model: the base.
        pairs: A (r, n) and B (m, r) by the name of the linear layer that becomes W + B A; each may
            have its own rank.

    """
    tensors = {}
    for name, (a, b) in pairs.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.detach().float().cpu().contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.detach().float().cpu().contiguous()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    ranks = {name: len(a) for name, (a, _) in pairs.items()}
    common = max(ranks.values())
    own = {name.replace(".", r"\."): rank for name, rank in ranks.items() if rank != common}
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None,
        "inference_mode": True, "r": common, "lora_alpha": common, "lora_dropout": 0.0,
        "bias": "none", "fan_in_fan_out": False, "init_lora_weights": True,
        "target_modules": _targets(model, list(pairs)), "rank_pattern": own, "alpha_pattern": own,
    }  # fmt: skip
    write_json(folder / CONFIG, config)


def _linear(model: nn.Module, name: str) -> str:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    if leaf != "weight" or not isinstance(module, nn.Linear):
        raise MismatchError(
            f"{name} is {'a bias' if leaf == 'bias' else f'of {type(module).__name__}'}; peft's "
            "SHiRA changes weights of Linear layers only; keep this adapter in its own format"
        )
    return path


def _filled(indices: "np.ndarray[Any, Any]", wanted: int, numel: int) -> "np.ndarray[Any, Any]":
    """Return `indices`, then the lowest unused ones up to `wanted`."""
    lowest = np.setdiff1d(np.arange(min(wanted, numel)), indices, assume_unique=True)
    return np.concatenate([indices, lowest[: wanted - len(indices)]])


def _targets(model: nn.Module, modules: list[str]) -> list[str] | str:
    """Return the modules' names, or a pattern if peft would match them as ends of others."""
    chosen = set(modules)
    for name, _ in model.named_modules():
        parts = name.split(".")
        ends = {".".join(parts[i:]) for i in range(1, len(parts))}
        if name not in chosen and ends & chosen:
            return "|".join(name.replace(".", r"\.") for name in sorted(chosen))
    return sorted(chosen)


def from_peft(folder: str | Path, model: Base) -> SparseAdapter:
    """Return what a folder written by peft, for SHiRA, changes in `model`.

    Raises:
        MissingWeightsError: the folder lacks a file.
        MismatchError: it is another kind of adapter, or does not fit the model.
        UnsafeFileError: its indices are out of range or given twice, or it is damaged.

    """
    folder = Path(folder)
    config = _config(folder)
    try:
        with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
            real = json.loads((file.metadata() or {}).get(_REAL, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{folder / WEIGHTS} cannot be read: {error}") from error
    base = base_tensors(model)
    changes = {}
    for key in sorted(tensors):
        if key.endswith(".shira_indices") and key.replace("_indices", "_weight") in tensors:
            continue
        if not key.endswith(".shira_weight") or not key.startswith(_PREFIX):
            raise MismatchError(f"{folder / WEIGHTS} holds {key}, which no sparse adapter can have")
        name = f"{key.removeprefix(_PREFIX).removesuffix('.shira_weight')}.weight"
        if name not in base:
            raise MismatchError(f"{folder / WEIGHTS} changes {name}, which the model lacks")
        pairs = tensors.get(key.replace("shira_weight", "shira_indices"))
        count = real.get(name) if isinstance(real, dict) else None
        where, values = _flat(name, pairs, tensors[key], tuple(base[name].shape))
        changes[name] = (where[:count], values[:count]) if type(count) is int else (where, values)
    facts = {"repo": config.get("base_model_name_or_path"), "commit": config.get("revision")}
    made = {"source": "peft", "mask": {"kind": config.get("mask_type"), "r": config.get("r")}}
    try:
        return SparseAdapter.from_tensors(changes, model, metadata={"base": facts, **made})
    except MismatchError as error:
        raise UnsafeFileError(f"{folder / WEIGHTS}: {error}") from error


def _config(folder: Path) -> dict[str, Any]:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingWeightsError(f"{folder} has no {name}; expected a folder written by peft")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UnsafeFileError(f"{folder / CONFIG} cannot be read: {error}") from error
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "SHIRA":
        raise MismatchError(
            f"{folder} is an adapter of type {kind}; only SHIRA is sparse (a LoRA is made sparse "
            "by: zoo adapter convert)"
        )
    if config.get("fan_in_fan_out"):
        raise MismatchError(f"{folder} is for transposed layers (fan_in_fan_out)")
    return dict(config)


def _flat(
    name: str, pairs: Tensor | None, values: Tensor, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Return flat positions and values of one layer, with rows and columns checked."""
    if pairs is None:
        raise UnsafeFileError(f"{name} has values without indices")
    if len(shape) != 2 or pairs.shape != (2, *values.shape):
        raise UnsafeFileError(f"{name}: indices {tuple(pairs.shape)} for {tuple(values.shape)}")
    # On Windows peft writes the indices as fp32.
    whole = pairs.to(torch.int64)
    if pairs.is_floating_point() and not torch.equal(whole.to(pairs.dtype), pairs):
        raise UnsafeFileError(f"{name} has indices that are not whole numbers")
    limits = torch.tensor(shape).unsqueeze(1)
    if bool(((whole < 0) | (whole >= limits)).any()):
        raise UnsafeFileError(f"{name} has indices outside of its shape {shape}")
    return whole[0] * shape[1] + whole[1], values
