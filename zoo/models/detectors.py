"""Detectors of objects in pictures: one stage, no anchors, on the blocks of ConvNeXt and RAN-i.

Every cell of a map says how likely each label has its centre there, and how far the sides of its
box are, as CenterNet (Zhou et al., arXiv 1904.07850) and FCOS (Tian et al., arXiv 1904.01355) do.

The deployed network computes what the trained one does, by fewer operators, which NPUs have: scale
and shift of a norm are in the layer after it, the factors of a branch in the layer before them, and
a mean over channels is a 1x1 convolution.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.convnext import EPSILON, ConvNeXt

SIDES = 4  # left, top, right, bottom
_RARE = -4.6  # the logit of 1 %: in most cells, no label has its centre
_START = 2.0  # of the sides: 2.7 cells
_LOG = logging.getLogger("zoo")


class Normalized(nn.Module):
    """(x - mean) / sqrt(variance + epsilon) over the channels of maps `(N, channels, H, W)`.

    Args:
        channels: of the maps.
        scaled: whether each channel is scaled and shifted then.

    """

    share: Tensor

    def __init__(self, channels: int, *, scaled: bool = False) -> None:
        super().__init__()
        share = torch.full((1, channels, 1, 1), 1 / channels)
        self.register_buffer("share", share, persistent=False)
        self.weight = nn.Parameter(torch.ones(channels, 1, 1)) if scaled else None
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each place by itself."""
        centred = x - F.conv2d(x, self.share)
        variance = F.conv2d(centred * centred, self.share)
        y = centred * torch.rsqrt(variance + EPSILON)
        return y if self.weight is None or self.bias is None else y * self.weight + self.bias


class PlainBlock(nn.Module):
    """A block of ConvNeXt as it is deployed, on maps `(N, width, H, W)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = Normalized(width)
        self.pwconv1 = nn.Conv2d(width, 4 * width, 1)
        self.pwconv2 = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, width, H, W)` to the same shape."""
        y: Tensor = self.pwconv2(F.gelu(self.pwconv1(self.norm(self.dwconv(x)))))
        return x + y


class PlainBackbone(nn.Module):
    """The stages of a ConvNeXt as they are deployed.

    Args:
        depths: blocks of each stage.
        dims: width of each stage.

    """

    def __init__(self, depths: Sequence[int], dims: Sequence[int]) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), Normalized(dims[0], scaled=True))
        halved = (
            nn.Sequential(Normalized(before), nn.Conv2d(before, after, 2, 2))
            for before, after in itertools.pairwise(dims)
        )
        self.downsample_layers = nn.ModuleList([stem, *halved])
        self.stages = nn.ModuleList(
            nn.Sequential(*(PlainBlock(width) for _ in range(depth)))
            for depth, width in zip(depths, dims, strict=True)
        )

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """Return the map of each stage, `(N, dims[i], H / 4 / 2**i, W / 4 / 2**i)`."""
        maps = []
        for shrink, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(shrink(x))
            maps.append(x)
        return maps

    @torch.no_grad()
    def fold(self, trained: ConvNeXt) -> None:
        """Compute what a trained backbone does."""
        norm, scaled = _first_norms(trained, self)
        scaled.weight.copy_(norm.weight[:, None, None])
        scaled.bias.copy_(norm.bias[:, None, None])
        for layer, plain, before, gamma in _layers(trained, self):
            weight, bias = layer.weight.view_as(plain.weight), layer.bias
            if before is not None:
                bias = bias + weight.sum((2, 3)) @ before.bias
                weight = weight * before.weight[:, None, None]
            if gamma is not None:
                weight, bias = weight * gamma[:, None, None, None], bias * gamma
            plain.weight.copy_(weight)
            plain.bias.copy_(bias)

    @torch.no_grad()
    def unfold(self, trained: ConvNeXt) -> None:
        """Let a backbone that will be trained compute what this one does."""
        norm, scaled = _first_norms(trained, self)
        norm.weight.copy_(scaled.weight[:, 0, 0])
        norm.bias.copy_(scaled.bias[:, 0, 0])
        for layer, plain, before, gamma in _layers(trained, self):
            layer.weight.copy_(plain.weight.view_as(layer.weight))
            layer.bias.copy_(plain.bias)
            if before is not None:
                before.reset_parameters()
            if gamma is not None:
                gamma.fill_(1)


def _first_norms(trained: Any, plain: Any) -> tuple[Any, Any]:
    """Return the norms after the first layer: what follows them also goes around the next."""
    return trained.downsample_layers[0][1], plain.downsample_layers[0][1]


