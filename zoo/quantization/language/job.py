"""From a folder of a language model to the folder of its quantized form, in one call."""

import dataclasses
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.text import read_text, tokenize
from zoo.errors import MismatchError, ZooError
from zoo.files import probe, sha256, write_json
from zoo.quantization import coverage, verify
from zoo.quantization.grids import make_grid
from zoo.quantization.language import assemble, blocks, calibration, whole
from zoo.quantization.language.announcer import peak_bytes
from zoo.quantization.language.awq import scale_model
from zoo.quantization.language.pipeline import Job, tensor_digest
from zoo.quantization.language.source import CONFIG, Source
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.team import Team

REPORT = "report.json"


def compress_model(
    folder: Path,
    out: Path,
    plan: QuantizationPlan,
    *,
    text: Path | None = None,
    resume: bool = False,
    shard_bytes: int = assemble.SHARD_BYTES,
    device: str | None = None,
) -> dict[str, Any]:
    """Quantize the language model in `folder` into `out`; return what happened, as `report.json`.

    Args:
        folder: a model that transformers saved, in safetensors.
        out: a new folder, or the folder of a job to resume.
        plan: how to quantize, and how to calibrate.
        text: the calibration text; only plain rounding needs no text.
        resume: continue a job that was killed; the result has the same bytes.
        shard_bytes: largest size of a weight file.
        device: a torch device; Accelerate's if None.

    Raises:
        MismatchError: `out` holds something else, or a job and `resume` is off; the text is too
            short; the model is damaged, has no blocks, or has much of its weights in layers that
            cannot be packed; or the packed model does not do what the float model does, and then
            no checkpoint is left.
        MissingWeightsError, UnsafeFileError: see `Source`.

    """
    began = time.perf_counter()
    source = Source(folder)
    if (out / CONFIG).is_file() and not (resume and (out / "work" / "state.json").is_file()):
        raise MismatchError(f"{out} holds a finished model; choose another --out, or remove it")
    _ = source.config  # refuses what is quantized already
    if whole.is_whole(source, plan):
        return _whole(source, out, plan, text, Team(device), resume)
    team = Team(device)
    skeleton = source.skeleton()
    _check_grids(skeleton, plan)
    coverage.check(skeleton, plan, [skeleton.get_output_embeddings()])
    if team.is_main:
        probe(out)
    ids, facts, stream = None, None, None
    needed = plan.calibrates or plan.tune_steps or plan.budget
    if needed and text is not None:
        _check_length(source, plan)
        stream = tokenize(folder, read_text(text))
        ids = calibration.windows(stream, count=plan.windows, length=plan.length, seed=plan.seed)
        facts = {"text": text.name, "sha256": sha256(text), "tokens": len(stream)}
    base = source.facts() if plan.rewrites else None
    source, scales = _rewritten(source, plan, out / "work", ids, team, resume)
    if plan.budget:
        plan = _mixed(source, plan, out / "work", ids, team)
    job = Job(source, plan, out / "work", ids, team=team, resume=resume)
    job.run()
    report: dict[str, Any] = {}
    sizes = _finish(job, out, stream, shard_bytes)
    if team.is_main:
        report = _report(job, sizes, facts, time.perf_counter() - began)
        if base is not None:  # not the rotated or scaled copy of it
            report["model"] = base
        report |= {"awq": scales} if scales else {}
        write_json(out / REPORT, report)
    report = team.gather(report)[0]
    job.remove()
    return report


def _whole(
    source: Source, out: Path, plan: QuantizationPlan, text: Path | None, team: Team, resume: bool
) -> dict[str, Any]:
    """Pack a model that is not worked on block by block, in the first process."""
    report: dict[str, Any] = {}
    problem: ZooError | None = None
    if team.is_main:
        try:
            made = whole.compress_whole(source, out, plan, text=text, device=team.device)
            report = {**made, **_circumstances(plan, team), "model": source.facts()}
            write_json(out / REPORT, report)
        except ZooError as error:
            problem = error
    _raise_first(team, problem)
    return team.gather(report)[0]


def _finish(job: Job, out: Path, stream: Tensor | None, shard_bytes: int) -> dict[str, Any]:
    """Tune if the plan says so, write the checkpoint and run it; return what is known about it."""
    facts: dict[str, Any] = {}
    problem: ZooError | None = None
    if job.team.is_main:
        if job.plan.tune_steps:
            facts["tuning"] = _tuned(job, stream)
        facts |= assemble.assemble(job, out, tuned="tuning" in facts, shard_bytes=shard_bytes)
        try:
            facts["check"] = verify.check_folder(job, out)
        except ZooError as error:
            problem = error
            assemble.remove(out)
    _raise_first(job.team, problem)
    return facts


