"""A folder that is not quantized block by block: loaded whole, packed in memory, saved.

Encoders, encoder-decoders, networks for pictures, sound, and pictures with text, mixtures of
experts and GPT-2, whose layers are exposed first. It takes the memory of the model.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.text import read_text, tokenize
from zoo.errors import MismatchError, ZooError
from zoo.files import sha256
from zoo.quantization import exposed
from zoo.quantization.generic import Batch, quantize_model
from zoo.quantization.language import blocks, calibration, opening
from zoo.quantization.language.source import CONFIG, Source
from zoo.quantization.packed import PackedLinear
from zoo.quantization.plan import QuantizationPlan

PREPARATION = (
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
TOKENS = 16  # tokens of the pass by which a model packed without calibration is checked
SAMPLES = 16000  # of a sound: a second of what most models were trained on


def is_whole(source: Source, plan: QuantizationPlan) -> bool:
    """Say whether a folder's model has to be packed in memory, as a whole."""
    if not source.is_decoder:
        return True
    model = source.skeleton()
    if any(plan.of(name) and plan.of(f"{name}.0") for name in exposed.find(model)):
        return True
    prefix, _ = blocks.find_blocks(model)
    # Blocks are fed what leaves the embedding; nothing linear may lie before them.
    return bool(_projections(model, prefix))


def _projections(model: nn.Module, prefix: str) -> list[str]:
    """Return linear layers beside the blocks: those of OPT's `word_embed_proj_dim`."""
    beside = prefix.rpartition(".")[0]
    return [
        name
        for name in blocks.linears(model)
        if name.startswith(f"{beside}.") and not name.startswith(f"{prefix}.") and beside
    ]


def compress_whole(
    source: Source, out: Path, plan: QuantizationPlan, *, text: Path | None, device: str
) -> dict[str, Any]:
    """Pack a folder's model into `out`; return the report without what is said of every job.

    Raises:
        MismatchError: the plan asks for what is done block by block only; or it calibrates, and the
            model takes no text.

    """
    began = time.perf_counter()
    _refuse_blockwise(source, plan)
    model: Any = opening.load(source.folder, device=device, dtype=torch.float32)
    runs, facts = _batches(model, source, plan, text)
    total = sum(value.numel() for value in model.parameters())
    packing = quantize_model(model, runs, plan)
    if plan.rest_dtype:
        model.to(getattr(torch, plan.rest_dtype))
    layers = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    bits = 8 * sum(value.nbytes for layer in layers for value in layer.stored().values())
    errors = [layer["relative_error"] for layer in packing.values()]
    return {
        "bits_per_weight": bits / weights,
        "weights": weights,
        "share": weights / total,
        "packed_bytes": bits // 8,
        "tensor_bytes": save(model, source, out),
        "check": {"tokens": TOKENS, "distance": packing.distance},
        "relative_error": sum(errors) / len(errors),
        "calibration": facts,
        "seconds": round(time.perf_counter() - began, 1),
        "layers": dict(packing),
    }


def _refuse_blockwise(source: Source, plan: QuantizationPlan) -> None:
    asked = {
        "--rotate": plan.rotate,
        "--awq": plan.awq,
        "--budget": plan.budget,
        "--tune": plan.tune_steps,
        "--embeddings": plan.embeddings,
    }
    for flag, value in asked.items():
        if value:
            raise MismatchError(
                f"{flag} works on decoders that are packed block by block; the "
                f"{source.config.model_type!r} in {source.folder} is packed as a whole: leave "
                f"{flag} out"
            )


