"""The picture networks of MLPerf Tiny (Banbury et al., arXiv 2106.07597): ResNet-8, MobileNetV1.

Layer for layer as the benchmark publishes them, and with TensorFlow's padding: where a stride of 2
needs one row of zeros, it goes below. Two differences, both on purpose: the last layer returns
logits (the published files end in a softmax, which the task does here), and the deployed network
has no batch norms. They are folded, as in the published `.tflite` files; `trainable()` returns the
form with them.
"""

import copy
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # in the batch norms, as in the published code


class Convolution(nn.Module):
    """A convolution with TensorFlow's padding "same", and optionally a batch norm and ReLU.

    Args:
        inputs: channels of the input `(N, inputs, H, W)`.
        outputs: channels of the output `(N, outputs, ceil(H / stride), ceil(W / stride))`.
        kernel: odd width of the square kernel.
        stride: rows and columns between two outputs.
        depthwise: whether each channel is convolved by itself.
        relu: whether ReLU follows.
        norm: whether a batch norm follows, before the ReLU.

    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        *,
        depthwise: bool = False,
        relu: bool = True,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.relu = relu
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            groups=inputs if depthwise else 1,
        )
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm2d(outputs, EPSILON) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, ceil(H / stride), ceil(W / stride))`."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if stride > 1:
            rows, columns = (
                max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]
            )
            if rows or columns:
                left, above = columns // 2, rows // 2
                x = F.pad(x, (left, columns - left, above, rows - above))
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu(x) if self.relu else x

    @torch.no_grad()
    def fold(self) -> None:
        """Move the batch norm, as it is in eval mode, into the convolution."""
        if self.norm is None:
            return
        assert self.norm.running_var is not None
        assert self.norm.running_mean is not None
        assert self.conv.bias is not None
        factor = self.norm.weight.double() / (self.norm.running_var.double() + EPSILON).sqrt()
        shift = (self.conv.bias.double() - self.norm.running_mean) * factor + self.norm.bias
        self.conv.weight.copy_(self.conv.weight.double() * factor.view(-1, 1, 1, 1))
        self.conv.bias.copy_(shift)
        self.norm = None


class _Classifier(nn.Module):
    """What both networks share: their two forms, and the pooled linear layer at the end."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2")
        self.num_classes = num_classes
        self.classifier = nn.Linear(channels, num_classes)

    def _finish(self) -> None:
        # On CPUs oneDNN runs these narrow layers faster with channels last.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits

    def trainable(self) -> Self:
        """Return the form with batch norms, freshly initialised."""
        return type(self)(self.num_classes, norm=True)  # type: ignore[call-arg]

    def deployed(self) -> Self:
        """Return the equal network without batch norms, in eval mode."""
        network = copy.deepcopy(self)
        for layer in network.modules():
            if isinstance(layer, Convolution):
                layer.fold()
        return network.eval()

    def load_deployed(self, network: nn.Module) -> None:
        """Start from a deployed network: this form then has no batch norms either.

        A norm would normalize each batch once more, by its own statistics, although the folded
        weights already do so by those of the whole set.

        Raises:
            RuntimeError: the weights do not fit.

        """
        for layer in self.modules():
            if isinstance(layer, Convolution):
                layer.norm = None
        self.load_state_dict(network.state_dict())


class ResNet8(_Classifier):
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
        self.second = nn.ModuleList(
            Convolution(b, b, 3, relu=False, norm=norm) for _, b, _ in pairs
        )
        self.shortcut = nn.ModuleList(
            nn.Identity() if a == b else Convolution(a, b, 1, s, relu=False) for a, b, s in pairs
        )
        self._finish()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 3, H, W)`."""
        x = self.stem(x)
        for first, second, shortcut in zip(self.first, self.second, self.shortcut, strict=True):
            x = F.relu(second(first(x)) + shortcut(x))
        return self._logits(x)


class MobileNetV1(_Classifier):
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
        self._finish()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of pictures `(N, 3, H, W)`."""
        return self._logits(self.layers(x))
