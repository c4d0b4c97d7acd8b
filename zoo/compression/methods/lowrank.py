"""Low rank: two thin matrices in place of each large one, as the layers' inputs see them."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError, UnknownNameError
from zoo.quantization.options import FORMATS
from zoo.registry.compressed import Compressed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.compression.ranks import Truncated
    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "two thin matrices in place of a large one, ranks shared out by their effect on outputs"
PAPER = "2402.06004"
TAKES = "both"
DATA = "a folder of inputs, a Hub data set or a text that layers are seen at work on"
TRAINS = False
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options(RepairOptions):
    """The options of low rank.

    Attributes:
        keep: share of the layers' weights that may be stored, all layers together.
        rank: one rank for all layers instead; 0 leaves it to `keep`.
        ranks: how the share is divided: by the "gradient" of the outputs, or "uniform", the same
            share of every layer.
        whiten: whether errors are those of outputs for inputs as seen, instead of the weights' own.
        layers: patterns of the names of layers to change, e.g. "blocks.*".
        factors: the format that factors are stored in, e.g. int8, int4, nf4; "" for floats.
        group_size: numbers of a factor's row that share a scale; 0 takes the format's.
        windows: of a language model's text: how many are seen.
        length: tokens of each.

    """

    keep: float = 0.5
    rank: int = 0
    ranks: Literal["gradient", "uniform"] = "gradient"
    whiten: bool = True
    layers: tuple[str, ...] = ("*",)
    factors: str = ""
    group_size: int = 0
    windows: int = 16
    length: int = 256

    def __post_init__(self) -> None:
        """Refuse a share that keeps nothing or all, and a rank below 0."""
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise MismatchError(f"keep is {self.keep:g}; expected a share between 0 and 1")
        if self.rank < 0:
            raise MismatchError(f"rank is {self.rank}; expected 1 or more, or 0 to go by keep")
        if self.windows < 1 or self.length < 1:
            raise MismatchError(
                f"{self.windows} windows of {self.length} tokens; expected 1 or more of each"
            )
        if self.group_size < 0 or (self.group_size and not self.factors):
            raise MismatchError(
                f"group_size is {self.group_size}; expected 1 or more, of --factors on a grid"
            )
        if self.factors and self.factors not in FORMATS:
            raise UnknownNameError.near(
                "format", self.factors, FORMATS, f"known: {', '.join(FORMATS)}"
            )
        if not self.layers:
            raise MismatchError("layers is empty; expected patterns of names, e.g. blocks.*")

    @property
    def by_gradient(self) -> bool:
        """Whether gradients divide the share."""
        return not self.rank and self.ranks == "gradient"

    @property
    def needs_data(self) -> bool:
        """Plain singular values of weights, at ranks that weigh nothing, need none."""
        return self.whiten or self.by_gradient or bool(self.repair)

    @property
    def label(self) -> str:
        """What a result is named after: "lowrank-40" keeps 40 %, "lowrank-r8" has rank 8."""
        size = f"r{self.rank}" if self.rank else f"{100 * self.keep:g}".replace(".", "-")
        return f"lowrank-{size}" + (f"-{self.factors}" if self.factors else "")

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        kept = f"rank {self.rank}" if self.rank else f"{self.keep:.0%} of the weights"
        stored = f", factors in {self.factors}" if self.factors else ""
        return f"{kept} in low rank{stored}" + (
            f", repaired by {self.repair}" if self.repair else ""
        )


def compress(
    source: "Checkpoint | Path",
    out: Path,
    options: Options,
    *,
    data: Path | None,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Cut matrices to ranks, repair the network if that is wanted, and return its factors.

    It takes a minute at most, so there is nothing to resume, and runs on the CPU.

    Raises:
        MismatchError: the network computes in integers or is in forms already, no layer can be
            made smaller, or the inputs cannot be used.

    """
    from zoo.compression.network import are_logits, calibrated, checked, facts_of, repair_as
    from zoo.compression.repair import repair
    from zoo.models.structured.network import structure_of
    from zoo.quantization.factors import bits_per_number
    from zoo.tasks import task_of

    if isinstance(source, Path):
        from zoo.compression.language import compress_folder

        if test is not None:
            raise MismatchError(f"judge the result by: zoo evaluate {out} --data {test}")
        return Compressed(metrics={"compression": compress_folder(source, out, options, data)})
    checked(source)
    network, batches = source.load(), calibrated(source.recipe, data)
    likelihood = are_logits(source.recipe, network, batches)
    parts = truncated(network, batches, options, likelihood=likelihood)
    small = replaced(network, parts)
    how = repair_as(options, source.recipe, likelihood=likelihood)
    mended = repair(small, network, batches, how) if options.repair else None
    facts = facts_of(source.recipe, network, small, data, batches)
    facts["layers"] = {
        name: {"rank": part.form.rank, "relative_error": part.error} for name, part in parts.items()
    }
    if mended is not None:
        facts["repair"] = {"how": how.repair, "loss": how.repair_loss, **asdict(mended)}
    forms = {name: part.form for name, part in parts.items()}
    tensors, structure = small.state_dict(), structure_of(forms)
    if options.factors:
        tensors, structure = rounded(small, structure, options)
        bits = bits_per_number(tensors, structure["factors"])
        facts["factors"] = {"format": options.factors, "bits_per_number": bits}
    task = task_of(source.recipe)
    scores = {} if test is None else {test.name: task.evaluate(small, source.recipe, test)}
    return Compressed(
        metrics={"compression": facts, **({"evaluations": scores} if scores else {})},
        tensors=tensors,
        changes={"structure": structure},
    )


