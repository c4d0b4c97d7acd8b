"""The networks of MLPerf Tiny (Banbury et al., arXiv 2106.07597), for pictures and for sounds.

Layer for layer as the benchmark publishes them, and with TensorFlow's padding: where a stride of 2
needs one row of zeros, it goes below. Two differences, both on purpose: the last layer returns
logits (the published files end in a softmax, which the task does here), and the deployed network
has no batch norms. They are folded, as in the published `.tflite` files; `trainable()` returns the
form with them.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.blocks import EPSILON, Classifier, Convolution, DsCnn, Foldable, Normed

__all__ = ["AutoEncoder", "DsCnn", "MobileNetV1", "ResNet8", "StreamingWakeWord"]


class ResNet8(Classifier):
    """The image classification network: RGB `(N, 3, 32, 32)` to logits `(N, num_classes)`.

    Three stacks of 16, 32 and 64 channels, each of two 3x3 convolutions with a shortcut around
    them: y = relu(second(first(x)) + shortcut(x)). The first stack's shortcut is x itself, the
    others' are 1x1 convolutions of stride 2, without a norm.

    Args:
        num_classes: outputs of the last layer (CIFAR-10: 10).
        norm: whether batch norms follow the 3x3 convolutions; the deployed network has none.

    """

    def __init__(self, num_classes: int, *, norm: bool = False) -> None:
        super().__init__(64, num_classes)
        widths = (16, 16, 32, 64)
        pairs = list(zip(widths, widths[1:], (1, 2, 2), strict=False))
        self.stem = Convolution(3, 16, 3, norm=norm)
        self.first = nn.ModuleList(Convolution(a, b, 3, s, norm=norm) for a, b, s in pairs)
        self.second = nn.ModuleList(Convolution(b, b, 3, act="", norm=norm) for _, b, _ in pairs)
        self.shortcut = nn.ModuleList(
            nn.Identity() if a == b else Convolution(a, b, 1, s, act="") for a, b, s in pairs
        )
        self.complete()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 3, H, W)`."""
        x = self.stem(x)
        for first, second, shortcut in zip(self.first, self.second, self.shortcut, strict=True):
            x = F.relu(second(first(x)) + shortcut(x))
        return self.logits(x)


class MobileNetV1(Classifier):
    """The visual wake words network: RGB `(N, 3, 96, 96)` to logits `(N, num_classes)`.

    MobileNetV1 (arXiv 1704.04861) at a quarter of its width: a 3x3 convolution of stride 2, then
    thirteen pairs of a 3x3 depthwise and a 1x1 convolution, each with its batch norm and ReLU.

    Args:
        num_classes: outputs of the last layer (person or not: 2).
        norm: whether batch norms follow the convolutions; the deployed network has none.

    """

    def __init__(self, num_classes: int, *, norm: bool = False) -> None:
        super().__init__(256, num_classes)
        widths = (8, 16, 32, 32, 64, 64, *(128,) * 6, 256, 256)
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        layers = [Convolution(3, 8, 3, 2, norm=norm)]
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [
                Convolution(inputs, inputs, 3, stride, depthwise=True, norm=norm),
                Convolution(inputs, outputs, 1, norm=norm),
            ]
        self.layers = nn.Sequential(*layers)
        self.complete()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 3, H, W)`."""
        return self.logits(self.layers(x))


class Dense(Normed):
    """A linear layer `(N, inputs)` to `(N, outputs)`, optionally with a batch norm, and ReLU."""

    def __init__(self, inputs: int, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        self.act = "relu"
        self.linear = nn.Linear(inputs, outputs)
        self.norm = nn.BatchNorm1d(outputs, EPSILON) if norm else None

    @property
    def layer(self) -> nn.Linear:
        """The linear layer."""
        return self.linear

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs)` to `(N, outputs)`."""
        return self.finish(self.linear(x))


class AutoEncoder(Foldable):
    """The anomaly detection network: windows of log-mel energies `(N, 640)` to themselves.

    Four layers of 128, eight numbers, four layers of 128, each with its batch norm and ReLU, and a
    linear layer back. A machine's sound that it gives back badly is not like those it learned.

    Args:
        inputs: five frames of 128 bands.
        width: of the layers.
        code: numbers in the middle.
        norm: whether batch norms follow the layers; the deployed network has none.

    """

    def __init__(
        self, inputs: int = 640, width: int = 128, code: int = 8, *, norm: bool = False
    ) -> None:
        super().__init__(inputs=inputs, width=width, code=code)
        widths = (inputs, *(width,) * 4, code, *(width,) * 4)
        self.layers = nn.Sequential(
            *(Dense(a, b, norm=norm) for a, b in itertools.pairwise(widths))
        )
        self.last = nn.Linear(width, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return windows `(N, inputs)` as the network gives them back."""
        output: Tensor = self.last(self.layers(x))
        return output


class StreamingWakeWord(nn.Module):
    """The streaming wake word network: log-mel `(N, 40, 30, 1)` to logits `(N, num_classes)`.

    Four pairs of a depthwise convolution over time and a 1x1 convolution with ReLU, unpadded, so
    that of 30 frames one is left. It has no batch norms.

    Args:
        num_classes: wake word, silence, unknown.

    """

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 40
        for kernel, outputs in ((3, 128), (5, 128), (10, 128), (15, 32)):
            layers += [
                nn.Conv2d(inputs, inputs, (kernel, 1), groups=inputs),
                nn.Conv2d(inputs, outputs, 1),
                nn.ReLU(),
            ]
            inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        for layer in layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight)  # without norms, others fade out
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of 30 frames."""
        logits: Tensor = self.classifier(self.layers(x).flatten(1))
        return logits
