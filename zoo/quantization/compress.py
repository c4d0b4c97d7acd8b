"""From a folder of a language model to the folder of its quantized form, in one call."""

import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

from zoo.errors import MismatchError
from zoo.files import probe, sha256, write_json
from zoo.quantization import assemble, calibration
from zoo.quantization.pipeline import Job, peak_bytes
from zoo.quantization.plan import Plan
from zoo.quantization.source import CONFIG, Source
from zoo.quantization.team import Team

REPORT = "report.json"


def compress_model(
    folder: Path,
    out: Path,
    plan: Plan,
    *,
    text: Path | None = None,
    resume: bool = False,
    shard_bytes: int = assemble.SHARD_BYTES,
    device: str | None = None,
) -> dict[str, Any]:
    """Quantize the language model in `folder` into `out`; return what happened, as `report.json`.

    Args:
        folder: a model that transformers saved, in safetensors.
        out: a new folder, or that of a job to resume.
        plan: how to quantize, and how to calibrate.
        text: the calibration text; only plans of plain rounding go without.
        resume: go on with a job that was killed; the result has the same bytes.
        shard_bytes: greatest size of a weight file.
        device: a torch device; None takes Accelerate's.

    Raises:
        MismatchError: `out` holds something else, or a job and `resume` is off; the text is too
            short; the model is damaged or has no blocks.
        MissingWeightsError, UnsafeFileError: see `Source`.

    """
    began = time.perf_counter()
    team = Team(device)
    source = Source(folder)
    if (out / CONFIG).is_file():
        raise MismatchError(f"{out} holds a finished model; choose another --out, or remove it")
    if team.is_main:
        probe(out)
    ids, facts = None, None
    if plan.calibrates and text is not None:
        _check_length(source, plan)
        stream = calibration.tokenize(folder, calibration.read_text(text))
        ids = calibration.windows(stream, count=plan.windows, length=plan.length, seed=plan.seed)
        facts = {"text": text.name, "sha256": sha256(text), "tokens": len(stream)}
    job = Job(source, plan, out / "work", ids, team=team, resume=resume)
    job.run()
    report: dict[str, Any] = {}
    if team.is_main:
        sizes = assemble.assemble(job, out, shard_bytes=shard_bytes)
        report = _report(job, sizes, facts, time.perf_counter() - began)
        write_json(out / REPORT, report)
    report = team.gather(report)[0]
    job.remove()
    return report


def _check_length(source: Source, plan: Plan) -> None:
    longest = getattr(source.config, "max_position_embeddings", None)
    if longest is not None and plan.length > longest:
        raise MismatchError(
            f"windows of {plan.length} tokens; {source.folder} takes at most {longest} (--length)"
        )


def _report(
    job: Job, sizes: dict[str, Any], text: dict[str, Any] | None, seconds: float
) -> dict[str, Any]:
    """Return everything that is known about a finished job."""
    layers = job.state["layers"]
    errors = [item["relative_error"] for item in layers.values()]
    return {
        **sizes,
        "relative_error": sum(errors) / len(errors) if errors else 0.0,
        "plan": job.plan.to_json(),
        "calibration": text,
        "model": job.fingerprint["model"],
        "processes": job.team.size,
        "device": job.team.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": sys.platform,
        "seconds": round(seconds, 1),
        "peak_bytes": peak_bytes(),
        "layers": layers,
    }