def _rewritten(
    source: Source, plan: QuantizationPlan, work: Path, ids: Tensor | None, team: Team, resume: bool
) -> tuple[Source, dict[str, Any]]:
    """Return what is packed, which computes what `source` does, and the scales that it has."""
    if plan.rotate:
        source = _rotated(source, plan, work / "rotated", team)
    if plan.awq:
        return scale_model(source, work / "scaled", plan, ids, team=team, resume=resume)
    return source, {}


def _rotated(source: Source, plan: QuantizationPlan, folder: Path, team: Team) -> Source:
    """Return the source with rotated weights, which the first process writes."""
    from zoo.quantization.language.rotate import rotate_model

    problem: ZooError | None = None
    if team.is_main:
        try:
            rotate_model(source.folder, folder, plan.rotate, seed=plan.seed)
        except ZooError as error:
            problem = error
    _raise_first(team, problem)
    return Source(folder)


def _raise_first(team: Team, problem: ZooError | None) -> None:
    """Raise the first process's error in every process, so that nobody waits for it."""
    problem = team.gather(problem)[0]
    if problem is not None:
        raise problem


def _mixed(
    source: Source, plan: QuantizationPlan, work: Path, ids: Tensor | None, team: Team
) -> QuantizationPlan:
    """Return the plan with every layer's share of its budget."""
    from zoo.quantization.language import mixed

    if ids is None:
        raise MismatchError("sharing out a budget of bits needs a text: give one with --data TEXT")
    path = work / "allocation.json"
    key = {"ids": tensor_digest(ids), "plan": plan.to_json(), "model": source.facts()}
    key = json.loads(json.dumps(key))
    shares: dict[str, Any] | None = None
    if team.is_main:
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        shares = known["shares"] if known.get("key") == key else None
        if shares is None:
            shares = mixed.overrides(source.folder, plan, ids, team.device)
            write_json(path, {"key": key, "shares": shares})
    shares = team.gather(shares)[0]
    assert shares is not None, "the first process found them"
    # What the user set for a layer comes first: the first matching pattern counts.
    return dataclasses.replace(plan, overrides={**plan.overrides, **shares})


def _tuned(job: Job, stream: Tensor | None) -> dict[str, Any]:
    from zoo.quantization.language.tuning import tune

    if stream is None:
        raise MismatchError("tuning needs a text: give one with --data TEXT")
    return tune(job, stream)


def _check_grids(skeleton: nn.Module, plan: QuantizationPlan) -> None:
    """Raise, before the work, if a layer cannot be laid out as the plan says."""
    prefix, _ = blocks.find_blocks(skeleton)
    for name, layer in blocks.linears(skeleton).items():
        if name.startswith(f"{prefix}.") and (options := plan.of(name)) is not None:
            try:
                make_grid(options, layer.out_features, layer.in_features)
            except MismatchError as error:
                raise MismatchError(f"{name}: {error}") from error


def _check_length(source: Source, plan: QuantizationPlan) -> None:
    longest = getattr(source.config, "max_position_embeddings", None)
    if longest is not None and plan.length > longest:
        raise MismatchError(
            f"windows of {plan.length} tokens; {source.folder} takes at most {longest} (--length)"
        )


def _report(
    job: Job, sizes: dict[str, Any], text: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """Return everything that is known about a finished job."""
    layers = {  # the digests of the base are in the configuration
        name: {key: value for key, value in layer.items() if key != "base"}
        for name, layer in job.state["layers"].items()
    }
    errors = [layer["relative_error"] for layer in layers.values()]
    return {
        **sizes,
        "relative_error": sum(errors) / len(errors) if errors else 0.0,
        "calibration": text,
        "model": job.fingerprint["model"],
        **_circumstances(job.plan, job.team),
        "seconds": round(seconds, 1),
        "layers": layers,
    }


def _circumstances(plan: QuantizationPlan, team: Team) -> dict[str, Any]:
    return {
        "plan": plan.to_json(),
        "processes": team.size,
        "device": team.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": sys.platform,
        "peak_bytes": peak_bytes(),
    }
