"""Low rank in a folder of transformers: a language model, or another with blocks of linear layers.

All of a model's layers are seen at work in one pass of a text, in float32 and in memory; then they
are cut one by one.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from zoo.compression import ranks
from zoo.compression.matrices import Matrix, layers_of, matrices
from zoo.data.text import read_text, tokenize
from zoo.errors import MismatchError
from zoo.files import sha256, write_json
from zoo.models.structured.network import METHOD, structure_of
from zoo.quantization.language import blocks, calibration, opening, whole
from zoo.quantization.language.job import REPORT
from zoo.quantization.language.source import CONFIG, Source

if TYPE_CHECKING:
    from zoo.compression.methods.lowrank import Options

_INNER = "model."  # the names of a model's layers within `Logits`


class Logits(nn.Module):
    """A language model as tokens (N, T) to logits (N T, vocabulary)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of every token."""
        logits: Tensor = self.model(input_ids=ids, use_cache=False).logits
        return logits.flatten(0, -2)


def compress_folder(
    folder: Path, out: Path, options: "Options", text: Path | None
) -> dict[str, Any]:
    """Write the model in `folder` with thin matrices to `out`; return what is known, as a report.

    Args:
        folder: a model that transformers saved, in safetensors.
        out: a new folder.
        options: of low rank.
        text: what its layers are seen at work on, or None.

    Raises:
        MismatchError: `out` holds a finished model, `folder` one that is compressed, no layer
            becomes smaller, or the text is too short.

    """
    from transformers.quantizers import AutoHfQuantizer

    began = time.perf_counter()
    if (out / CONFIG).is_file():
        raise MismatchError(f"{out} holds a finished model; choose another --out, or remove it")
    if options.repair:
        raise MismatchError("a language model is not repaired; leave --repair out")
    if options.factors:
        raise MismatchError(
            "factors of a language model stay floats; leave --factors out, or round the whole "
            "model instead: --method gptq"
        )
    source = Source(folder)
    _ = source.config  # refuses what is compressed already
    model: Any = opening.load(folder)
    dtype, base = model.dtype, _counted(model)
    model.float()
    seen, facts = _batches(model, source, options, text)
    parts = _parts(model, seen, options)
    ranks.put(model, parts)
    model.to(dtype)
    structure = structure_of({name: part.form for name, part in parts.items()})
    quantizer: Any = AutoHfQuantizer.from_config(
        {"quant_method": METHOD, "structure": structure}, pre_quantized=True
    )
    model.config.quantization_config = quantizer.quantization_config
    model.hf_quantizer, model.is_quantized = quantizer, True
    after = _counted(model)
    errors = [part.error for part in parts.values()]
    report = {
        "numbers": after[0],
        "base_numbers": base[0],
        "macs": after[1],
        "base_macs": base[1],
        "tensor_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        "relative_error": sum(errors) / len(errors),
        "calibration": facts,
        "layers": {
            name: {"rank": part.form.rank, "relative_error": part.error}
            for name, part in parts.items()
        },
        "model": source.facts(),
        "seconds": round(time.perf_counter() - began, 1),
    }
    whole.save(model, source, out)
    write_json(out / REPORT, report)
    return report


def _counted(model: nn.Module) -> tuple[int, int]:
    """Return a model's numbers, and the multiply-accumulates of its layers for each token."""
    from zoo.models.structured.layers import Structured

    macs = 0
    for layer in model.modules():
        if isinstance(layer, Structured):
            macs += layer.form.macs(layer.m, layer.n)
        elif isinstance(layer, nn.Linear):
            macs += layer.weight.numel()
    return sum(p.numel() for p in model.parameters()), macs


def _batches(
    model: Any, source: Source, options: "Options", text: Path | None
) -> tuple[list[Tensor], dict[str, Any] | None]:
    """Return windows of a text, one in each batch; none where nothing has to be seen."""
    if not options.needs_data:
        return [], None
    if model.main_input_name != "input_ids" or not source.is_decoder:
        raise MismatchError(
            f"{type(model).__name__} does not continue text, so its layers are not seen at work "
            "here: add --no-whiten --ranks uniform"
        )
    if text is None:
        raise MismatchError("low rank sees layers at work on a text: give one with --data TEXT")
    stream = tokenize(source.folder, read_text(text))
    ids = calibration.windows(
        stream, count=options.windows, length=options.length, seed=options.seed
    )
    facts = {
        "text": text.name, "sha256": sha256(text), "tokens": len(stream),
        "windows": options.windows, "length": options.length,
    }  # fmt: skip
    return [window[None] for window in ids], facts


def _parts(
    model: nn.Module, seen: Sequence[Tensor], options: "Options"
) -> dict[str, ranks.Truncated]:
    """Return the matrices of a model's blocks that become smaller, by layer."""
    prefix, _ = blocks.find_blocks(model)
    network = Logits(model).eval()
    patterns = tuple(f"{_INNER}{pattern}" for pattern in options.layers)
    layers = {
        name: layer
        for name, layer in layers_of(network, patterns).items()
        if name.startswith(f"{_INNER}{prefix}.")
    }
    if not layers:
        raise MismatchError(f"none of --layers is in the blocks {prefix}: {options.layers}")
    found = matrices(
        network, layers, seen, gradients=options.by_gradient, likelihood=True, seed=options.seed
    )
    chosen = _ranks(found, options)
    if not chosen:
        raise MismatchError(
            f"keep {options.keep:g} makes none of the {len(found)} layers smaller; give another "
            "--keep, or other --layers"
        )
    parts = {}
    for name, rank in chosen.items():
        spectrum = ranks.spectra({name: found[name]}, whiten=options.whiten)[name]
        parts[name.removeprefix(_INNER)] = ranks.cut(found[name], spectrum, rank)
    return parts


def _ranks(found: dict[str, Matrix], options: "Options") -> dict[str, int]:
    """Return the rank of each matrix; of all spectra at once only the singular values are kept."""
    if options.rank:
        return ranks.fixed(found, options.rank)
    if not options.by_gradient:
        return ranks.uniform(found, options.keep)
    spectra = {}
    for name, matrix in found.items():
        one = ranks.spectra({name: matrix}, whiten=options.whiten)[name]
        spectra[name] = dataclasses.replace(
            one,
            left=one.left[:, :0].clone(),
            right=one.right[:0].clone(),
            root=one.root[:0].clone(),
        )
    sizes = {name: matrix.size for name, matrix in found.items()}
    return ranks.within(spectra, sizes, options.keep)
