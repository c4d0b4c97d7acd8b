"""Noise of analog arrays: what is typed, and how well a network bears it, over several chips."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn

from zoo.errors import MismatchError, UnknownNameError
from zoo.models.blocks.noise import Chip, Kind, Noise, limits, sites

KINDS: tuple[str, ...] = get_args(Kind)
_BATCH = 128


def parse(text: str) -> tuple[Noise, ...]:
    """Return the noises that a text names, e.g. "gauss:0.03" or "gauss:0.02,pattern:0.01".

    Raises:
        UnknownNameError: there is no such noise.
        MismatchError: a size cannot be used, or a kind is given twice.

    """
    found: list[Noise] = []
    for part in (part.strip() for part in text.split(",")):
        kind, _, size = (piece.strip() for piece in part.partition(":"))
        if kind not in KINDS:
            raise UnknownNameError.near("noise", kind, KINDS, f"known: {', '.join(KINDS)}")
        try:
            value = float(size)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            raise MismatchError(
                f"the size of the noise {part!r} is {size or 'missing'}; expected 0 to 1, a share "
                f"of a layer's largest output, e.g. {kind}:0.03"
            )
        if any(noise.kind == kind for noise in found):
            raise MismatchError(f"the noise {kind} is given twice in {text!r}")
        found.append(Noise(kind, value))  # type: ignore[arg-type]  # checked above
    return tuple(found)


def said(noises: Sequence[Noise]) -> str:
    """Return noises as they are typed."""
    return ",".join(f"{noise.kind}:{noise.size:g}" for noise in noises)


def limits_of(network: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Return the largest output of each layer that an array computes, on clean inputs.

    Raises:
        MismatchError: the network has no such layer.

    """
    if not sites(network):
        raise MismatchError(
            "noise is added after convolutions and linear layers, and this network has none"
        )
    return limits(network, inputs.split(_BATCH))


@dataclass(frozen=True)
class Borne:
    """How a network does on noisy chips.

    Attributes:
        right: whether each chip got each input right, bool `(chips, N)`.

    """

    right: Tensor

    @property
    def accuracy(self) -> float:
        """The mean over chips and inputs."""
        return float(self.right.double().mean())

    @property
    def chips(self) -> list[float]:
        """The accuracy of each chip."""
        return [float(share) for share in self.right.double().mean(1)]

    @property
    def standard_error(self) -> float:
        """Of the mean: chips and inputs are both drawn."""
        return standard_error(self.right.double())


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean of `(chips, N)`, for other chips and inputs.

    It is the sum of both ways' variances of means, at most a little too large.
    """
    parts = [values.mean(0), values.mean(1)]
    total = sum(float(part.var()) / len(part) for part in parts if len(part) > 1)
    return math.sqrt(total)


@torch.no_grad()
def borne(
    network: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    noises: Sequence[Noise],
    found: dict[str, float],
    *,
    chips: int,
    seed: int = 0,
    level: float = 1.0,
    reads: int = 1,
    only: str = "",
    progress: Callable[[], None] | None = None,
) -> Borne:
    """Return how a network does on `chips` noisy devices, each with numbers of its own.

    Args:
        network: in eval mode.
        inputs: `(N, ...)`.
        labels: `(N,)`.
        noises: what the devices have.
        found: the largest outputs, from `limits_of`.
        chips: how many devices.
        seed: chip k draws from a generator of its own, of seed and k.
        level: a factor of all sizes.
        reads: how often every sum is computed and averaged.
        only: a layer's name: the only one with noise.
        progress: called after each chip.

    """
    rows = []
    for number in range(chips):
        chip = Chip(noises, found, torch.Generator().manual_seed(seed * 100_003 + number), reads)
        chip.level = level
        with chip.inside(network, only):
            made = torch.cat([network(part).argmax(1) for part in inputs.split(_BATCH)])
        rows.append(made == labels)
        if progress:
            progress()
    return Borne(torch.stack(rows))
