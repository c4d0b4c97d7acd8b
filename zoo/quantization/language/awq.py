"""AWQ (Lin et al., arXiv 2306.00978): scales that protect the columns of large inputs.

Columns that see large activations are multiplied by s > 1 before they are rounded, and their input
is divided by it: their rounding errors, the same for all columns of a group, count for less.
s = s_x^alpha, where s_x is the mean magnitude of a channel's input (equation 5); alpha is searched
for each input by what rounding changes in the outputs of the calibration text. The scales go into
the norm or the linear layer before (`zoo.quantization.language.folds`), so that the float model
computes what it did, and what is packed afterwards has the usual layout.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.files import replacing, write_json
from zoo.quantization.core import quantize_matrix
from zoo.quantization.hessian import check_hessian
from zoo.quantization.language import blocks, folds, shards
from zoo.quantization.language.assemble import SHARD_BYTES, write_outside
from zoo.quantization.language.folds import Fold
from zoo.quantization.language.pipeline import Job
from zoo.quantization.language.source import CONFIG, Source
from zoo.quantization.layers import hessians
from zoo.quantization.options import LayerOptions
from zoo.quantization.passes import CalibrationRuns
from zoo.quantization.plan import QuantizationPlan
from zoo.quantization.solvers.contract import weighted
from zoo.quantization.team import Team

ALPHAS = tuple(step / 20 for step in range(21))  # 0: no scales
_LEAST = 1e-4  # of a mean magnitude: a channel that calibration never saw


@dataclasses.dataclass(frozen=True)
class ScaleChoice:
    """The exponent and scale (channels,) of a place, and the errors without and with it."""

    alpha: float
    scale: Tensor
    before: float
    after: float


def choose(
    fold: Fold,
    weights: Sequence[tuple[Tensor, LayerOptions]],
    hessian: Tensor,
    magnitude: Tensor,
) -> ScaleChoice:
    """Return the scale whose rounded layers are nearest to the float ones on the calibration text.

    Args:
        fold: the place.
        weights: the weight (rows, columns) of each layer that reads the input, and its grid.
        hessian: 2 E[x x^T] of the input (columns, columns).
        magnitude: mean |x| of the input (columns,).

    """
    channels = fold.channels.to(magnitude.device)
    count = torch.bincount(channels).clamp(min=1)
    size = torch.zeros(len(count)).to(magnitude).index_add_(0, channels, magnitude) / count
    tried: list[ScaleChoice] = []
    for alpha in ALPHAS:
        scale = size.clamp(min=_LEAST) ** alpha
        scale = scale / (scale.max() * scale.min()).sqrt()
        columns = scale[channels]
        error = sum(_error(weight, options, columns, hessian) for weight, options in weights)
        tried.append(ScaleChoice(alpha, scale, tried[0].before if tried else error, error))
    return min(tried, key=lambda chosen: (chosen.after, chosen.alpha))


def _error(weight: Tensor, options: LayerOptions, columns: Tensor, hessian: Tensor) -> float:
    """Return what rounding changes in a layer's outputs: tr(E H E^T)."""
    rounded = quantize_matrix(weight * columns, None, options).dequantize() / columns
    return float(weighted(weight - rounded, hessian).sum())


def scale_block(
    block: nn.Module, prefix: str, places: Sequence[Fold], passes: CalibrationRuns, plan: Any,
    team: Team,
) -> dict[str, Any]:  # fmt: skip
    """Scale a block's weights in place; return what was chosen, by the first layer's name."""
    facts: dict[str, Any] = {}
    for fold in places:
        asked = [(name, plan.of(f"{prefix}{name}")) for name in fold.layers]
        weights = [
            (block.get_submodule(name).get_parameter("weight").detach(), options)
            for name, options in asked
            if options is not None
        ]
        if not weights:
            continue
        first = fold.layers[0]
        seen = hessians({first: blocks.linears(block)[first]}, passes, team)[first]
        try:
            hessian = check_hessian(seen.finish(), len(seen.total))
        except MismatchError as error:
            raise MismatchError(f"the inputs of {prefix}{first}: {error}") from error
        chosen = choose(fold, weights, hessian, seen.magnitude())
        folds.apply(block, fold, chosen.scale)
        facts[f"{prefix}{first}"] = {
            "before": fold.before,
            "alpha": chosen.alpha,
            "error": chosen.after / chosen.before if chosen.before else 1.0,
        }
    return facts


class Scaling(Job):
    """A job that scales the blocks of a float model, and packs nothing."""

    def __init__(
        self, source: Source, plan: QuantizationPlan, work: Path, ids: Tensor | None, **more: Any
    ) -> None:
        # What comes after the blocks is left to the job that packs.
        plan = dataclasses.replace(
            plan, embeddings=0, rest_dtype=None, tune_steps=0, budget=0, rotate=""
        )
        super().__init__(source, plan, work, ids, **more)
        self._places: dict[Any, list[Fold]] = {}

    @property
    def reads(self) -> bool:
        """Blocks are run for the sizes of their inputs, whatever rounds them afterwards."""
        return True

    def _block(self, index: int) -> None:
        from safetensors.torch import save_file

        block = self.load_block(index, self.team.device)
        prefix, passes = f"{self.prefix}.{index}.", self._passes(block, index)
        for name, value in block.named_parameters():
            if not torch.isfinite(value).all():
                raise MismatchError(f"{prefix}{name} holds NaN or infinity: the base is damaged")
        key = folds.structure(block)
        if key not in self._places:
            self._places[key] = folds.find(block, passes[0])
        found = scale_block(block, prefix, self._places[key], passes, self.plan, self.team)
        if self.team.is_main:
            with replacing(self.block_file(index)) as temporary:
                save_file(self.source.stored_as(block, prefix), temporary)
        if index + 1 < self.count:
            self._forward(passes)
            self.state["hidden"] ^= 1
        scales = {**self.state.get("scales", {}), **found}
        self._save(next=index + 1, scales=scales)
        if self.team.is_main:
            left = sum(facts["error"] for facts in found.values()) / max(len(found), 1)
            self.announce(f"scales: block {index + 1}/{self.count}  {left:.3f} of the error left")

    def write(self, out: Path) -> None:
        """Write the scaled model as a folder; `config.json` is last."""
        outside = self.work / "outside.safetensors"
        write_outside(self, outside)
        out.mkdir(parents=True, exist_ok=True)
        files = [outside, *(self.block_file(index) for index in range(self.count))]
        shards.assemble(files, out, limit=SHARD_BYTES)
        self.source.copy_companions(out)
        write_json(out / CONFIG, self.source.raw_config)


def scale_model(
    source: Source,
    folder: Path,
    plan: QuantizationPlan,
    ids: Tensor | None,
    *,
    team: Team,
    resume: bool,
) -> tuple[Source, dict[str, Any]]:
    """Return a source with scaled weights, which computes the same, and what was chosen.

    Args:
        source: the float model.
        folder: for the scaled model and for the state of a job that was killed.
        plan: how it will be packed.
        ids: calibration windows (windows, length).
        team: the processes that share the work.
        resume: go on with the state in `folder`.

    Raises:
        MismatchError: there is nowhere that scales go, or see `Job`.

    """
    job, out = (
        Scaling(source, plan, folder / "work", ids, team=team, resume=resume),
        folder / "made",
    )
    job.run()
    chosen = job.state.get("scales", {})
    if not chosen:
        raise MismatchError(
            f"{type(job.model).__name__} has no norm or layer that scales go into: leave out --awq"
        )
    if team.is_main and not (out / CONFIG).is_file():
        job.write(out)
    team.wait()
    return Source(out), chosen
