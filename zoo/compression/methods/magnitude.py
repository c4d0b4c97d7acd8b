"""Pruning by magnitude: the smallest weights become zeros, or the smallest filters go."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zoo.compression.repair import Mended
    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "the smallest weights become zeros, or whole filters go; the baseline of all others"
PAPER = "1710.01878"
TAKES = "network"
DATA = "a folder of inputs, or a Hub data set, that --repair tunes on"
TRAINS = False
PRESETS: Mapping[str, Mapping[str, Any]] = {"filters": {"structured": True}}


@dataclass(frozen=True, kw_only=True)
class Options(RepairOptions):
    """The options of pruning.

    Attributes:
        keep: share of the layers' weights that stays.
        structured: whether whole filters go, with which the network really shrinks; else single
            weights become zeros, which are stored as before.
        by_layer: whether each layer keeps the same share of single weights, instead of all
            together.
        multiple: of it are the filters that stay of each layer, e.g. 8 for a device that computes
            eight at once.
        stages: of a repair by gradient, in how many stages single weights go, most of them first.
        layers: patterns of the names of layers to change, e.g. "blocks.*".

    """

    keep: float = 0.5
    structured: bool = False
    by_layer: bool = False
    multiple: int = 1
    stages: int = 5
    layers: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        """Refuse a share that keeps nothing or all, and what does not go together."""
        super().__post_init__()
        if not 0 < self.keep < 1:
            raise MismatchError(f"keep is {self.keep:g}; expected a share between 0 and 1")
        if self.multiple < 1 or (self.multiple > 1 and not self.structured):
            raise MismatchError(
                f"multiple is {self.multiple}; expected 1 or more, of filters: add --structured"
            )
        if self.stages < 1:
            raise MismatchError(f"stages is {self.stages}; expected 1 or more")
        if self.repair == "gradient" and not self.structured and self.stages > self.repair_steps:
            raise MismatchError(
                f"{self.stages} stages do not fit in {self.repair_steps} repair_steps; give fewer"
            )
        if self.structured and self.by_layer:
            raise MismatchError("every layer keeps the same share of its filters; leave by_layer")
        if not self.layers:
            raise MismatchError("layers is empty; expected patterns of names, e.g. blocks.*")

    @property
    def needs_data(self) -> bool:
        """Only a repair sees inputs."""
        return bool(self.repair)

    @property
    def label(self) -> str:
        """What a result is named after: "pruned-40" keeps 40 %, "filters-40" in whole filters."""
        kind = "filters" if self.structured else "pruned"
        return f"{kind}-{100 * self.keep:g}".replace(".", "-")

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        what = "weights, in whole filters" if self.structured else "weights, the others zeros"
        mended = f", repaired by {self.repair}" if self.repair else ""
        return f"{self.keep:.0%} of the {what}{mended}"


def compress(
    source: "Checkpoint",
    out: Path,
    options: Options,
    *,
    data: Path | None,
    test: Path | None,
    resume: bool,
    device: str | None,
) -> Compressed:
    """Prune a network, repair it if that is wanted, and return its tensors.

    There is nothing to resume, and it runs on the CPU.

    Raises:
        MismatchError: the network computes in integers or is in forms already, nothing can be
            pruned, or the inputs cannot be used.

    """
    from zoo.compression.network import are_logits, calibrated, checked, facts_of, repair_as
    from zoo.tasks import task_of

    checked(source)
    network = source.load()
    batches = calibrated(source.recipe, data) if options.repair else []
    likelihood = are_logits(source.recipe, network, batches)
    how = repair_as(options, source.recipe, likelihood=likelihood)
    sizes: dict[str, list[int]] = {}
    mended: Mended | None
    if options.structured:
        small, sizes, mended = shrunk(network, source.recipe.input_shape, batches, how)
    else:
        small, mended = thinned(network, batches, how)
    facts = facts_of(source.recipe, network, small, data if options.repair else None, batches)
    facts["nonzero"] = sum(int(p.count_nonzero()) for p in small.parameters())
    if mended is not None:
        facts["repair"] = {"how": how.repair, "loss": how.repair_loss, **asdict(mended)}
    task = task_of(source.recipe)
    structure = {"version": 2, "forms": {}, "narrowed": sizes} if sizes else {}
    scores = {} if test is None else {test.name: task.evaluate(small, source.recipe, test)}
    return Compressed(
        metrics={"compression": facts, **({"evaluations": scores} if scores else {})},
        tensors=small.state_dict(),
        changes={"structure": structure} if sizes else {},
    )


def thinned(
    network: "nn.Module", batches: "Sequence[Tensor]", options: Options
) -> "tuple[nn.Module, Mended | None]":
    """Return a copy of a network with its smallest weights set to zero, and its repair.

    Raises:
        MismatchError: no layer matches, or see `repair`.

    """
    from functools import partial

    from zoo.compression import masks
    from zoo.compression.matrices import layers_of
    from zoo.compression.repair import repair

    names = list(layers_of(network, options.layers))
    small = copy.deepcopy(network).eval()
    mended: Mended | None = None
    gradual = options.repair == "gradient"
    shares = masks.stages(options.keep, options.stages) if gradual else [options.keep]
    for number, share in enumerate(shares):
        weights = {name: small.get_submodule(name).get_parameter("weight") for name in names}
        chosen = masks.masks(weights, share, by_layer=options.by_layer)
        masks.apply(small, chosen)
        if not options.repair:
            continue
        steps = options.repair_steps // len(shares)
        steps += number < options.repair_steps % len(shares)
        part = replace(options, repair_steps=steps, stages=1)
        stage = repair(
            small, network, batches, part, chosen=list(small.parameters()),
            stepped=partial(masks.apply, small, chosen),
        )  # fmt: skip
        seconds = stage.seconds + (mended.seconds if mended else 0.0)
        mended = replace(stage, seconds=seconds)
    return small, mended


def shrunk(
    network: "nn.Module", shape: tuple[int, ...], batches: "Sequence[Tensor]", options: Options
) -> "tuple[nn.Module, dict[str, list[int]], Mended | None]":
    """Return a copy of a network without its smallest filters, its layers' sizes, its repair.

    Raises:
        MismatchError: the graph allows no filter to go, or fewer; or see `repair`.

    """
    from zoo.compression import filters
    from zoo.compression.repair import repair

    found = filters.channels(network, shape, options.layers)
    chosen = filters.kept(network, found, options.keep, options.multiple)
    small, sizes = filters.without(network, found, chosen)
    mended = None
    if options.repair:
        mended = repair(small, network, batches, options, chosen=list(small.parameters()))
    return small, sizes, mended
