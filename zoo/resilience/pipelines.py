"""Pipelines of purifiers: what is typed, and gradients through stages that have none."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo import extensions
from zoo.artifacts.resolution import resolve
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry import all_recipes
from zoo.resilience.enlarging import EnlargingStage
from zoo.resilience.purifiers.contract import PARTS, POINT, Purifier, Stage


def stage(text: str) -> Stage:
    """Return the stage that a text names: "jpeg:75", or a network of super resolution.

    Raises:
        UnknownNameError: it is neither; the message lists near misses.
        MismatchError: its words cannot be used.

    """
    name, *words = text.strip().split(":")
    if name.replace("_", "-") in extensions.members(POINT):
        found: Purifier = extensions.member(POINT, name, "purifier")
        extensions.require(found, PARTS, f"purifier {name!r}", "zoo.resilience.purifiers.contract")
        try:
            made = found.make(*words)
        except TypeError:
            raise MismatchError(f"purifier {text!r}; expected {found.USAGE}") from None
    else:
        made = _network(text.strip())
    made.text = text.strip()
    return made.eval()


def _network(ref: str) -> Stage:
    """Return the stage of a network of super resolution."""
    known = extensions.names(POINT)
    hint = f"known: {', '.join(known)}, and networks of super resolution"
    if ":" in ref and "/" not in ref and "\\" not in ref:  # no ref has a colon; a path may
        raise UnknownNameError.near("purifier", ref.partition(":")[0], known, hint)
    try:
        artifact = resolve(ref)
    except UnknownNameError as error:
        names = [name for name, r in all_recipes().items() if r.subtask == "super-resolution"]
        raise UnknownNameError.near("purifier", ref, [*known, *names], hint) from error
    if artifact.recipe is None or artifact.recipe.subtask != "super-resolution":
        raise MismatchError(
            f"{ref} does not enlarge pictures; a purifier is one of "
            f"{', '.join(extensions.names(POINT))}, or a network of super resolution"
        )
    return EnlargingStage(artifact.load(), int(artifact.recipe.args["scale"]))


class _Straight(torch.autograd.Function):
    """A stage's values with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, stage: Stage) -> Tensor:
        made: Tensor = stage(x.detach())
        return made

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        return slopes[0], None


class Pipeline(nn.Module):
    """Stages one after the other.

    Args:
        stages: the stages.
        backward: whether gradients pass: through smooth stages truly, through the others as if they
            were the identity (BPDA, Athalye et al., arXiv 1802.00420).

    """

    def __init__(self, stages: Sequence[Stage], *, backward: bool = False) -> None:
        super().__init__()
        self.stages, self.backward_pass = nn.ModuleList(stages), backward

    @property
    def text(self) -> str:
        """The stages as they are typed; "none" without any."""
        return ",".join(str(stage.text) for stage in self.stages) or "none"

    @property
    def scale(self) -> int:
        """How much the stages enlarge together."""
        scale = 1
        for member in self.stages:
            assert isinstance(member, Stage)
            scale *= member.scale
        return scale

    def forward(self, images: Tensor) -> Tensor:
        """Return purified pictures `(N, C, scale H, scale W)` of pictures in [0, 1]."""
        x = images
        for member in self.stages:
            assert isinstance(member, Stage)
            if self.backward_pass and not member.smooth:
                x = _Straight.apply(x, member)  # type: ignore[no-untyped-call]
            else:
                x = member(x)
        return x


def pipeline(text: str) -> Pipeline:
    """Return the stages that a text names, with commas between them; "none" has none.

    Raises:
        UnknownNameError, MismatchError: see `stage`.

    """
    parts = [part.strip() for part in text.split(",")]
    if parts == ["none"]:
        return Pipeline([])
    if not all(parts):
        raise MismatchError(
            f"{text!r} has an empty stage; expected e.g. jpeg:75,wavelet:0.02,sesr-m3-x2"
        )
    return Pipeline([stage(part) for part in parts])
