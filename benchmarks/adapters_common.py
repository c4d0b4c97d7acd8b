"""What the benchmarks of adapters share: a Llama, sparse adapters for it, and peft's."""

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.adapters import SparseAdapter

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def llama(hidden: int, layers: int, ffn: int, dtype: torch.dtype, seed: int = 0) -> nn.Module:
    """Return a Llama with random weights; its linear layers are what adapters change."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers,
        num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).eval()
    return model.requires_grad_(False)


def targets(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of the linear layers in the blocks, by name."""
    return {
        name: p
        for name, p in model.named_parameters()
        if name.endswith(".weight") and name.split(".")[-2] in LINEARS
    }


def sparse(
    model: nn.Module, density: float, seed: int, *, block: int = 1, masks: int | None = None
) -> SparseAdapter:
    """Return an adapter at random positions (blocks of `block`), changes of sigma 0.01.

    `masks` seeds the positions apart from the changes, for adapters of one mask.
    """
    where_from = torch.Generator().manual_seed(seed if masks is None else masks)
    values_from = torch.Generator().manual_seed(seed)
    found = {}
    for name, p in targets(model).items():
        blocks = p.numel() // block
        rows = torch.randperm(blocks, generator=where_from)[: round(blocks * density)]
        where = (rows[:, None] * block + torch.arange(block)).reshape(-1)
        found[name] = (where, torch.randn(len(where), generator=values_from) * 0.01)
    return SparseAdapter.from_tensors(found, model)


def with_peft(model: nn.Module, kind: str, rank: int) -> Any:
    """Return the model under peft with adapters "a" and "b" of `kind`, "a" merged.

    "shira" gives every layer rank (in + out) elements.
    """
    from peft import LoraConfig, ShiraConfig, get_peft_model

    def config(seed: int) -> Any:
        if kind == "lora":
            return LoraConfig(r=rank, lora_alpha=rank, target_modules=list(LINEARS))
        return ShiraConfig(
            r=rank, target_modules=list(LINEARS), random_seed=seed, init_weights=False
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = get_peft_model(model, config(1), adapter_name="a", autocast_adapter_dtype=True)
        wrapped.add_adapter("b", config(2))
    for name, p in wrapped.named_parameters():
        if "lora_" in name or "shira_" in name:
            p.data.normal_(std=0.01)
    wrapped.requires_grad_(False)
    wrapped.set_adapter("a")
    wrapped.merge_adapter(["a"])
    return wrapped


def file_bytes(path: Path) -> int:
    """Return the size of a file, or of the weights in a folder."""
    return (path / "adapter_model.safetensors" if path.is_dir() else path).stat().st_size
