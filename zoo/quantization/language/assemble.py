"""The finished folder: packed weights, configuration and tokenizer, which transformers opens."""

from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.files import replacing, write_json
from zoo.quantization.embeddings import quantize_rows
from zoo.quantization.language import shards
from zoo.quantization.language.pipeline import Job, convert
from zoo.quantization.language.source import COMPANIONS, CONFIG, INDEX
from zoo.quantization.options import LayerOptions
from zoo.quantization.packed import digest
from zoo.quantization.settings import settings

SHARD_BYTES = 5_000_000_000


def assemble(
    job: Job, out: Path, *, tuned: bool = False, shard_bytes: int = SHARD_BYTES
) -> dict[str, Any]:
    """Write the packed checkpoint of a finished job; return its sizes.

    `config.json` is written last: a folder without it is not a checkpoint. With `tuned`, the blocks
    are those that `zoo.quantization.language.tuning` wrote.

    Returns:
        `bits_per_weight` of the packed layers, everything included; `weights`, how many numbers
        they stand for; `share`, their part of all weights of the model; `tensor_bytes`, the bytes
        of the whole file without its header.

    """
    (out / CONFIG).unlink(missing_ok=True)
    outside = job.work / "outside.safetensors"
    write_outside(job, outside, tuned=tuned)
    block = job.tuned_file if tuned else job.block_file
    files = [outside, *(block(index) for index in range(job.count))]
    total = shards.assemble(files, out, limit=shard_bytes)
    job.source.copy_companions(out)
    layers = job.state["layers"]
    weights = sum(layer["shape"][0] * layer["shape"][1] for layer in layers.values())
    bits = sum(layer["bits"] for layer in layers.values())
    facts = {
        "bits_per_weight": bits / weights if weights else 0.0,
        "weights": weights,
        "share": weights / _count(job),
        "packed_bytes": bits // 8,
        "tensor_bytes": total,
    }
    write_json(out / CONFIG, _config(job, facts["bits_per_weight"], _digests(files)))
    return facts


def remove(out: Path) -> None:
    """Remove what `assemble` wrote, the configuration first: without it there is no checkpoint."""
    (out / CONFIG).unlink(missing_ok=True)
    for pattern in ("model*.safetensors", INDEX):
        for file in out.glob(pattern):
            file.unlink()
    for name in COMPANIONS:
        (out / name).unlink(missing_ok=True)


def _count(job: Job) -> int:
    """Return how many weights of the model are stored: a tied one counts once."""
    named = job.model.named_parameters()
    return sum(value.numel() for name, value in named if name in job.source.files)


def write_outside(job: Job, path: Path, *, tuned: bool = False) -> None:
    """Write what lies outside the blocks: embeddings, last norm, head."""
    from safetensors.torch import load_file, save_file

    prefix = f"{job.prefix}."
    names = [name for name in job.source.files if not name.startswith(prefix)]
    values = job.source.tensors(names)
    if tuned:
        tuned_values = load_file(job.tuned_outside)
        values |= {
            name: tuned_values[name].to(old) for name, old in values.items() if name in tuned_values
        }
    tensors: dict[str, Tensor] = {}
    for name, value in values.items():
        if job.plan.embeddings and name in job.tables.values():
            packed = quantize_rows(value)
            tensors |= {f"{name.removesuffix('weight')}{key}": t for key, t in packed.items()}
        else:
            tensors[name] = convert(value, job.plan.rest_dtype).contiguous()
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def _digests(files: list[Path]) -> dict[str, str]:
    """Return the digest of every module that the files hold codes of."""
    from safetensors import safe_open

    found = {}
    for path in files:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            for owner in (name.removesuffix(".codes") for name in names if name.endswith(".codes")):
                own = [name for name in names if name.rpartition(".")[0] == owner]
                found[owner] = digest({n.rpartition(".")[2]: file.get_tensor(n) for n in own})
    return found


def _config(job: Job, bits_per_weight: float, digests: dict[str, str]) -> dict[str, Any]:
    """Return the source's configuration with the quantization's added."""
    from zoo.quantization.language import blocks

    layers = job.state["layers"]
    names = [
        f"{job.prefix}.{index}.{name}"
        for index, block in enumerate(job.blocks)
        for name in blocks.linears(block)
    ]
    config = dict(job.source.raw_config)
    if job.plan.rest_dtype:
        config.pop("torch_dtype", None)
        config["dtype"] = job.plan.rest_dtype
    if job.plan.embeddings:  # tied by the packed head: transformers ties float parameters
        config["tie_word_embeddings"] = False
    quantization = settings(
        {name: LayerOptions.from_dict(layer["options"]) for name, layer in layers.items()},
        left=[name for name in names if name not in layers],
        bits_per_weight=bits_per_weight,
        blocks=job.prefix,
        embeddings=job.plan.embeddings,
        tied=job.plan.embeddings > 0 and "head" not in job.tables,
        base_tensors={
            f"{name}.weight": layer["base"] for name, layer in layers.items() if "base" in layer
        },
        digests=digests,
    )
    return {**config, "quantization_config": quantization}
