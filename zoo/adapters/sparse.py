"""One tensor's sparse change, and the base tensors that it belongs to."""

import hashlib
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.quantization.bits import dtype_name
from zoo.quantization.packed import PackedLinear

Base = nn.Module | Mapping[str, Tensor]
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
BASE_TENSORS = "base_tensors"  # metadata: digest of each whole tensor of the base, by its name


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """What an adapter does to one tensor of its base.

    Attributes:
        indices: int64 (nnz,), strictly increasing: flat positions in row-major order of `shape`.
        values: (nnz,), what is added there (delta) or replaces the values there (overwrite).
        shape: shape of the base tensor.
        dtype: type of the base tensor.
        base_sha256: digest of the base's values at `indices`.

    """

    indices: Tensor
    values: Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    base_sha256: str

    @property
    def numel(self) -> int:
        """Elements of the base tensor."""
        return math.prod(self.shape)

    @property
    def nnz(self) -> int:
        """Elements that change."""
        return len(self.indices)

    @property
    def density(self) -> float:
        """Fraction of the elements that change."""
        return self.nnz / max(self.numel, 1)

    @cached_property
    def mask_sha256(self) -> str:
        """Digest of the positions, the same for equal masks of equally large tensors."""
        return mask_digest(self.indices, self.numel)


def mask_digest(indices: Tensor, numel: int) -> str:
    """Return the SHA-256 of flat positions in a tensor of `numel` elements."""
    digest = hashlib.sha256(f"{numel}:".encode())
    digest.update(indices.numpy().astype("<i8", copy=False).data)
    return digest.hexdigest()


def fingerprint(model: Base) -> str:
    """Return the SHA-256 of every parameter and buffer: names, shapes, types and bits."""
    hasher = hashlib.sha256()
    tensors = _live(unwrapped(model)) if isinstance(model, nn.Module) else model
    for name, tensor in sorted(tensors.items()):
        live = tensor.detach().cpu().contiguous()
        hasher.update(f"{name} {tuple(live.shape)} {live.dtype}\n".encode())
        hasher.update(live.view(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return what `torch.compile` and peft wrapped, or the model itself."""
    peft = sys.modules.get("peft")  # nobody has wrapped anything in what is not imported
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and peft is not None and isinstance(model, peft.PeftModel):
            inner = model.get_base_model()
        if inner is None:
            return model
        model = inner


def places(model: nn.Module, names: Iterable[str] | None = None) -> dict[str, str]:
    """Return which of the unwrapped model's own names each checkpoint name stands for.

    The names are the model's own, without the `base_layer` of layers that peft has wrapped. For a
    model of transformers they are also those of its class with a head, or without
    (`base_model_prefix`): "model.layers.0..." for "layers.0..." of `AutoModel`, and the reverse.

    Args:
        model: the model.
        names: the model's own names; None for those of all its parameters and buffers.

    """
    model = unwrapped(model)
    names = _live(model) if names is None else names
    wrapped = _wrapped(model)
    found = {}
    for name in names:
        parent, _, leaf = name.rpartition(".base_layer.")
        found[f"{parent}.{leaf}" if parent in wrapped else name] = name
    prefix = getattr(model, "base_model_prefix", "")
    if isinstance(prefix, str) and prefix:
        inner = isinstance(getattr(model, prefix, None), nn.Module)
        for name, place in list(found.items()):
            if not inner:
                found.setdefault(f"{prefix}.{name}", place)
            elif name.startswith(f"{prefix}."):
                found.setdefault(name.removeprefix(f"{prefix}."), place)
    return found


def _wrapped(model: nn.Module) -> set[str]:
    """Return the names of the layers that peft has put around others."""
    tuners = sys.modules.get("peft.tuners.tuners_utils")
    if tuners is None:
        return set()
    kind = tuners.BaseTunerLayer
    return {name for name, module in model.named_modules() if isinstance(module, kind)}


def _live(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by the model's own name, tied ones under each name."""
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors.update(model.named_buffers(remove_duplicate=False))
    return tensors


def base_tensors(model: Base) -> Mapping[str, Tensor]:
    """Return every parameter and buffer by its checkpoint names: see `places`.

    Weights of packed layers are among them, decoded anew each time that one is asked for.
    """
    if not isinstance(model, nn.Module):
        return model
    tensors = _live(unwrapped(model))
    found = {name: tensors[place] for name, place in places(model).items()}
    packed = packed_layers(model)
    return Decoded(found, packed) if packed else found


def is_packed(model: nn.Module) -> bool:
    """Say whether a model has packed layers."""
    return any(isinstance(module, PackedLinear) for module in model.modules())


def packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """Return the packed layers by the checkpoint names of their weights."""
    named = unwrapped(model).named_modules()
    own = {f"{name}.weight": module for name, module in named if isinstance(module, PackedLinear)}
    return {name: own[place] for name, place in places(model, own).items()} if own else {}


class Decoded(Mapping[str, Tensor]):
    """Tensors by name, of which those of packed layers are decoded when they are asked for."""

    def __init__(self, plain: Mapping[str, Tensor], packed: Mapping[str, PackedLinear]) -> None:
        self.plain, self.packed = plain, packed

    def __getitem__(self, name: str) -> Tensor:
        layer = self.packed.get(name)
        return self.plain[name] if layer is None else layer.dequantize()

    def __iter__(self) -> Iterator[str]:
        return iter({**self.plain, **self.packed})

    def __len__(self) -> int:
        return len({**self.plain, **self.packed})


def base_tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the tensor `name`, which must be here in memory and of a floating type."""
    if name not in tensors:
        last = name.rpartition(".")[0].rpartition(".")[2]
        near = [known for known in tensors if last and last in known][:3]
        hint = f"; it has {', '.join(near)}" if near else ""
        raise MismatchError(
            f"the model has no tensor {name!r}{hint} (names are those of its checkpoint; "
            "is this the base model that the adapter names?)"
        )
    tensor = tensors[name]
    if tensor.is_meta:
        raise MismatchError(
            f"{name} is on the meta device (offloaded or not loaded); load the whole model first"
        )
    if tensor.dtype not in FLOATS:
        raise MismatchError(f"{name} is {tensor.dtype}; sparse adapters change {_listed(FLOATS)}")
    return tensor


def check_shape(name: str, wanted: tuple[int, ...], live: tuple[int, ...]) -> None:
    """Check a base tensor's shape against that which an adapter was made for."""
    if live != wanted:
        raise MismatchError(f"{name} has shape {live}; the adapter expects {wanted}")


def gather(tensor: Tensor, indices: Tensor) -> Tensor:
    """Return the values at flat row-major `indices`, on the CPU."""
    tensor = tensor.detach()
    where = indices.to(tensor.device)
    if tensor.is_contiguous():
        return tensor.view(-1).index_select(0, where).cpu()
    return torch.take(tensor, where).cpu()


def _listed(items: Any) -> str:
    return ", ".join(map(dtype_name, items))
