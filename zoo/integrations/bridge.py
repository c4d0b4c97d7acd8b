"""Packed checkpoints in transformers: its own loaders open them after `import zoo.quantization`.

`from_pretrained`, `generate`, `save_pretrained`, `dequantize`, `device_map` and `push_to_hub`
remain those of transformers; this registers a configuration and a quantizer under the method's
name.
"""

import importlib
from collections.abc import Iterable, Mapping
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

from zoo.errors import MismatchError
from zoo.integrations.stored import check_layer, check_version
from zoo.quantization import embeddings as tables
from zoo.quantization import exposed
from zoo.quantization.coverage import is_linear
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import FORMAT_VERSION, METHOD, PackedLinear


class ZooQuantizationConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a packed checkpoint: which layers are packed, and how.

    Args:
        format_version: version of the layout of the stored tensors.
        options: fields of `LayerOptions`, for every packed layer that `overrides` does not name.
        overrides: name of a layer -> its options.
        blocks: all linear layers below this name are packed ("" for the whole model), ...
        modules_to_not_convert: ... but these.
        bits_per_weight: stored bits of the packed layers, everything included, per weight.
        embeddings: bits of the rows of embedding and head: 8, or 0 if they are floats.
        tied: with 8 bits, whether the head has the rows of the embedding.
        base_tensors: name of a packed weight -> type -> digest of the base's weight in that type,
            by which adapters that were trained on the base are known; none in older checkpoints.
        exposed: names of what was no `nn.Linear` and is packed as such; see
            `zoo.quantization.exposed`.
        digests: name of a packed layer -> digest of its stored integers, by which damage is seen
            when the checkpoint is loaded; none in older checkpoints.

    """

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        options: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        blocks: str = "",
        modules_to_not_convert: list[str] | None = None,
        bits_per_weight: float | None = None,
        embeddings: int = 0,
        tied: bool = False,
        base_tensors: Mapping[str, Mapping[str, str]] | None = None,
        exposed: list[str] | None = None,
        digests: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_version(format_version, FORMAT_VERSION)
        self.quant_method = METHOD
        self.format_version = format_version
        self.options = dict(options or {})
        self.overrides = {name: dict(value) for name, value in (overrides or {}).items()}
        self.blocks = blocks
        self.modules_to_not_convert = list(modules_to_not_convert or [])
        self.bits_per_weight = bits_per_weight
        if embeddings not in (0, 8):
            raise MismatchError(f"embeddings is {embeddings!r}; this zoo reads 0 and 8 bits")
        self.embeddings, self.tied = embeddings, bool(tied)
        self.base_tensors = {name: dict(value) for name, value in (base_tensors or {}).items()}
        self.exposed = list(exposed or [])
        self.digests = dict(digests or {})
        for value in (self.options, *self.overrides.values()):
            LayerOptions.from_dict(value)  # refuses unknown options

    def options_of(self, name: str, inner: str) -> LayerOptions | None:
        """Return the options of a linear layer, or None if it is not packed.

        Args:
            name: the layer's name in the model at hand.
            inner: what the checkpoint's names have in front of it: "model." if the model is loaded
                without its head.

        """
        full = f"{inner}{name}"
        if self.blocks and not full.startswith(f"{self.blocks}."):
            return None
        if full in self.modules_to_not_convert:
            return None
        return LayerOptions.from_dict(self.overrides.get(full, self.options))


class ZooQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts a `PackedLinear` where the checkpoint holds codes."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config: ZooQuantizationConfig = self.quantization_config
        inner = _prefix(model, config)
        pack(model, config, inner)
        if config.embeddings:
            tables.pack(model, tied=config.tied)

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        config: ZooQuantizationConfig = self.quantization_config
        inner = _prefix(model, config)
        for name, module in model.named_modules():
            if not isinstance(module, PackedLinear | tables.Rows):
                continue
            if not module.get_buffer("codes").is_meta:
                known = config.digests.get(f"{inner}{name}")
                check_layer(name, module, dict(module.named_buffers()), known)
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        # A configuration that has been saved in between has the type as a text.
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.float32
        tables.unpack(model, kind)
        unpack(model, kind)
        config = self.quantization_config
        exposed.conceal(model, _inside(model, config.exposed, _prefix(model, config)))
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Return True: the buffers are the checkpoint."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return True: codes have no gradient, but adapters beside them do."""
        return True

    @property
    def is_compileable(self) -> bool:
        """Return True: decoding is ordinary tensor code."""
        return True


def _prefix(model: nn.Module, config: ZooQuantizationConfig) -> str:
    """Return what the checkpoint's names have in front of the model's: "", or "model."."""
    if not config.blocks:
        prefix = getattr(model, "base_model_prefix", "")
        names = [*config.exposed, *config.overrides, *config.modules_to_not_convert]
        inner = f"{prefix}." if prefix and not _has(model, prefix) else ""
        return inner if any(name.startswith(inner) for name in names) else ""
    if _has(model, config.blocks):
        return ""
    inner = f"{config.blocks.split('.')[0]}."
    if not _has(model, config.blocks.removeprefix(inner)):
        raise MismatchError(
            f"the checkpoint packs the layers of {config.blocks!r}, which "
            f"{type(model).__name__} does not have"
        )
    return inner


def _inside(model: nn.Module, names: Iterable[str], inner: str) -> list[str]:
    """Return the names that a model has, without what the checkpoint's have in front."""
    return [kept for name in names if _has(model, (kept := name.removeprefix(inner)))]


def _has(model: nn.Module, name: str) -> bool:
    owner, _, key = name.rpartition(".")
    try:
        getattr(model.get_submodule(owner), key)
    except AttributeError:
        return False
    return True


def pack(model: nn.Module, config: ZooQuantizationConfig, inner: str = "") -> None:
    """Replace the linear layers that `config` names with empty packed ones on the meta device."""
    exposed.expose(model, _inside(model, config.exposed, inner))
    for name, layer in list(model.named_modules()):
        if not is_linear(layer):
            continue
        if (options := config.options_of(name, inner)) is None:
            continue
        with torch.device("meta"):
            packed = PackedLinear(
                layer.in_features,
                layer.out_features,
                options,
                bias=layer.bias is not None,
                dtype=layer.weight.dtype,
            )
        model.set_submodule(name, packed)


def unpack(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Replace the packed layers with ordinary ones of the decoded weights (float32 for None)."""
    dtype = dtype or torch.float32
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, PackedLinear):
            continue
        with torch.device("meta"):
            plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        plain.weight = nn.Parameter(layer.floats(dtype), requires_grad=False)
        if layer.bias is not None:
            plain.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
        model.set_submodule(name, plain)
    return model


def register() -> None:
    """Tell transformers about the method, once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(ZooQuantizationConfig)
        register_quantizer(METHOD)(ZooQuantizer)
    for other in ("coded", "forms"):  # each registers its own
        importlib.import_module(f"zoo.integrations.{other}")


register()
