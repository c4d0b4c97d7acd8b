"""UDC: few bits and many zeros where a network can bear them, for an NPU that encodes weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "bits and sparsity of each layer, learned, for the weight code of Ethos-U"
PAPER = "2201.05842"
TAKES = "network"
DATA = "the folder or Hub data set that the network is trained on"
TRAINS = True
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of UDC.

    Attributes:
        ratio: how many times smaller the encoded weights become than those of plain int8.
        max_flash: the most that the encoded weights may take, e.g. 40KB; instead of a ratio.
        bits: one number of bits for all layers, 2, 3, 4, 5 or 8, instead of a search.
        sparsity: one share of zeros for all layers, with `bits`.
        steps: optimizer steps: four tenths search, and the rest train what is chosen.
        lr: peak learning rate, of AdamW.
        batch_size: samples of a step; 0 takes that of the network's training.
        seed: of the draws and batches.

    """

    ratio: float = 2.0
    max_flash: str = ""
    bits: int = 0
    sparsity: float = 0.0
    steps: int = 2000
    lr: float = 5e-4
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        from zoo.nas.udc.options import check

        check(self)

    @property
    def needs_data(self) -> bool:
        """It trains."""
        return True

    @property
    def label(self) -> str:
        """What a result is named after."""
        return "udc" if not self.bits else f"udc-{self.bits}b"

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        if self.bits:
            return f"{self.bits} bits and {self.sparsity:.0%} zeros in every layer by udc"
        goal = f"at most {self.max_flash}" if self.max_flash else f"{self.ratio:g} times smaller"
        return f"encoded weights {goal} by udc"


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
    """Train the network, starting from its weights, until its encoded weights are small.

    The runs lie in `out/search` and `out/run` until they are finished; `resume` goes on with them.

    Raises:
        MismatchError: the network is not one that a recipe trains or has no integer form, the data
            cannot be used, or nothing is as small as the options ask.

    """
    from zoo.nas.udc.running import trained

    if data is None:
        raise MismatchError("udc trains the network; add --data, what it was trained on")
    return trained(source, out, options, data=data, test=test, resume=resume, device=device)
