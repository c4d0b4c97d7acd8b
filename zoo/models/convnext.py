"""ConvNeXt (Liu et al., arXiv 2201.03545), and RAN-implicit, which is ConvNeXt deeper and thinner.

Layer for layer and name for name as the authors of ConvNeXt publish it, so that their weights load
as they are; `from_transformers` renames those of transformers and of its checkpoints on the Hub.
The deployed network has no factors after its branches: `deployed` multiplies them into the layers.
RAN-i (arXiv 2208.08562) has the same blocks: only depths and widths differ, see
`zoo.nas.expressivity`.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-6  # in the layer norms
_KERNEL = 7  # of the depthwise convolutions
_EXPANSION = 4


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of maps `(N, C, H, W)`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each place by itself."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """y = x + gamma * W2 gelu(W1 norm(depthwise(x))), on maps `(N, C, H, W)`.

    Args:
        width: C.
        drop_path: the share of training samples whose branch is left out (arXiv 1603.09382).
        layer_scale: where gamma, one factor a channel, starts; 0 for no such factors.

    """

    def __init__(self, width: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.drop_path = drop_path
        self.dwconv = nn.Conv2d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.pwconv1 = nn.Linear(width, _EXPANSION * width)
        self.pwconv2 = nn.Linear(_EXPANSION * width, width)
        self.gamma = nn.Parameter(layer_scale * torch.ones(width)) if layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, C, H, W)` to the same shape."""
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(F.gelu(self.pwconv1(y)))
        if self.gamma is not None:
            y = self.gamma * y
        return x + self._kept(y.permute(0, 3, 1, 2))

    def _kept(self, y: Tensor) -> Tensor:
        """Return the branch, without that of some samples, and the others' larger in return."""
        if not self.training or not self.drop_path:
            return y
        keep = 1 - self.drop_path
        kept = torch.rand(len(y), 1, 1, 1, dtype=y.dtype, device=y.device) < keep
        return y * kept / keep


