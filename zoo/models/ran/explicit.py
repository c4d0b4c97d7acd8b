"""RAN-explicit: Restructurable Activation Networks (arXiv 2208.08562), the explicit kind.

An inverted bottleneck whose inner activations go is linear, and restructures into one dense 3x3
convolution, which small accelerators run better than expand, depthwise and project. `RanE` is such
a network, layer for layer as the authors' code has RAN-e-C and RAN-e-GT; each of its rows says
which of the two it is.

As in their code, padding is TensorFlow's and the layers in front of a batch norm have no bias. Two
differences, both on purpose: the last layer returns logits, and the deployed network has no batch
norms. All but those that follow a sum are part of the convolution before them; those become the
depthwise 1x1 convolution that they are. The authors train the dense kernels themselves; with an
`expansion` they are trained as two factors, the linear block of SESR.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from zoo.models.blocks import EPSILON, Activation, Classifier, Convolution, Normed, absorb

__all__ = ["KINDS", "BlockRow", "Blocks", "InvertedBottleneck", "RanE", "row_of"]

KINDS = ("collapsed", "bottleneck")


class BlockRow(NamedTuple):
    """A block of `RanE`: what it is, and the inverted bottleneck that it is or was.

    Attributes:
        kind: "bottleneck", or "collapsed": one dense 3x3 convolution in its place.
        outputs: its channels.
        kernel: rows and columns of the bottleneck's depthwise convolution.
        widen: the bottleneck's inner width, as a multiple of its inputs.
        stride: rows and columns between two outputs.
        middle: channels between two blocks of this kind in a row, which this is then; 0: it is one.

    """

    kind: str
    outputs: int
    kernel: int
    widen: int
    stride: int
    middle: int = 0


class InvertedBottleneck(nn.Module):
    """1x1 (unless it is as wide as its inputs), depthwise and 1x1, the last without activation.

    Maps `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`. The input is added by the
    caller, if at all.
    """

    def __init__(
        self,
        inputs: int,
        inner: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        act: Activation,
        norm: bool,
    ) -> None:
        super().__init__()
        form: dict[str, Any] = {"norm": norm, "bias": not norm}
        self.expand = Convolution(inputs, inner, 1, act=act, **form) if inner != inputs else None
        self.depthwise = Convolution(inner, inner, kernel, stride, depthwise=True, act=act, **form)
        self.project = Convolution(inner, outputs, 1, act="", **form)

    @property
    def last(self) -> Convolution:
        """The convolution whose outputs are the block's."""
        return self.project

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, outputs, H / stride, W / stride)`."""
        x = x if self.expand is None else self.expand(x)
        y: Tensor = self.project(self.depthwise(x))
        return y


class Preactivation(Normed):
    """A batch norm, and h-swish, of what comes into a block.

    Args:
        channels: of the maps.
        joined: whether the deployed network has the norm in the convolution before it, because
            nothing else reads that one's outputs; else it becomes a depthwise 1x1 convolution.
        norm: whether this is the form with a batch norm.

    """

    def __init__(self, channels: int, *, joined: bool, norm: bool) -> None:
        super().__init__()
        self.act = "hswish"
        self.channels, self.joined = channels, joined
        self.norm = nn.BatchNorm2d(channels, EPSILON) if norm else None
        self.scale: nn.Conv2d | None = None
        if not norm:
            self.simplify()

    @property
    def layer(self) -> nn.Conv2d:
        """The depthwise convolution."""
        assert self.scale is not None
        return self.scale

    def simplify(self) -> None:
        """Have the depthwise convolution, which changes nothing yet, if the norm is not joined."""
        if self.scale is None and not self.joined:
            self.scale = nn.Conv2d(self.channels, self.channels, 1, groups=self.channels)
            if self.norm is not None:
                self.scale.to(self.norm.weight)
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.scale.bias)  # type: ignore[arg-type]

    def fold(self) -> None:
        """Become the depthwise convolution; a joined norm waits for `join`."""
        if not self.joined:
            super().fold()

    def join(self, before: Convolution) -> None:
        """Move the norm into the convolution before it, which has no norm and no activation."""
        if self.joined and self.norm is not None:
            absorb(before.layer, self.norm)
            self.norm = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, channels, H, W)`, normalized and activated."""
        return self.finish(x if self.scale is None else self.scale(x))


class CollapsedBlock(nn.Module):
    """A norm, h-swish and a dense 3x3 convolution with its norm; or two of these in a row.

    Maps `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`. The input is added by the
    caller, if at all.

    Args:
        inputs: channels of the input.
        row: `outputs`, `stride` and `middle`.
        joined: see `Preactivation`.
        norm: whether this is the form with batch norms.
        expansion: see `Convolution`.

    """

    def __init__(
        self, inputs: int, row: BlockRow, *, joined: bool, norm: bool, expansion: int
    ) -> None:
        super().__init__()
        form: dict[str, Any] = {"norm": norm, "bias": not norm, "expansion": expansion}
        self.before = Preactivation(inputs, joined=joined, norm=norm)
        widths = (inputs, row.middle, row.outputs) if row.middle else (inputs, row.outputs)
        last = len(widths) - 2
        self.layers = nn.Sequential(
            *(
                Convolution(a, b, 3, row.stride, act="" if n == last else "hswish", **form)
                for n, (a, b) in enumerate(itertools.pairwise(widths))
            )
        )

    @property
    def last(self) -> Convolution:
        """The convolution whose outputs are the block's."""
        layer = self.layers[-1]
        assert isinstance(layer, Convolution)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Return `(N, outputs, H / stride, W / stride)`."""
        y: Tensor = self.layers(self.before(x))
        return y


class Halves(nn.Sequential):
    """Two inverted bottlenecks in a row, without anything in between."""

    @property
    def last(self) -> Convolution:
        """The convolution whose outputs are the block's."""
        half = self[-1]
        assert isinstance(half, InvertedBottleneck)
        return half.last


