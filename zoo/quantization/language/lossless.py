"""From a folder of a language model to the folder of its coded form, which loses nothing."""

import time
from pathlib import Path
from typing import Any

import torch

from zoo.errors import MismatchError
from zoo.files import write_json
from zoo.quantization import coded
from zoo.quantization.language import opening, whole
from zoo.quantization.language.job import REPORT
from zoo.quantization.language.source import CONFIG, Source
from zoo.quantization.packed import digest


def compress_lossless(folder: Path, out: Path, *, cast: bool = False) -> dict[str, Any]:
    """Write the model in `folder` with coded weights to `out`; return what is known, as a report.

    Args:
        folder: a model that transformers saved, in safetensors.
        out: a new folder.
        cast: round weights that are no bf16 numbers.

    Raises:
        MismatchError: `out` holds a finished model, `folder` a quantized one, or weights are no
            bf16 numbers.

    """
    from transformers.quantizers import AutoHfQuantizer

    began = time.perf_counter()
    source = Source(folder)
    if (out / CONFIG).is_file():
        raise MismatchError(f"{out} holds a finished model; choose another --out, or remove it")
    _ = source.config  # refuses what is quantized already
    model: Any = opening.load(folder)
    total = sum(value.numel() for value in model.parameters())
    streams = coded.encode_model(model, cast=cast)
    if not streams:
        raise MismatchError(f"{type(model).__name__} has no plain linear layer: nothing to store")
    model.to(torch.bfloat16)
    layers = {name: model.get_submodule(name) for name in streams}
    facts = {
        "quant_method": coded.METHOD,
        "format_version": coded.FORMAT_VERSION,
        "streams": streams,
        "tied": isinstance(model.get_output_embeddings(), coded.TiedCodedHead),
        "digests": {name: digest(layer.stored()) for name, layer in layers.items()},
    }
    quantizer: Any = AutoHfQuantizer.from_config(facts, pre_quantized=True)
    model.config.quantization_config = quantizer.quantization_config
    model.config.dtype = torch.bfloat16
    model.hf_quantizer, model.is_quantized = quantizer, True
    weights = sum(layer.shape[0] * layer.shape[1] for layer in layers.values())
    bits = 8 * sum(part.nbytes for layer in layers.values() for part in layer.stored().values())
    report = {
        "bits_per_weight": bits / weights,
        "weights": weights,
        "share": weights / total,
        "packed_bytes": bits // 8,
        "tensor_bytes": whole.save(model, source, out),
        "relative_error": 0.0,
        "lossless": True,
        "layers": {},
        "model": source.facts(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(out / REPORT, report)
    return report