class ConvNeXt(nn.Module):
    """A classifier of pictures: `(N, in_chans, H, W)` to logits `(N, num_classes)`.

    Args:
        depths: blocks of each stage.
        dims: width of each stage; maps are halved between two stages.
        num_classes: outputs of the last layer; with 0 there is none, and the network returns what
            it sees, `(N, dims[-1])`.
        in_chans: channels of the pictures.
        patch: pixels, each way, that the first layer takes together.
        drop_path_rate: drop path of the last block, in training; it rises from 0 at the first.
        layer_scale: where the factors of the branches start; 0 for none.

    Raises:
        ValueError: the sizes are none of a network.

    ```python
    import torch

    from zoo.models.convnext import ConvNeXt

    network = ConvNeXt([3, 3, 9, 3], [96, 192, 384, 768], num_classes=10)
    maps = network.forward_features(torch.zeros(1, 3, 224, 224))  # of 56, 28, 14 and 7 pixels
    ```

    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 3, 9, 3),
        dims: Sequence[int] = (96, 192, 384, 768),
        num_classes: int = 1000,
        *,
        in_chans: int = 3,
        patch: int = 4,
        drop_path_rate: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        _check(depths, dims, num_classes, in_chans, patch, drop_path_rate)
        self.depths, self.dims, self.num_classes = tuple(depths), tuple(dims), num_classes
        self.in_chans, self.patch = in_chans, patch
        stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], patch, patch), ChannelNorm(dims[0]))
        halved = (
            nn.Sequential(ChannelNorm(before), nn.Conv2d(before, after, 2, 2))
            for before, after in itertools.pairwise(dims)
        )
        self.downsample_layers = nn.ModuleList([stem, *halved])
        last = max(sum(depths) - 1, 1)
        rates = iter(drop_path_rate * number / last for number in range(sum(depths)))
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, next(rates), layer_scale) for _ in range(depth)))
            for depth, width in zip(depths, dims, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=EPSILON)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage, `(N, dims[i], H / (patch * 2**i), W / (patch * 2**i))`."""
        maps = []
        for shrink, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(shrink(x))
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, in_chans, H, W)`."""
        logits: Tensor = self.head(self.norm(self.forward_features(x)[-1].mean((2, 3))))
        return logits

    def trainable(self, drop_path: float = 0.0, layer_scale: float = 1e-6) -> Self:
        """Return the form that is trained, freshly initialised: with drop path and factors."""
        return self._like(drop_path, layer_scale)

    @torch.no_grad()
    def deployed(self) -> Self:
        """Return the equal network without factors, in eval mode: they are in the layers before."""
        network = self._like(0.0, 0.0)
        state = self.state_dict()
        for name in [name for name in state if name.endswith(".gamma")]:
            gamma, layer = state.pop(name).double(), name.removesuffix("gamma") + "pwconv2."
            for part, factor in (("weight", gamma[:, None]), ("bias", gamma)):
                value = state[layer + part]
                state[layer + part] = (value.double() * factor).to(value)
        network.load_state_dict(state)
        return network.to(next(self.parameters())).eval()

    @torch.no_grad()
    def load_deployed(self, network: nn.Module) -> None:
        """Start from a network's weights; the last layer starts anew if it has other outputs.

        Where the network has no factors, they start at 1.

        Raises:
            RuntimeError: the weights do not fit.

        """
        state, own = network.state_dict(), self.state_dict()
        for name, value in own.items():
            if name.endswith(".gamma") and name not in state:
                state[name] = torch.ones_like(value)
        heads = [
            {name: value.shape for name, value in tensors.items() if name.startswith("head.")}
            for tensors in (state, own)
        ]
        if heads[0] != heads[1]:
            state = {name: value for name, value in state.items() if name not in heads[0]}
            state |= {name: own[name] for name in heads[1]}
        self.load_state_dict(state)

    def _like(self, drop_path_rate: float, layer_scale: float) -> Self:
        return type(self)(
            self.depths, self.dims, self.num_classes, in_chans=self.in_chans, patch=self.patch,
            drop_path_rate=drop_path_rate, layer_scale=layer_scale,
        )  # fmt: skip


def _check(
    depths: Sequence[int], dims: Sequence[int], classes: int, channels: int, patch: int, rate: float
) -> None:
    """Raise a ValueError if these are not the sizes of a network."""
    if len(depths) != len(dims) or not depths:
        raise ValueError(
            f"depths {list(depths)} and dims {list(dims)}; expected one of each for every stage"
        )
    if min(depths) < 1 or min(dims) < 1:
        raise ValueError(f"depths {list(depths)}, dims {list(dims)}; expected 1 or more of each")
    if classes < 0 or channels < 1 or patch < 1:
        raise ValueError(
            f"num_classes {classes}, in_chans {channels}, patch {patch}; expected at least 0, 1, 1"
        )
    if not 0 <= rate < 1:
        raise ValueError(f"drop_path_rate is {rate}; expected 0 or more, and less than 1")


# From the names of transformers' ConvNextForImageClassification to those of the authors.
_RENAMED = (
    (r"^convnext\.embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^convnext\.embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^convnext\.encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"^convnext\.encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
    (r"^convnext\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm\.", ".norm."),
    (r"\.layer_scale_parameter$", ".gamma"),
)


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a `ConvNextForImageClassification` of transformers, by our names.

    A `ConvNextModel`, which has no last layer, has no `head` here either: build the network with
    `num_classes=0`.
    """
    bare = not any(name.startswith(("convnext.", "classifier.")) for name in state)
    renamed = {}
    for name, value in state.items():
        own = f"convnext.{name}" if bare else name
        for pattern, replacement in _RENAMED:
            own = re.sub(pattern, replacement, own)
        renamed[own] = value
    return renamed