class Blocks(Classifier):
    """A convolution, blocks around which the input may be added, a top, and a linear layer.

    A subclass sets `stem` and `top`, and appends the blocks.
    """

    stem: Convolution
    top: nn.Module

    def __init__(self, channels: int, num_classes: int, **arguments: Any) -> None:
        super().__init__(channels, num_classes, **arguments)
        self.blocks = nn.ModuleList()
        self.adds: list[bool] = []

    def append(self, block: nn.Module, *, adds: bool) -> None:
        """Add a block, and say whether its input is added to what it gives."""
        self.blocks.append(block)
        self.adds.append(adds)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last maps `(N, C, H / s, W / s)`, s the product of all strides (32)."""
        x = self.stem(x)
        for block, adds in zip(self.blocks, self.adds, strict=True):
            x = block(x) + x if adds else block(x)
        y: Tensor = self.top(x)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, in_chans, H, W)`."""
        return self.logits(self.forward_features(x))


class RanE(Blocks):
    """A network of collapsed blocks and inverted bottlenecks: RGB to logits `(N, num_classes)`.

    A 3x3 convolution, without a norm or an activation; the blocks, around which the input is added
    where neither size nor width changes; a 1x1 and a depthwise convolution; a linear layer.

    Args:
        blocks: the rows; each is (kind, outputs, kernel, widen, stride[, middle]), see `BlockRow`.
        num_classes: outputs of the last layer.
        stem: outputs of the first convolution.
        stem_stride: of it.
        top: channels of the map before the last layer.
        top_kernel: rows and columns of the depthwise convolution there.
        in_chans: channels of the input.
        norm: whether this is the form with batch norms; the deployed network has none.
        expansion: width of the factors that the collapsed blocks are trained as; 0: the kernels.
        dropout: share of the last layer's inputs that are left out while it is trained.

    """

    def __init__(
        self,
        blocks: Sequence[Sequence[Any]],
        num_classes: int = 1000,
        *,
        stem: int = 16,
        stem_stride: int = 2,
        top: int = 1344,
        top_kernel: int = 7,
        in_chans: int = 3,
        norm: bool = False,
        expansion: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            top, num_classes, blocks=blocks, stem=stem, stem_stride=stem_stride, top=top,
            top_kernel=top_kernel, in_chans=in_chans,
        )  # fmt: skip
        form: dict[str, Any] = {"norm": norm, "bias": not norm}
        self.stem = Convolution(in_chans, stem, 3, stem_stride, act="", bias=not norm)
        inputs, adds = stem, False
        for row in map(row_of, blocks):
            joined, adds = not adds, row.stride == 1 and row.outputs == inputs
            block = _block(inputs, row, joined=joined and not adds, norm=norm, expansion=expansion)
            self.append(block, adds=adds)
            inputs = row.outputs
        self.top = nn.Sequential(
            Convolution(inputs, top, 1, act="hswish", **form),
            Convolution(top, top, top_kernel, depthwise=True, act="hswish", **form),
        )
        self.dropout = dropout
        self.complete()

    def trainable(self, *, expansion: int = 0, dropout: float = 0.0) -> Self:
        """Return the form with batch norms, and with factors if there is an `expansion`."""
        return type(self)(**self.arguments, norm=True, expansion=expansion, dropout=dropout)

    def deployed(self) -> Self:
        """Return the equal network without batch norms or factors, in eval mode."""
        network = super().deployed()
        before: Any = network.stem
        for block in network.blocks:
            if isinstance(block, CollapsedBlock):
                block.before.join(before)
            before = block.last
        return network


def row_of(fields: Sequence[Any]) -> BlockRow:
    """Return a row, checked.

    Raises:
        ValueError: it is not one.

    """
    row = BlockRow(*fields)
    if row.kind not in KINDS:
        raise ValueError(f"a block is {row.kind!r}; expected one of {', '.join(KINDS)}")
    if min(row[1:5]) < 1 or row.kernel % 2 == 0 or row.middle < 0:
        raise ValueError(f"a block is {list(fields)}; expected whole numbers and an odd kernel")
    if row.middle and row.stride != 1:
        raise ValueError(f"a block is {list(fields)}; with a middle its stride is 1")
    return row


def _block(
    inputs: int, row: BlockRow, *, joined: bool, norm: bool, expansion: int
) -> CollapsedBlock | InvertedBottleneck | Halves:
    if row.kind == "collapsed":
        return CollapsedBlock(inputs, row, joined=joined, norm=norm, expansion=expansion)
    inner = row.widen * inputs  # of both halves, as published
    widths = (inputs, row.middle, row.outputs) if row.middle else (inputs, row.outputs)
    parts = [
        InvertedBottleneck(a, inner, b, row.kernel, row.stride, act="hswish", norm=norm)
        for a, b in itertools.pairwise(widths)
    ]
    return Halves(*parts) if row.middle else parts[0]