def _layers(trained: Any, plain: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yield each layer, what it is when deployed, the norm before it and the factors after it."""
    yield trained.downsample_layers[0][0], plain.downsample_layers[0][0], None, None
    halved = zip(trained.downsample_layers[1:], plain.downsample_layers[1:], strict=True)
    for theirs, own in halved:
        yield theirs[1], own[1], theirs[0], None
    for stage, plain_stage in zip(trained.stages, plain.stages, strict=True):
        for block, deployed in zip(stage, plain_stage, strict=True):
            yield block.dwconv, deployed.dwconv, None, None
            yield block.pwconv1, deployed.pwconv1, block.norm, None
            yield block.pwconv2, deployed.pwconv2, None, block.gamma


class Head(nn.Module):
    """Maps of the stages to labels and sides.

    The last map is enlarged step by step, and those of the stages before are added, down to that of
    the second stage.

    Args:
        dims: width of each stage, the first included.
        num_classes: labels.
        width: channels of the maps that are added, and of the two layers after them.

    """

    def __init__(self, dims: Sequence[int], num_classes: int, width: int) -> None:
        super().__init__()
        if num_classes < 1 or width < 1 or len(dims) < 2:
            raise ValueError(
                f"num_classes {num_classes}, head {width}, {len(dims)} stages; expected at least "
                "1, 1 and 2"
            )
        self.lateral = nn.ModuleList(nn.Conv2d(inputs, width, 1) for inputs in dims[1:])
        self.tower = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.prediction = nn.Conv2d(width, num_classes + SIDES, 1)
        for layer in self.tower.children():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        start = [_RARE] * num_classes + [_START] * SIDES
        self.prediction.bias = nn.Parameter(torch.tensor(start))

    @torch.no_grad()
    def adopt(self, other: "Head") -> None:
        """Take over another head; with other labels, all of it but their rows.

        Raises:
            RuntimeError: it has other widths.

        """
        own, theirs = self.prediction, other.prediction
        if len(own.weight) == len(theirs.weight):
            self.load_state_dict(other.state_dict())
            return
        _LOG.warning(
            "the rows of the labels start anew: the weights are for %d, the network has %d",
            len(theirs.weight) - SIDES,
            len(own.weight) - SIDES,
        )
        self.lateral.load_state_dict(other.lateral.state_dict())
        self.tower.load_state_dict(other.tower.state_dict())
        assert own.bias is not None
        assert theirs.bias is not None
        own.weight[-SIDES:] = theirs.weight[-SIDES:]
        own.bias[-SIDES:] = theirs.bias[-SIDES:]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return `(N, num_classes + 4, H, W)`, H and W of the second map."""
        y: Tensor = self.lateral[-1](maps[-1])
        for lateral, before in zip(self.lateral[-2::-1], maps[-2:0:-1], strict=True):
            y = F.interpolate(y, scale_factor=2.0, mode="nearest") + lateral(before)
        output: Tensor = self.prediction(self.tower(y))
        return output


class Detector(nn.Module):
    """RGB pictures `(N, 3, H, W)` to `(N, num_classes + 4, H / 8, W / 8)`: labels, then sides.

    H and W are multiples of 4 * 2**(stages - 1). A logit is that of a label having its centre in
    this cell; sides are left, top, right and bottom, of which t means exp(t / 2) cells from the
    cell's middle.

    Args:
        depths: blocks of each stage of the backbone, two stages or more.
        dims: width of each stage.
        num_classes: labels.
        head: width of the layers after the backbone.

    """

    def __init__(
        self, depths: Sequence[int], dims: Sequence[int], num_classes: int, head: int = 32
    ) -> None:
        super().__init__()
        self.depths, self.dims = tuple(depths), tuple(dims)
        self.num_classes, self.width = num_classes, head
        self.head = Head(dims, num_classes, head)
        self.backbone = PlainBackbone(depths, dims)
        self.backbone.fold(ConvNeXt(depths, dims, 0))  # starts as those do
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return labels and sides of pictures."""
        output: Tensor = self.head(self.backbone.forward_features(x))
        return output

    def trainable(self, layer_scale: float = 1.0, drop_path: float = 0.0) -> "TrainedDetector":
        """Return the form that is trained, freshly initialised."""
        return TrainedDetector(self, layer_scale, drop_path)


class TrainedDetector(nn.Module):
    """The training form of a detector: its backbone is ConvNeXt itself.

    Args:
        plain: the detector whose sizes it has.
        layer_scale: where the factors of the branches start.
        drop_path: of the backbone's last block.

    """

    def __init__(self, plain: Detector, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.arguments = (plain.depths, plain.dims, plain.num_classes, plain.width)
        self.kind = type(plain)
        self.backbone = ConvNeXt(
            plain.depths, plain.dims, 0, layer_scale=layer_scale, drop_path_rate=drop_path
        )
        del self.backbone.norm  # a classifier's
        self.head = Head(plain.dims, plain.num_classes, plain.width)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Return labels and sides of pictures."""
        output: Tensor = self.head(self.backbone.forward_features(x))
        return output

    def deployed(self) -> Detector:
        """Return the equal network in fewer operators, in eval mode."""
        made = self.kind(*self.arguments)
        made.to(next(self.parameters()).device)
        made.backbone.fold(self.backbone)
        made.head.load_state_dict(self.head.state_dict())
        return made.eval()

    @torch.no_grad()
    def load_deployed(self, network: nn.Module) -> None:
        """Start from a detector, or from a classifier's backbone; with other labels, from its body.

        Raises:
            ValueError, RuntimeError: the backbone does not fit.

        """
        if isinstance(network, ConvNeXt):
            own, theirs = self.backbone.state_dict(), network.state_dict()
            ones = {k: torch.ones_like(v) for k, v in own.items() if k.endswith(".gamma")}
            given = {**ones, **theirs}
            self.backbone.load_state_dict({k: v for k, v in given.items() if k in own})
            return
        if not isinstance(network, Detector):
            raise ValueError(f"{type(network).__name__} is neither a detector nor a ConvNeXt")
        if (network.depths, network.dims) != self.arguments[:2]:
            raise ValueError(
                f"its backbone has depths {list(network.depths)} and widths {list(network.dims)}"
            )
        network.backbone.unfold(self.backbone)
        self.head.adopt(network.head)
