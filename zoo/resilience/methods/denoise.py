"""Denoise: a network learns to bear the noise of analog arrays, by small blocks or by itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import MismatchError
from zoo.registry.compressed import Compressed
from zoo.registry.options import check_seed

if TYPE_CHECKING:
    from zoo.registry.checkpoint import Checkpoint

SUMMARY = "small digital blocks that take the noise of analog arrays out of a classifier"
PAPER = "2409.18553"
TAKES = "classifier"
DATA = "the folder that the network is trained on"
TRAINS = True
PRESETS: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of denoising.

    Attributes:
        noise: what the arrays add to the outputs of layers, e.g. "gauss:0.03", a share of the
            largest output.
        max_params: the most parameters that blocks may have, a count or a share of the network's,
            e.g. "2.5%".
        block: "auto" chooses for each layer, "channel", a gain and shift of each channel,
            "depthwise", a 3x3 filter of each channel, or "bottleneck", the published form.
        learns: what is trained: the "blocks", or, without any block, the "biases" or "all" weights
            of the network itself.
        steps: optimizer steps; 0 leaves the blocks as regression found them.
        lr: peak learning rate, of AdamW.
        batch_size: samples of a step; 0 takes that of the network's training.
        seed: of the draws and batches.

    """

    noise: str = "gauss:0.03"
    max_params: str = "2.5%"
    block: Literal["auto", "channel", "depthwise", "bottleneck"] = "auto"
    learns: Literal["blocks", "biases", "all"] = "blocks"
    steps: int = 2000
    lr: float = 1e-3
    batch_size: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        from zoo.resilience.insertion import share
        from zoo.resilience.noise import parse

        if not any(noise.size for noise in parse(self.noise)):
            raise MismatchError(f"the noise {self.noise!r} is none; there is nothing to learn")
        share(self.max_params, 1)
        check_seed(self.seed)
        for name, least in (("steps", 0), ("batch_size", 0)):
            if getattr(self, name) < least:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if not 0 < self.lr < 1:
            raise MismatchError(f"lr is {self.lr:g}; expected more than 0 and less than 1")
        if self.learns != "blocks" and not self.steps:
            raise MismatchError(f"learns {self.learns} in 0 steps is nothing; give --steps")

    @property
    def needs_data(self) -> bool:
        """It trains, and finds the range of each layer."""
        return True

    @property
    def label(self) -> str:
        """What a result is named after."""
        return "denoised" if self.learns == "blocks" else f"denoised-{self.learns}"

    @property
    def summary(self) -> str:
        """What was done, in a few words."""
        how = {
            "blocks": f"blocks of at most {self.max_params} of its parameters",
            "biases": "its biases trained",
            "all": "all its weights trained",
        }[self.learns]
        return f"{how} against the noise {self.noise}"


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
    """Put blocks into a network and train them, or train the network itself, under noise.

    The run lies in `out/run` until it is finished; `resume` goes on with it.

    Raises:
        MismatchError: the network is no classifier in floats that a recipe trains, the data cannot
            be used, or no block fits the budget.

    """
    from zoo.resilience.denoising import trained

    if data is None:
        raise MismatchError("denoise trains the network; add --data, what it was trained on")
    return trained(source, out, options, data=data, test=test, resume=resume, device=device)
