"""MicroNets (Banbury et al., MLSys 2021, arXiv 2010.11267): networks found for microcontrollers.

Those for keywords and for anomalies are `DsCnn`s, as printed in the paper's table 5; their sizes
are in the recipes. The one for visual wake words was read from its published file layer by layer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.blocks import Classifier, Convolution, DsCnn

__all__ = ["DsCnn", "VisualWakeWords"]


class Row(NamedTuple):
    """An inverted bottleneck: its inner width, stride, outputs, and whether the input is added.

    Where input and outputs differ in width, the narrower is padded with channels of zeros.
    """

    inner: int
    stride: int
    outputs: int
    add: bool = False


ROWS = (
    Row(4, 1, 4), Row(8, 2, 12), Row(14, 1, 16, True), Row(28, 2, 32), Row(96, 1, 28, True),
    Row(96, 1, 28, True), Row(152, 2, 44), Row(268, 1, 40, True), Row(268, 1, 52, True),
    Row(268, 1, 44, True), Row(192, 1, 68), Row(172, 1, 68, True), Row(172, 1, 48, True),
    Row(288, 2, 16), Row(96, 1, 16, True), Row(96, 1, 32, True), Row(96, 1, 32),
)  # fmt: skip
STEM, HEAD = 8, 128


class Bottleneck(nn.Module):
    """1x1, 3x3 depthwise and 1x1 convolutions, the last one without an activation."""

    def __init__(self, inputs: int, row: Row, *, norm: bool) -> None:
        super().__init__()
        inner = row.inner
        self.expand = Convolution(inputs, inner, 1, act="relu6", norm=norm)
        self.depthwise = Convolution(
            inner, inner, 3, row.stride, depthwise=True, act="relu6", norm=norm
        )
        self.project = Convolution(inner, row.outputs, 1, act="", norm=norm)
        self.add = row.add
        self.outputs = max(inputs, row.outputs) if row.add else row.outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return _wide(y, self.outputs) + _wide(x, self.outputs) if self.add else y


def _wide(x: Tensor, channels: int) -> Tensor:
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


class VisualWakeWords(Classifier):
    """Grey pictures `(N, 1, H, W)` to logits `(N, num_classes)`; by itself MicroNet-VWW-4.

    Args:
        num_classes: outputs of the last layer (person or not: 2).
        stem: outputs of the first layer.
        rows: of each bottleneck what `Row` has, in its order.
        head: outputs of the last convolution.
        norm: whether batch norms follow the convolutions; the deployed network has none.

    """

    def __init__(
        self,
        num_classes: int,
        *,
        stem: int = STEM,
        rows: Sequence[Sequence[Any]] = ROWS,
        head: int = HEAD,
        norm: bool = False,
    ) -> None:
        super().__init__(head, num_classes, stem=stem, rows=rows, head=head)
        self.stem = Convolution(1, stem, 3, 2, act="relu6", norm=norm)
        layers: list[nn.Module] = []
        width = stem
        for row in rows:
            bottleneck = Bottleneck(width, Row(*row), norm=norm)
            layers.append(bottleneck)
            width = bottleneck.outputs
        self.rows = nn.Sequential(*layers)
        self.head = Convolution(width, head, 1, act="relu6", norm=norm)
        self.complete()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 1, H, W)`."""
        return self.logits(self.head(self.rows(self.stem(x))))