def _batches(
    model: Any, source: Source, plan: QuantizationPlan, text: Path | None
) -> tuple[list[Batch], dict[str, Any] | None]:
    """Return the inputs that a model learns from, or one of noise for plans without calibration."""
    kind = model.main_input_name
    if not plan.calibrates:
        return [_taken(model, sample(model))], None
    if kind != "input_ids":
        raise MismatchError(
            f"{type(model).__name__} takes {kind}, and a text is none: add --method rtn, or "
            "calibrate on your own inputs with zoo.quantization.generic.quantize_model"
        )
    if text is None:
        raise MismatchError(f"{plan.options.method} needs a text: give one with --data TEXT")
    stream = tokenize(source.folder, read_text(text))
    ids = calibration.windows(stream, count=plan.windows, length=plan.length, seed=plan.seed)
    facts = {"text": text.name, "sha256": sha256(text), "tokens": len(stream)}
    return [_called(model, window[None].to(model.device)) for window in ids], facts


def _called(model: Any, ids: Tensor) -> dict[str, Tensor]:
    both = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    return {"input_ids": ids, **both}


def sample(model: Any) -> dict[str, Tensor]:
    """Return an input of noise that a model takes.

    Raises:
        MismatchError: its main input is of an unknown kind.

    """
    config, draw = model.config, torch.Generator().manual_seed(0)
    most = int(getattr(config.get_text_config(), "vocab_size", 0) or 2)
    ids = torch.randint(most, (1, TOKENS), generator=draw).to(model.device)
    kind = model.main_input_name
    if kind == "input_ids":
        return _called(model, ids)
    if kind == "pixel_values":
        values = _picture(config)
    elif kind == "input_features":
        length = 2 * config.max_source_positions
        values = torch.rand(1, config.num_mel_bins, length, generator=draw)
    elif kind == "input_values":  # a sound, or its spectrogram
        size = (config.max_length, config.num_mel_bins) if _seen(config) else (SAMPLES,)
        values = torch.rand(1, *size, generator=draw)
    else:
        raise MismatchError(
            f"{type(model).__name__} takes {kind}, of which zoo compress can make none: pack it "
            "with zoo.quantization.generic.quantize_model(model, batches, plan)"
        )
    both = {"decoder_input_ids": ids} if config.is_encoder_decoder else {}
    return {kind: values.to(model.device), **both}


@torch.no_grad()
def _taken(model: Any, made: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return an input that a model really takes: as made, or with a picture if it needs one too.

    Raises:
        MismatchError: its own code raises, whatever it is given.

    """
    tries, seen = [made], getattr(model.config, "vision_config", None)
    if seen is not None and "pixel_values" not in made:
        tries.append({**made, "pixel_values": _picture(seen).to(model.device)})
    problem: Exception | None = None
    for inputs in tries:
        try:
            model(**inputs)
        except Exception as error:  # of code that is not ours: anything
            problem = problem or error
        else:
            return inputs
    assert problem is not None
    said = str(problem).strip().splitlines() or [""]
    raise MismatchError(
        f"{type(model).__name__} does not take the {' and '.join(made)} that zoo compress makes "
        f"({type(problem).__name__}: {said[0]}): pack it on inputs of your own with "
        "zoo.quantization.generic.quantize_model(model, batches, plan)"
    ) from problem


def _picture(config: Any) -> Tensor:
    """Return a picture of noise, (1, C, H, W)."""
    size, draw = getattr(config, "image_size", 224), torch.Generator().manual_seed(0)
    height, width = (size, size) if isinstance(size, int) else size
    return torch.rand(1, config.num_channels, height, width, generator=draw)


def _seen(config: Any) -> bool:
    """Say whether a model of sounds looks at a spectrogram."""
    return hasattr(config, "num_mel_bins") and hasattr(config, "max_length")


def save(model: Any, source: Source, out: Path) -> int:
    """Write the folder, its configuration last; return the bytes of its tensors."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".saving-") as temporary:
        made = Path(temporary)
        try:
            model.save_pretrained(made)
        except (ValueError, RuntimeError, NotImplementedError) as error:
            first = str(error).splitlines()[0]
            raise ZooError(f"transformers cannot save the packed model: {first}") from error
        source.copy_companions(made, PREPARATION)
        files = sorted(made.iterdir(), key=lambda path: path.name == CONFIG)
        for file in files:
            file.replace(out / file.name)
    return sum(value.nbytes for value in model.state_dict().values())
