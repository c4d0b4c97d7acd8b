"""Operators without division and root in the places of norms, softmaxes and curves (PEANO-ViT)."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.compression.repair_options import RepairOptions
from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed

if TYPE_CHECKING:
    from torch import nn

    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "norms, softmaxes, GELU and SiLU without division and root; weights stay as they are"
PAPER = "2406.14854"
TAKES = "network"
DATA = "a folder of inputs, or a Hub data set, that --repair tunes on"
TRAINS = False
PRESETS: Mapping[str, Mapping[str, Any]] = {"fixed": {"form": "fixed"}}

_OPS = ("layernorm", "rmsnorm", "softmax", "gelu", "silu")


@dataclass(frozen=True, kw_only=True)
class Options(RepairOptions):
    """The options of the exchange: what a network does not have is passed over.

    Attributes:
        layernorm: bits of the index of its table; 0 leaves the operator as it is.
        rmsnorm: bits of the index of its table, or 0.
        softmax: bits of the index of its table, or 0.
        gelu: straight pieces, an even number; 0 leaves it as it is.
        silu: straight pieces, an even number, or 0.
        form: "float", which rounds only the places of tables; or "fixed", the whole numbers of a
            device, for which pieces are a power of two.
        root: table of the norms: "mitchell", the paper's, with an error of 3 % however large it is;
            or "mantissa", twice as many entries, without it.

    """

    layernorm: int = 4
    rmsnorm: int = 4
    softmax: int = 4
    gelu: int = 16
    silu: int = 16
    form: Literal["float", "fixed"] = "float"
    root: Literal["mitchell", "mantissa"] = "mitchell"

    def __post_init__(self) -> None:
        """Refuse to change nothing, and a repair of whole numbers, which have no gradient."""
        super().__post_init__()
        if not self.settings:
            raise MismatchError(f"all of {', '.join(_OPS)} are 0; expected one to exchange")
        for op, setting in self.settings.items():
            if setting < 0:
                raise MismatchError(f"{op} is {setting}; expected 1 or more, or 0 to leave it")
        if self.repair == "gradient" and self.form == "fixed":
            raise MismatchError("the fixed form has no gradient; take --form float to repair")

    @property
    def settings(self) -> dict[str, int]:
        """What is exchanged, with its setting."""
        return {op: getattr(self, op) for op in _OPS if getattr(self, op)}

    @property
    def needs_data(self) -> bool:
        """Only a repair sees inputs."""
        return bool(self.repair)

    @property
    def label(self) -> str:
        """What a result is named after: "swap", "swap-fixed"."""
        return "swap" + ("-fixed" if self.form == "fixed" else "")

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        kind = ", in whole numbers" if self.form == "fixed" else ""
        return f"without division and root in {', '.join(self.settings)}{kind}"


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
    """Exchange operators, repair the network if that is wanted, and return its tensors.

    There is nothing to resume, and it runs on the CPU. The matrices may be in forms already.

    Raises:
        MismatchError: the network computes in integers, its operators were exchanged before, it
            has none to exchange, or a setting is out of range.

    """
    from zoo.compression.network import are_logits, calibrated, facts_of, in_floats, repair_as
    from zoo.compression.repair import repair
    from zoo.tasks import task_of

    in_floats(source)
    if "ops" in source.recipe.structure:
        raise MismatchError(
            f"operators of {source.recipe.name}.{source.tag} were exchanged before; give the model "
            "it was made from"
        )
    network = source.load()
    batches = calibrated(source.recipe, data) if options.repair else []
    likelihood = are_logits(source.recipe, network, batches)
    how = repair_as(options, source.recipe, likelihood=likelihood)
    small = copy.deepcopy(network)
    places, ops = exchanged(small, how)
    mended = repair(small, network, batches, how) if options.repair else None
    facts = facts_of(source.recipe, network, small, data if options.repair else None, batches)
    facts["exchanged"] = {op: {"setting": ops[op], "places": n} for op, n in places.items()}
    if mended is not None:
        facts["repair"] = {"how": how.repair, "loss": how.repair_loss, **asdict(mended)}
    task = task_of(source.recipe)
    scores = {} if test is None else {test.name: task.evaluate(small, source.recipe, test)}
    before = {"forms": {}, **source.recipe.structure}
    before.pop("factors", None)  # they are floats now
    return Compressed(
        metrics={"compression": facts, **({"evaluations": scores} if scores else {})},
        tensors=small.state_dict(),
        changes={"structure": {**before, "version": 3, "ops": ops}},
    )


def exchanged(network: "nn.Module", options: Options) -> tuple[dict[str, int], dict[str, Any]]:
    """Exchange the operators that a network has, in place.

    Returns:
        How many places each was exchanged in, and the structure's `ops`.

    Raises:
        MismatchError: it has none of them, or see `swap_ops`.

    """
    from zoo.models.approximate.swap import places_of, swap_as

    found = places_of(network)
    ops: dict[str, Any] = {op: n for op, n in options.settings.items() if found[op]}
    if not ops:
        raise MismatchError(
            f"{type(network).__name__} has no {', '.join(options.settings)} that can be exchanged "
            "(or it was before)"
        )
    ops |= {"form": options.form, "root": options.root}
    return swap_as(network, ops), ops
