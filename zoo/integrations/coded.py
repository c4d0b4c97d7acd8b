"""Checkpoints of coded bf16 weights in transformers; see `zoo.integrations.bridge`."""

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

from zoo.errors import MismatchError, UnsafeFileError
from zoo.integrations.stored import check_layer, check_version
from zoo.quantization import coded
from zoo.quantization.coded import FORMAT_VERSION, METHOD


class CodedConfig(QuantizationConfigMixin):  # type: ignore[misc]
    """`quantization_config` of a checkpoint of coded weights.

    Args:
        format_version: version of the layout of the stored tensors.
        streams: name of a coded layer -> bytes of its stream of codes.
        tied: whether the head has the rows of the embedding.
        digests: name of a coded layer -> digest of its stored integers.

    """

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        streams: Mapping[str, int] | None = None,
        tied: bool = False,
        digests: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_version(format_version, FORMAT_VERSION)
        self.quant_method = METHOD
        self.format_version = format_version
        self.streams = dict(streams or {})
        if not all(type(size) is int and size >= 0 for size in self.streams.values()):
            raise UnsafeFileError("streams of quantization_config are not numbers of bytes")
        self.tied, self.digests = bool(tied), dict(digests or {})


class CodedQuantizer(HfQuantizer):  # type: ignore[misc]
    """Puts a coded layer where the checkpoint holds codes."""

    requires_calibration = True

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        config: CodedConfig = self.quantization_config
        for name, size in config.streams.items():
            place, layer = _found(model, name)
            if layer is None:
                continue
            if type(layer) not in (nn.Linear, nn.Embedding):
                raise MismatchError(f"{name} is a {type(layer).__name__}, which is never coded")
            model.set_submodule(place, coded.empty(layer, size))
        table = model.get_input_embeddings()
        if config.tied and model.get_output_embeddings() is not None:
            if not isinstance(table, coded.CodedEmbedding):
                raise MismatchError("the head is tied to an embedding that is not coded")
            model.set_output_embeddings(coded.TiedCodedHead(table))

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        config: CodedConfig = self.quantization_config
        for name in config.streams:
            module = _found(model, name)[1]
            if not isinstance(module, coded.CodedWeight) or module.get_buffer("rest").is_meta:
                continue
            check_layer(name, module, module.stored(), config.digests.get(name))
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | str | None = None) -> Any:
        kind = getattr(torch, dtype) if isinstance(dtype, str) else dtype or torch.bfloat16
        coded.decode_model(model, kind)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        """Return True: the buffers are the checkpoint."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Return True: codes have no gradient, but adapters beside them do."""
        return True


def _found(model: nn.Module, name: str) -> tuple[str, nn.Module | None]:
    """Return a layer of the checkpoint, also in a model without its head, where names are short."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for place in (name, name.removeprefix(prefix)):
        try:
            return place, model.get_submodule(place)
        except AttributeError:
            continue
    return name, None


def register() -> None:
    """Tell transformers about the method, once."""
    if METHOD not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        register_quantization_config(METHOD)(CodedConfig)
        register_quantizer(METHOD)(CodedQuantizer)


register()
