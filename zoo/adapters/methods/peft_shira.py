"""SHiRA through PEFT, with the masks of the zoo."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters import masks
from zoo.adapters.methods import _peft
from zoo.adapters.methods.contract import Attachment, Options, Sparse, Values
from zoo.adapters.recipe import MaskOptions
from zoo.errors import MismatchError


def budget(model: nn.Module, options: Options) -> dict[str, int]:
    """Return the entries per tensor that PEFT asks for."""
    return peft_counts(model, options.mask, options.rank)


def attach(model: nn.Module, indices: masks.Indices, options: Options) -> Attachment:
    """Attach PEFT's layers with these masks.

    Raises:
        MissingExtraError: peft is not installed.
        MismatchError: a target is not a linear layer.

    """
    _peft.package()
    _peft.linear_targets(model, options.mask)
    return PeftShira(model, indices, options.rank)


class PeftShira(_peft.PeftRoute):
    """PEFT's SHiRA, which yields a sparse adapter like the other SHiRA methods."""

    def __init__(self, model: nn.Module, indices: masks.Indices, rank: int) -> None:
        super().__init__(wrap_shira(model, indices, rank), {"mask": masks.digest(indices)})
        self.base, self.indices = model, indices

    def deltas(self, values: Values) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name."""
        deltas = {}
        for number, name in enumerate(self.names):
            layer = name.removeprefix("base_model.model.").split(".shira_weight")[0]
            indices = self.indices[f"{layer}.weight"].cpu()
            deltas[f"{layer}.weight"] = (indices, values[str(number)].float().cpu())
        return deltas

    def result(self, values: Values, folder: Path) -> Sparse:
        """Return what a sparse adapter is made of; PEFT leaves the base's values alone."""
        pristine = {
            name.replace(".base_layer.", "."): parameter
            for name, parameter in self.base.named_parameters()
            if "shira_" not in name
        }
        return self.deltas(values), pristine


def peft_counts(model: nn.Module, options: MaskOptions, rank: int) -> dict[str, int]:
    """Return the entries per tensor that PEFT asks for: rank * (rows + columns)."""
    chosen = masks.targets(model, options)
    counts = {name: rank * sum(parameter.shape) for name, parameter in chosen.items()}
    for name, number in counts.items():
        if number > chosen[name].numel():
            raise MismatchError(f"rank {rank} asks for more entries than {name} has")
    return counts


def wrap_shira(
    model: nn.Module, indices: Mapping[str, Tensor], rank: int, adapter: str = "default"
) -> Any:
    """Return a SHiRA PeftModel with our masks, whose indices survive saving and resuming.

    PEFT keeps the indices in a plain dictionary: `state_dict`, hence `accelerate.save_state` and
    the Trainer, lose them, and a mask that is made again may differ. Here each layer's indices
    are also a persistent buffer, and loading a state puts them back where PEFT reads them.

    Args:
        model: the base, changed in place.
        indices: sorted flat indices of each target weight, rank * (rows + columns) of them.
        rank: PEFT's r.
        adapter: its name.

    """
    import peft

    layers = {id(model.get_submodule(n.rpartition(".")[0])): n for n in indices}

    def mask_of(layer: nn.Module, r: int, **_: Any) -> Tensor:
        weight = layer.weight
        assert isinstance(weight, Tensor)
        flat = torch.zeros(weight.numel(), device=weight.device)
        flat[indices[layers[id(layer)]].to(weight.device)] = 1.0
        return flat.view(weight.shape)

    config = peft.ShiraConfig(
        r=rank,
        target_modules=[name.rpartition(".")[0] for name in indices],
        init_weights=True,
    )
    settings: Any = config
    settings.mask_type, settings.mask_fn = "custom", mask_of  # the constructor would warn
    wrapped = peft.get_peft_model(model, config, adapter_name=adapter)
    keep_indices(wrapped, adapter)
    return wrapped


def keep_indices(wrapped: nn.Module, adapter: str = "default") -> None:
    """Make the indices of a SHiRA adapter part of the model's state dict."""
    name = f"zoo_indices_{adapter}"

    def restore(layer: Any, _: Any) -> None:
        layer.shira_indices[adapter] = getattr(layer, name)

    for layer in _shira_layers(wrapped):
        layer.register_buffer(name, layer.shira_indices[adapter])
        layer.register_load_state_dict_post_hook(restore)


def _shira_layers(wrapped: nn.Module) -> Sequence[Any]:
    from peft.tuners.shira.layer import ShiraLayer

    return [module for module in wrapped.modules() if isinstance(module, ShiraLayer)]
