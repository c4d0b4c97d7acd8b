"""PaCA (arXiv 2503.01905): random columns of each weight are trained, in place.

Of a layer's input, the backward pass needs only the entries that meet these columns, so nothing
else of it is kept; and no path beside the layer costs time, as those of LoRA do. `rank` is the
number of columns. The result is a sparse adapter of whole columns.
"""

import hashlib

import torch
from torch import Tensor, nn

from zoo.adapters.masks import Indices
from zoo.adapters.methods._peft import linear_targets
from zoo.adapters.methods.contract import Attachment, Options
from zoo.adapters.methods.shira import HookRoute
from zoo.errors import MismatchError
from zoo.quantization.packed import PackedLinear


def budget(model: nn.Module, options: Options) -> dict[str, int]:
    """Return {}: the mask's names only say which layers are adapted."""
    return {}


def attach(model: nn.Module, indices: Indices, options: Options) -> Attachment:
    """Attach a delta to every entry of the columns.

    Raises:
        MismatchError: a target is not a linear layer, or has fewer columns than the rank.

    """
    chosen: Indices = {}
    for name in linear_targets(model, options.mask, nn.Linear | PackedLinear):
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear | PackedLinear)
        if options.rank > layer.in_features:
            raise MismatchError(
                f"rank {options.rank} is more columns than the {layer.in_features} of {name}; "
                "take a smaller rank, or leave it out: --set mask.exclude=PATTERN"
            )
        order = torch.randperm(layer.in_features, generator=dice(options.seed, name))
        taken = order[: options.rank].sort().values
        chosen[f"{name}.weight"] = columns(taken, layer.out_features, layer.in_features)
    return HookRoute(model, on_device_of(model, chosen))


def dice(seed: int, name: str) -> torch.Generator:
    """Return a generator of a layer's own."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7]
    return torch.Generator().manual_seed(int.from_bytes(key, "little"))


def columns(taken: Tensor, rows: int, width: int) -> Tensor:
    """Return the sorted flat indices of whole columns of a (rows, width) matrix."""
    return (torch.arange(rows)[:, None] * width + taken).view(-1)


def on_device_of(model: nn.Module, indices: Indices) -> Indices:
    """Return indices where the model is."""
    tensors = [*model.parameters(), *model.buffers()]
    return {name: part.to(tensors[0].device) for name, part in indices.items()}
