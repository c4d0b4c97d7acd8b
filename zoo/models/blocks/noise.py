"""What analog arrays add to the sums that they compute: noise on the outputs of layers.

An array holds the weights of a layer; its sums are noisy before anything digital happens to them:
bias and activation, for the layers here, come after or with it. Products of two activations, as in
attention, are digital.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)
Kind = Literal["gauss", "factor", "pattern"]


@dataclass(frozen=True)
class Noise:
    """One kind of noise.

    Attributes:
        kind: "gauss", added to every sum anew, with a standard deviation of `size` times the
            largest output of the layer; "factor", every sum multiplied anew with 1 + `size` times
            a normal number; "pattern", added like gauss, but one number for each channel of a
            layer, which a chip keeps: what differs from device to device.
        size: see above.

    """

    kind: Kind
    size: float


def sites(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that an array would compute, by name, without those of blocks."""
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, LAYERS) and not getattr(layer, "digital", False)
    }


class Chip:
    """A device with its own patterns.

    Args:
        noises: what it has.
        limits: the largest absolute output of each layer, on clean inputs; None takes that of
            each batch, with its gradient: what is trained gains nothing by larger outputs, whose
            range the arrays then have to hold.
        dice: for everything drawn; None takes torch's own generator.
        reads: how often every sum is computed and averaged: fresh noise falls with its root.

    """

    def __init__(
        self,
        noises: Sequence[Noise],
        limits: Mapping[str, float] | None,
        dice: torch.Generator | None = None,
        reads: int = 1,
    ) -> None:
        self.noises, self.limits, self.dice, self.reads = noises, limits, dice, reads
        self.level = 1.0  # a factor of all sizes
        self._patterns: dict[tuple[str, int], Tensor] = {}

    def renew(self) -> None:
        """Become another device."""
        self._patterns.clear()

    def perturbed(self, name: str, layer: nn.Module, y: Tensor) -> Tensor:
        """Return a layer's outputs `(N, C, ...)`, of a linear layer `(..., C)`, with noise."""
        fresh = self.level / self.reads**0.5
        for number, noise in enumerate(self.noises):
            limit = y.abs().amax() if self.limits is None else self.limits[name]
            scale = noise.size * limit
            if noise.kind == "gauss":
                y = y + self._normal(y.shape, y) * (scale * fresh)
            elif noise.kind == "factor":
                y = y * (1 + self._normal(y.shape, y) * (noise.size * fresh))
            else:
                axis = y.ndim - 1 if isinstance(layer, nn.Linear) else 1
                shape = [1] * y.ndim
                shape[axis] = y.shape[axis]
                key = (name, number)
                if key not in self._patterns:
                    self._patterns[key] = self._normal(shape, y)
                y = y + self._patterns[key] * (scale * self.level)
        return y

    def _normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.randn(shape, generator=self.dice).to(like)

    @contextmanager
    def inside(self, network: nn.Module, only: str = "") -> Iterator[None]:
        """Let a network compute with this device's noise; with `only`, in that layer alone."""

        def after(name: str, layer: nn.Module, inputs: Any, y: Tensor) -> Tensor:
            return self.perturbed(name, layer, y)

        hooks = [
            listening(layer, partial(after, name))
            for name, layer in sites(network).items()
            if only in ("", name)
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def listening(layer: nn.Module, function: Any) -> Any:
    """Call `function(layer, inputs, sums)` after a layer's sums, before the block that it has."""
    block = getattr(layer, "block", None)
    if block is None:
        return layer.register_forward_hook(function)

    def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
        return (function(layer, (), inputs[0]),)

    return block.register_forward_pre_hook(before)


@torch.no_grad()
def limits(network: nn.Module, batches: Sequence[Tensor]) -> dict[str, float]:
    """Return the largest absolute output of each layer over clean inputs."""
    found: dict[str, float] = {}

    def seen(name: str, layer: nn.Module, inputs: Any, y: Tensor) -> None:
        found[name] = max(found.get(name, 0.0), float(y.abs().max()))

    hooks = []
    for name, layer in sites(network).items():
        hooks.append(listening(layer, partial(_kept, partial(seen, name))))
    try:
        for batch in batches:
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _kept(function: Any, layer: nn.Module, inputs: Any, y: Tensor) -> Tensor:
    """Return the sums as they are, after a function has seen them."""
    function(layer, inputs, y)
    return y
