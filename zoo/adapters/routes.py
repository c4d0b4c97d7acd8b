"""The two routes of training an adapter, with one contract.

A route offers `trained` (a small module with every trained value and nothing else: what the
optimizer, the average and a saved state hold), `reduced()` gradients, `use(values)` (let the model
compute with these values), and `adapter(values)` or `save(values, folder)` for the result.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.adapters import masks
from zoo.adapters.compact import CompactValues
from zoo.adapters.recipe import AdapterRecipe, MaskOptions
from zoo.errors import MismatchError, MissingExtraError

Values = Mapping[str, Tensor]


class HookRoute:
    """SHiRA without wrapper modules: see `zoo.adapters.compact`."""

    def __init__(self, model: nn.Module, indices: Mapping[str, Tensor]) -> None:
        self.model = model
        self.compact = CompactValues(model, indices)
        self.handles = self.compact.attach(model)

    @property
    def trained(self) -> nn.Module:
        """All trained values: one flat vector of deltas."""
        return self.compact.trained

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the start of a run."""
        parts = self.compact.slices()
        indices = {name: self.compact.flat[part] for name, part in parts.items()}
        return {"mask": masks.digest(indices), "base": self.compact.base_digest()}

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values; None: with those being trained."""
        self.compact.write(self.model, None if values is None else values["deltas"])

    def close(self) -> None:
        """Give the base its own values back and remove the hooks."""
        for handle in self.handles:
            handle.remove()
        self.compact.restore(self.model)

    def collect(self) -> None:
        """Bring gradients to what is trained: the hooks have done so."""

    def deltas(self, values: Values) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name."""
        return self.compact.deltas(values["deltas"])


class PeftRoute:
    """A method of PEFT: "lora", "dora", or "peft-shira" with our masks."""

    def __init__(self, model: nn.Module, recipe: AdapterRecipe, indices: masks.Indices) -> None:
        self.recipe, self.indices = recipe, indices
        self._kept: Values = {}
        self.model = wrap(model, recipe, indices)
        found = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in found]
        self.trained: nn.Module = nn.ParameterList([p for _, p in found])  # the very parameters

    @property
    def facts(self) -> dict[str, Any]:
        """What identifies the start of a run."""
        return {"mask": masks.digest(self.indices)}

    def use(self, values: Values | None = None) -> None:
        """Let the model compute with these values; None: with those being trained."""
        if values is None:
            values, self._kept = self._kept, {}
        elif not self._kept:
            self._kept = {k: v.detach().clone() for k, v in self.trained.state_dict().items()}
        if values:
            self.trained.load_state_dict(dict(values))

    def close(self) -> None:
        """Take PEFT's layers out of the model again, without merging them."""
        self.model.unload()

    def save(self, values: Values, folder: Path) -> None:
        """Write the folder that `PeftModel.from_pretrained` reads."""
        self.use(values)
        self.model.save_pretrained(folder)
        self.use()

    def deltas(self, values: Values) -> dict[str, tuple[Tensor, Tensor]]:
        """Return (indices, deltas) by tensor name, of "peft-shira"."""
        found = {}
        for number, name in enumerate(self.names):
            layer = name.removeprefix("base_model.model.").split(".shira_weight")[0]
            indices = self.indices[f"{layer}.weight"].cpu()
            found[f"{layer}.weight"] = (indices, values[str(number)].float().cpu())
        return found


def wrap(model: nn.Module, recipe: AdapterRecipe, indices: masks.Indices) -> Any:
    """Return the PeftModel of a recipe around `model`, which is changed in place.

    Raises:
        MissingExtraError: peft is not installed.
        MismatchError: a target is no linear layer, or PEFT refuses.

    """
    try:
        import peft
    except ImportError:
        raise MissingExtraError.of("peft", "adapters") from None
    modules = linear_targets(model, recipe.mask)
    if recipe.method == "peft-shira":
        return wrap_shira(model, indices, recipe.rank)
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=2 * recipe.rank,
        target_modules=modules,
        use_dora=recipe.method == "dora",
    )
    return peft.get_peft_model(model, config)


def linear_targets(model: nn.Module, options: MaskOptions) -> list[str]:
    """Return the names of the linear layers that a mask covers; PEFT's SHiRA knows no others."""
    names = []
    for name in masks.targets(model, options):
        layer = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(layer, nn.Linear):
            raise MismatchError(
                f"{name} belongs to {type(layer).__name__}; PEFT's SHiRA takes linear layers only: "
                "use method shira, or mask.include"
            )
        names.append(name.rpartition(".")[0])
    return names


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
    the Trainer, lose them, and a mask that was made anew may differ. Here each layer's indices
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
    settings.mask_type, settings.mask_fn = "custom", mask_of  # given at once, it warns
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
