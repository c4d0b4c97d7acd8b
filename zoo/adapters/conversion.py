"""Sparse adapters made from what was trained elsewhere: a full fine-tune, or a LoRA.

Both are top-|delta| approximations: of each tensor's change, only the largest entries are kept. The
metadata record what share of the change's energy they hold.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters import masks
from zoo.adapters.format import SparseAdapter
from zoo.adapters.recipe import MaskOptions
from zoo.errors import MismatchError, MissingExtraError

State = nn.Module | Mapping[str, Tensor]


def from_full_finetune(
    base: nn.Module,
    tuned: State,
    density: float = 0.01,
    *,
    options: MaskOptions | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> SparseAdapter:
    """Return the adapter with the largest changes of a fine-tune, per tensor.

    Args:
        base: the model it started from.
        tuned: the tuned model, or its state dict.
        density: share of the entries kept.
        options: which tensors and budget (`include`, `exclude`, `scope`); other fields are unused.
        metadata: to keep with the adapter.

    Raises:
        MismatchError: a tensor is missing or has another shape, nothing changed, or the density is
            not a share.

    """
    if not 0 < density <= 1:
        raise MismatchError(f"density is {density}; expected more than 0, at most 1")
    options = options or MaskOptions()
    after = dict(tuned.named_parameters()) if isinstance(tuned, nn.Module) else tuned
    changes: dict[str, tuple[Tensor, Tensor]] = {}
    kept = total = 0.0
    for name, parameter in masks.targets(base, options).items():
        if name not in after or after[name].shape != parameter.shape:
            shape = tuple(after[name].shape) if name in after else "missing"
            raise MismatchError(
                f"{name} is {shape} in the tuned model; expected {tuple(parameter.shape)}"
            )
        change = (after[name].detach().cpu().float() - parameter.detach().cpu().float()).flatten()
        number = masks.count(change.numel(), density)
        indices = masks.first(change.abs(), number)
        indices = indices[change[indices] != 0]
        if indices.numel():
            changes[name] = (indices, change[indices])
        kept += float(change[indices].double().square().sum())
        total += float(change.double().square().sum())
    if not changes:
        raise MismatchError("the tuned model equals its base; there is nothing to adapt")
    facts = {"method": "top-delta", "density": density, "energy_kept": kept / total}
    return SparseAdapter.from_tensors(changes, base, metadata={**facts, **dict(metadata or {})})


def from_lora(
    base: nn.Module,
    lora: str | Path,
    density: float = 0.01,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> SparseAdapter:
    """Return the adapter with the largest changes of a LoRA (or DoRA) that PEFT saved.

    Args:
        base: the model it was trained on; left as it was.
        lora: PEFT's folder, with safetensors.
        density: share of the entries kept.
        metadata: to keep with the adapter.

    Raises:
        MissingExtraError: peft is not installed.
        MismatchError: PEFT cannot load it on this base.

    """
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError.of("peft", "adapters") from None
    import copy

    if not (Path(lora) / "adapter_model.safetensors").is_file():
        raise MismatchError(f"{lora} holds no adapter_model.safetensors that PEFT saved")
    try:
        wrapped = PeftModel.from_pretrained(copy.deepcopy(base), lora)
        merged: nn.Module = wrapped.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError, KeyError, OSError) as error:
        raise MismatchError(f"{lora} does not fit this base: {error}") from error
    before = dict(base.named_parameters())
    after = dict(merged.named_parameters())
    changed = tuple(
        name
        for name, parameter in before.items()
        if name in after and parameter.dim() >= 2 and not torch.equal(parameter, after[name])
    )
    if not changed:
        raise MismatchError(f"{lora} changes nothing in this base")
    return from_full_finetune(
        base, merged, density, options=MaskOptions(include=changed), metadata=metadata
    )