def rounded(
    network: "nn.Module", structure: "Mapping[str, Any]", options: Options
) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Round the factors of a network, in place.

    Returns:
        The tensors as they are stored, and the structure that says so.

    """
    from zoo.quantization.factors import decoded, encoded, grid_options

    grid = grid_options(options.factors, options.group_size)
    tensors, stored = encoded(network.state_dict(), list(structure["forms"]), grid)
    network.load_state_dict(decoded(tensors, stored))
    return tensors, {**structure, "version": 4, "factors": stored}


def truncated(
    network: "nn.Module",
    batches: "Sequence[Tensor]",
    options: Options,
    *,
    likelihood: bool = True,
) -> "dict[str, Truncated]":
    """Return the matrices that become smaller, cut to their ranks, by layer.

    Raises:
        MismatchError: no layer becomes smaller, or see `matrices`.

    """
    from zoo.compression import ranks
    from zoo.compression.matrices import layers_of, matrices

    layers = layers_of(network, options.layers)
    seen = batches if options.whiten or options.by_gradient else ()
    found = matrices(
        network, layers, seen, gradients=options.by_gradient, likelihood=likelihood,
        seed=options.seed,
    )  # fmt: skip
    spectra = ranks.spectra(found, whiten=options.whiten)
    if options.rank:
        chosen = ranks.fixed(found, options.rank)
    elif options.by_gradient:
        sizes = {name: matrix.size for name, matrix in found.items()}
        chosen = ranks.within(spectra, sizes, options.keep)
    else:
        chosen = ranks.uniform(found, options.keep)
    if not chosen:
        raise MismatchError(
            f"keep {options.keep:g} makes none of the {len(found)} layers smaller; give another "
            "--keep, or other --layers"
        )
    return {name: ranks.cut(found[name], spectra[name], rank) for name, rank in chosen.items()}


def replaced(network: "nn.Module", parts: "Mapping[str, Truncated]") -> "nn.Module":
    """Return a copy of a network with these factors in the places of its matrices."""
    from zoo.compression.ranks import put

    small = copy.deepcopy(network)
    put(small, parts)
    return small.eval()
