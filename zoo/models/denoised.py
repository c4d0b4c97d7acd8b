"""Networks for noisy analog arrays: small digital blocks after some of their layers.

Reconstructed from the abstract of Azizi et al. (arXiv 2409.18553), whose text was not at hand: the
trained network is kept; blocks that estimate the noise go in after selected layers and are trained.
"""

import copy
import importlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.blocks.noise import Chip, Noise

Kind = Literal["channel", "depthwise", "bottleneck"]
Learns = Literal["blocks", "biases", "all"]
WIDTH = 4  # channels inside a bottleneck
HIGHEST = 1.5  # times the noise trained for: the levels that training draws from


class DigitalBlock(nn.Module):
    """Computes clean sums from noisy ones, `(N, C, H, W)`; starts as the identity."""

    def freeze(self) -> "DigitalBlock":
        """Mark the layers as digital: no array computes them."""
        for layer in self.modules():
            layer.digital = True  # type: ignore[assignment]
        return self


class ChannelBlock(DigitalBlock):
    """A gain and a shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 1, groups=channels)
        nn.init.ones_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Return gain * x + shift."""
        mixed: Tensor = self.mix(x)
        return mixed


class DepthwiseBlock(DigitalBlock):
    """A 3x3 filter and a shift for each channel: noise differs between neighbours, maps hardly."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        nn.init.zeros_(self.mix.weight)
        assert self.mix.bias is not None
        nn.init.zeros_(self.mix.bias)
        with torch.no_grad():
            self.mix.weight[:, 0, 1, 1] = 1
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Return the filtered maps."""
        mixed: Tensor = self.mix(x)
        return mixed


class BottleneckBlock(DigitalBlock):
    """The published form: 1x1 to a few channels, 3x3, 1x1 back; estimates what to subtract."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, WIDTH, 1)
        self.look = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.widen = nn.Conv2d(WIDTH, channels, 1)
        nn.init.zeros_(self.widen.weight)
        assert self.widen.bias is not None
        nn.init.zeros_(self.widen.bias)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        """Return x less the estimated noise."""
        noise: Tensor = self.widen(F.relu(self.look(F.relu(self.narrow(x)))))
        return x - noise


BLOCKS: dict[str, type[DigitalBlock]] = {
    "channel": ChannelBlock,
    "depthwise": DepthwiseBlock,
    "bottleneck": BottleneckBlock,
}


class Guarded(nn.Conv2d):
    """A convolution and the block after it."""

    block: DigitalBlock

    @classmethod
    def of(cls, layer: nn.Conv2d, kind: str) -> "Guarded":
        """Return a convolution with the weights of another, and a block of a kind."""
        made = cls(
            layer.in_channels, layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # declared as of any length
            layer.stride, layer.padding, layer.dilation,  # type: ignore[arg-type]
            layer.groups, layer.bias is not None, layer.padding_mode,
        ).to(layer.weight)  # fmt: skip
        made.load_state_dict(layer.state_dict())
        made.block = BLOCKS[kind](layer.out_channels).to(layer.weight)
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's outputs `(N, C, H, W)`."""
        made: Tensor = self.block(super().forward(x))
        return made


class Denoised(nn.Module):
    """A network of the zoo with blocks after some of its convolutions.

    Args:
        network: "module:class" of the network, in `zoo.models`.
        args: its arguments.
        blocks: the kind of block after each convolution that has one, by the layer's name:
            "channel", "depthwise" or "bottleneck".

    """

    def __init__(self, network: str, args: Mapping[str, Any], blocks: Mapping[str, str]) -> None:
        super().__init__()
        self.kinds = dict(blocks)
        module, _, name = network.partition(":")
        if not module.startswith("zoo.models."):  # a config may name nothing else
            raise ValueError(f"the network is {network!r}; expected one of zoo.models")
        kind = getattr(importlib.import_module(module), name)
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(f"{network} is not a network")
        self.network: nn.Module = kind(**args)
        for site, block in blocks.items():
            put(self.network, site, block)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network does, its sums denoised."""
        made: Tensor = self.network(x)
        return made

    @property
    def blocks(self) -> dict[str, DigitalBlock]:
        """The blocks, by the name of the convolution before each."""
        found = self.network.named_modules()
        return {name: layer.block for name, layer in found if isinstance(layer, Guarded)}

    def trainable(self, *, noise: Mapping[str, Any], learns: Learns) -> "NoisyNetwork":
        """Return the training form, with these weights and noise inside; see `NoisyNetwork`."""
        return NoisyNetwork(self, noise, learns)


def put(network: nn.Module, site: str, kind: str) -> None:
    """Put a block after a convolution of a network.

    Raises:
        ValueError: there is no such convolution or block.

    """
    parent, _, last = site.rpartition(".")
    try:
        layer = network.get_submodule(site)
    except AttributeError:
        layer = None
    if type(layer) is not nn.Conv2d or kind not in BLOCKS:
        raise ValueError(
            f"no block {kind!r} after {site!r}; expected {', '.join(BLOCKS)}, after a convolution"
        )
    setattr(network.get_submodule(parent), last, Guarded.of(layer, kind))


class NoisyNetwork(nn.Module):
    """The training form: in training, every batch meets another chip and another level of noise.

    Args:
        network: the deployed network.
        noise: "kinds" and "sizes" of the noise.
        learns: what is trained: the "blocks", the "biases" or "all" weights.

    """

    def __init__(self, network: Denoised, noise: Mapping[str, Any], learns: Learns) -> None:
        super().__init__()
        self.denoised = network
        self.chip = Chip(
            [Noise(kind, size) for kind, size in zip(noise["kinds"], noise["sizes"], strict=True)],
            limits=None,
        )
        network.requires_grad_(learns == "all")
        if learns == "blocks":
            for block in network.blocks.values():
                block.requires_grad_()
        if learns == "biases":
            for name, value in network.named_parameters():
                value.requires_grad_(name.endswith("bias"))
        if not any(value.requires_grad for value in network.parameters()):
            raise ValueError("there is nothing to train")

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs: with noise while training, clean in eval mode."""
        made: Tensor
        if not self.training:
            made = self.denoised(x)
            return made
        self.chip.renew()
        self.chip.level = HIGHEST * float(torch.rand(()))
        with self.chip.inside(self.denoised.network):
            made = self.denoised(x)
        return made

    def deployed(self) -> Denoised:
        """Return the network without noise, in eval mode."""
        return copy.deepcopy(self.denoised).requires_grad_().eval()

    def load_deployed(self, network: nn.Module) -> None:
        """Start from the weights of a deployed network, blocks included."""
        self.denoised.load_state_dict(network.state_dict())
