"""Tuning the finished blocks of a job end to end, before they become a checkpoint."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import MismatchError
from zoo.files import replacing
from zoo.quantization.core import QuantizedMatrix
from zoo.quantization.language import blocks, calibration
from zoo.quantization.language.finetune import FinetuneOptions, finetune
from zoo.quantization.language.pipeline import Job

log = logging.getLogger("zoo")

HELD_OUT = 2  # windows, from the end of the text


def tune(job: Job, stream: Tensor) -> dict[str, Any]:
    """Tune codebooks, scales and norms of a finished job; return what it gained.

    The tuned blocks are separate files (`Job.block_file` finds them), and a killed tuning
    resumes from its last state. Two copies of the model are in memory.

    Args:
        job: all of its blocks are finished.
        stream: the tokens of the calibration text (n,); its end is held out.

    Raises:
        MismatchError: the text is too short.

    """
    from zoo.quantization.language.opening import load

    plan = job.plan
    options = FinetuneOptions(
        steps=plan.tune_steps,
        lr=plan.tune_lr,
        weights=plan.tune_weights,
        held_out=HELD_OUT,
        seed=plan.seed,
    )
    ids = windows(stream, plan.tune_steps * options.batch, plan.tune_length, plan.seed)
    model = load(job.source.folder, dtype=torch.float32)
    matrices = stored(job)
    result = finetune(model, matrices, ids, options, state=job.work / "tuning.safetensors")
    _write(job, result.matrices, result.tensors)
    return {
        "steps": plan.tune_steps,
        "lr": plan.tune_lr,
        "tokens": plan.tune_length,
        "divergence_before": result.before,
        "divergence_after": result.after,
    }


def windows(stream: Tensor, count: int, length: int, seed: int) -> Tensor:
    """Return `count` windows to tune on, followed by those held out: the text's last tokens.

    Raises:
        MismatchError: the text is too short.

    """
    kept = len(stream) - HELD_OUT * length
    if kept <= length:
        raise MismatchError(
            f"the text has {len(stream)} tokens; tuning takes more than {(HELD_OUT + 1) * length}: "
            "give a longer text, or --set tune_length=N"
        )
    drawn = calibration.windows(stream[:kept], count=count, length=length, seed=seed + 1)
    return torch.cat([drawn, stream[kept:].view(HELD_OUT, length)])


def stored(job: Job) -> dict[str, QuantizedMatrix]:
    """Return the quantized matrices of a job's finished blocks, by the names of their layers."""
    matrices = {}
    for index in range(job.count):
        tensors = load_file(job.block_file(index))
        for inner, layer in blocks.linears(job.blocks[index]).items():
            name = f"{job.prefix}.{index}.{inner}"
            options = job.plan.of(name)
            if options is None:
                continue
            own = {
                key.removeprefix(f"{name}."): value
                for key, value in tensors.items()
                if key.startswith(f"{name}.") and key != f"{name}.bias"
            }
            shape = (layer.out_features, layer.in_features)
            matrices[name] = QuantizedMatrix.from_tensors(own, shape, options)
    return matrices


def _write(job: Job, matrices: Mapping[str, QuantizedMatrix], others: Mapping[str, Tensor]) -> None:
    """Write the tuned blocks, and what was tuned outside them."""
    packed = {
        f"{name}.{key}": value
        for name, matrix in matrices.items()
        for key, value in matrix.tensors().items()
    }
    values = {**packed, **others}
    for index in range(job.count):
        tensors = load_file(job.block_file(index))
        changed = {
            name: values[name].to(old.dtype).contiguous()
            for name, old in tensors.items()
            if name in values
        }
        with replacing(job.tuned_file(index)) as temporary:
            save_file({**tensors, **changed}, temporary)
    prefix = f"{job.prefix}."
    outside = {n: v.contiguous() for n, v in others.items() if not n.startswith(prefix)}
    with replacing(job.tuned_outside) as temporary:
        save_file(outside, temporary)
