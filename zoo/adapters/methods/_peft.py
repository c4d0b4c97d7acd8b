"""What the methods that go through PEFT share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from zoo.adapters import masks
from zoo.adapters.methods._lender import Lender
from zoo.adapters.methods.contract import Options, Sparse, Values
from zoo.adapters.recipe import MaskOptions
from zoo.adapters.sparse import is_packed
from zoo.errors import MismatchError, MissingExtraError
from zoo.quantization.packed import PackedLinear


class PeftRoute(Lender):
    """Layers of PEFT in a base model.

    Args:
        model: the PeftModel.
        facts: what identifies the start of a run.

    """

    def __init__(self, model: Any, facts: Mapping[str, Any]) -> None:
        self.model, self.facts = model, facts
        chosen = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.names = [name for name, _ in chosen]
        super().__init__(nn.ParameterList([p for _, p in chosen]))  # the same objects

    def close(self) -> None:
        """Take PEFT's layers out of the model again, without merging them."""
        self.model.unload()

    def result(self, values: Values, folder: Path) -> Sparse | None:
        """Write the folder that `PeftModel.from_pretrained` reads."""
        self.use(values)
        self.model.save_pretrained(folder)
        self.use()
        return None


def factors(model: nn.Module, options: Options, *, dora: bool) -> PeftRoute:
    """Attach the factors of LoRA or DoRA to the linear layers of a mask.

    Raises:
        MissingExtraError: peft is not installed.
        MismatchError: a target is not a linear layer, or PEFT refuses.

    """
    peft = package()
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank,
        target_modules=linear_targets(model, options.mask, nn.Linear | PackedLinear),
        use_dora=dora,
    )
    if is_packed(model):
        from zoo.integrations.lora import on_packed

        config = on_packed(config)
    return PeftRoute(peft.get_peft_model(model, config), {"mask": masks.digest({})})


def package() -> Any:
    """Return the package `peft`.

    Raises:
        MissingExtraError: it is not installed.

    """
    try:
        import peft
    except ImportError:
        raise MissingExtraError.of("peft", "adapters") from None
    return peft


def linear_targets(model: nn.Module, options: MaskOptions, kind: Any = nn.Linear) -> list[str]:
    """Return the names of the layers that a mask covers; PEFT takes those of `kind`, no others."""
    names = []
    for name in masks.targets(model, options):
        layer = model.get_submodule(name.rpartition(".")[0])
        if not isinstance(layer, kind):
            raise MismatchError(
                f"{name} belongs to {type(layer).__name__}, which this method of PEFT cannot take: "
                "use method shira, or mask.include"
            )
        names.append(name.rpartition(".")[0])
    return names
