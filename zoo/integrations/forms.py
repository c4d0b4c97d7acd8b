"""Checkpoints of matrices in forms in transformers; see `zoo.integrations.bridge`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers.quantizers import (
    HfQuantizer,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import QuantizationConfigMixin

from zoo.models.structured.layers import Structured
from zoo.models.structured.network import METHOD, forms_of, restructure, structure_of


class FormsConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a checkpoint of matrices in forms.

    Args:
        structure: the form of each layer by its name, see `zoo.models.structured.network`.

    """

    def __init__(self, structure: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.quant_method = METHOD
        self.structure = dict(structure or {})
        forms_of(self.structure)  # refuses what is none


class FormsQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts a structured layer where the checkpoint holds factors."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        forms = forms_of(self.quantization_config.structure)
        prefix = f"{getattr(model, 'base_model_prefix', '')}."
        here = {name for name, _ in model.named_modules()}
        if not here & set(forms):  # the model without its head, where names are short
            forms = {name.removeprefix(prefix): form for name, form in forms.items()}
            forms = {name: form for name, form in forms.items() if name in here}
        with torch.device("meta"):
            restructure(model, structure_of(forms))
        for layer in model.modules():
            if isinstance(layer, Structured):
                layer.to(model.dtype)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        layers = {n: m for n, m in model.named_modules() if isinstance(m, Structured)}
        for name, layer in layers.items():
            plain: nn.Module = layer.plain()  # type: ignore[operator]
            model.set_submodule(name, plain)
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        return model if kind is None else model.to(kind)

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Return True: the factors are the checkpoint."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return True: factors are ordinary parameters."""
        return True


def register() -> None:
    """Tell transformers about the method, once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(FormsConfig)
        register_quantizer(METHOD)(FormsQuantizer)


register()
