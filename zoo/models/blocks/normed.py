"""Layers with batch norms to be folded away, and classifiers of pictures and sounds made of them.

They are trained with norms and deployed without.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo.models.blocks.linear import CollapsibleConv2d, padded

EPSILON = 1e-3  # in the batch norms of classifiers, as in the published code
Activation = Literal["relu", "relu6", "hswish", ""]


def activated(x: Tensor, act: Activation) -> Tensor:
    """Return an activation's values.

    Raises:
        ValueError: there is no such activation.

    """
    match act:
        case "relu":
            return F.relu(x)
        case "relu6":
            return F.relu6(x)
        case "hswish":
            return F.hardswish(x)
        case "":
            return x
        case _:
            raise ValueError(f"act is {act!r}; expected relu, relu6 or hswish")


def whole(name: str, value: object, least: int = 1) -> None:
    """Check an argument of a network that counts something.

    Raises:
        ValueError: it is not a whole number, or below the least.

    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{name} is {value}; expected a whole number")
    if value < least:
        raise ValueError(f"{name} is {value}; expected at least {least}")


def two(kernel: Sequence[int]) -> tuple[int, int]:
    """Return the rows and columns of a kernel.

    Raises:
        ValueError: it is not two numbers.

    """
    if not isinstance(kernel, Sequence) or len(kernel) != 2:
        raise ValueError(f"kernel is {kernel}; expected its rows and columns, e.g. 10,4")
    return kernel[0], kernel[1]


@torch.no_grad()
def absorb(layer: nn.Conv2d | nn.Linear, norm: _BatchNorm) -> None:
    """Move a batch norm, as it is in eval mode, into the layer with a bias that it follows."""
    weight, bias = layer.weight, layer.bias
    assert norm.running_var is not None
    assert norm.running_mean is not None
    assert bias is not None
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    shift = (bias.double() - norm.running_mean) * factor + norm.bias
    weight.copy_(weight.double() * factor.view(-1, *(1,) * (weight.ndim - 1)))
    bias.copy_(shift)


class Normed(nn.Module):
    """A layer, optionally with a batch norm that is folded into it, and an activation.

    A subclass has the layer under the name that `layer` returns.
    """

    norm: nn.BatchNorm1d | nn.BatchNorm2d | None
    act: Activation

    @property
    def layer(self) -> nn.Conv2d | nn.Linear:
        """What the batch norm follows."""
        raise NotImplementedError

    def finish(self, x: Tensor) -> Tensor:
        """Return the layer's outputs, normalized and activated."""
        return activated(x if self.norm is None else self.norm(x), self.act)

    def simplify(self) -> None:
        """Give the layer the bias that a deployed one has; the function stays the same."""
        if self.layer.bias is None:
            weight = self.layer.weight
            self.layer.bias = nn.Parameter(weight.new_zeros(len(weight)))

    def fold(self) -> None:
        """Become the layer of the deployed network, with the batch norm as it is in eval mode."""
        self.simplify()
        if self.norm is not None:
            absorb(self.layer, self.norm)
            self.norm = None


class Convolution(Normed):
    """A convolution with TensorFlow's padding "same", and optionally a batch norm and activation.

    Args:
        inputs: channels of the input `(N, inputs, H, W)`.
        outputs: channels of the output `(N, outputs, ceil(H / stride), ceil(W / stride))`.
        kernel: rows and columns, or both.
        stride: rows and columns between two outputs.
        depthwise: whether each channel is convolved by itself.
        act: the activation; "" for none.
        norm: whether a batch norm follows, before the activation.
        bias: whether the layer has one as it is trained; deployed, every layer does.
        expansion: width of the factors that it is trained as, a `CollapsibleConv2d`; 0 trains the
            kernel itself.

    """

    conv: nn.Conv2d | CollapsibleConv2d

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        depthwise: bool = False,
        act: Activation = "relu",
        norm: bool = False,
        bias: bool = True,
        expansion: int = 0,
    ) -> None:
        super().__init__()
        self.act = act
        sizes = (kernel, kernel) if isinstance(kernel, int) else (kernel[0], kernel[1])
        for size in sizes:
            whole("kernel", size)
        whole("stride", stride)
        self.window = sizes, (stride, stride)
        self.even = stride == 1 and all(size % 2 for size in sizes)  # as much above as below
        if expansion:
            if depthwise or sizes[0] != sizes[1]:
                raise ValueError("a convolution with an expansion is dense and has a square kernel")
            self.conv = CollapsibleConv2d(
                inputs, outputs, sizes[0], expansion=expansion, stride=stride, bias=bias
            )
        else:
            self.conv = nn.Conv2d(
                inputs,
                outputs,
                sizes,
                stride,
                padding=(sizes[0] // 2, sizes[1] // 2) if self.even else 0,
                groups=inputs if depthwise else 1,
                bias=bias,
            )
            nn.init.kaiming_normal_(self.conv.weight)
            if self.conv.bias is not None:
                nn.init.zeros_(self.conv.bias)
        self.norm = nn.BatchNorm2d(outputs, EPSILON) if norm else None

    @property
    def layer(self) -> nn.Conv2d:
        """The convolution; one that is trained as two factors is one after `simplify`."""
        assert isinstance(self.conv, nn.Conv2d)
        return self.conv

    def simplify(self) -> None:
        """Collapse the factors, if there are any, and have a bias."""
        if isinstance(self.conv, CollapsibleConv2d):
            self.conv = self.conv.collapsed()
        super().simplify()

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, ceil(H / stride), ceil(W / stride))`."""
        if not self.even and not isinstance(self.conv, CollapsibleConv2d):  # which pads itself
            x = padded(x, *self.window)
        return self.finish(self._convolved(x))

    def _convolved(self, x: Tensor) -> Tensor:
        """Return the outputs; in float where bf16 gradients on CPUs take ten times as long."""
        conv = self.conv
        slow = isinstance(conv, nn.Conv2d) and conv.groups > 1 and max(conv.stride) > 1
        if not (slow and self.training and x.device.type == "cpu"):
            outputs: Tensor = conv(x)
            return outputs
        with torch.autocast("cpu", enabled=False):
            return self.layer(x.to(self.layer.weight.dtype))


class Foldable(nn.Module):
    """A network of `Normed` layers in its two forms.

    Args:
        arguments: those of its class, without `norm`.

    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__()
        self.arguments = arguments

    def trainable(self) -> Self:
        """Return the form with batch norms, freshly initialised."""
        return type(self)(**self.arguments, norm=True)

    def deployed(self) -> Self:
        """Return the equal network without batch norms, in eval mode."""
        network = copy.deepcopy(self)
        for layer in network.modules():
            if isinstance(layer, Normed):
                layer.fold()
        return network.eval()

    def load_deployed(self, network: nn.Module) -> None:
        """Start from a deployed network: this form then has no batch norms or factors either.

        A norm would normalize each batch once more, by its own statistics, although the folded
        weights already do so by those of the whole set.

        Raises:
            RuntimeError: the weights do not fit.

        """
        for layer in self.modules():
            if isinstance(layer, Normed):
                layer.simplify()
                layer.norm = None
        self.load_state_dict(self.adopted(network.state_dict()))

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what this form takes of a deployed network's tensors: all of them."""
        return state


class Classifier(Foldable):
    """A network that ends in a mean over the map and a linear layer.

    Args:
        channels: of the map.
        num_classes: outputs of the linear layer; with 0 there is none, and the network returns
            the means, its features.
        arguments: further ones of its class.

    Attributes:
        dropout: share of the linear layer's inputs that are left out while it is trained.

    """

    dropout = 0.0

    def __init__(self, channels: int, num_classes: int, **arguments: Any) -> None:
        super().__init__(num_classes=num_classes, **arguments)
        if num_classes < 2 and num_classes != 0:
            raise ValueError(
                f"num_classes is {num_classes}; expected at least 2, or 0 for features"
            )
        self.classifier = nn.Linear(channels, num_classes) if num_classes else nn.Identity()

    def complete(self) -> None:
        """Choose the layout in which CPUs run these narrow layers faster, once all is built."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a network's tensors; its last layer starts anew if it has other outputs."""
        own = {f"classifier.{name}": value for name, value in self.classifier.state_dict().items()}
        shapes = {name: value.shape for name, value in own.items()}
        heads = {name: value for name, value in state.items() if name.startswith("classifier.")}
        if {name: value.shape for name, value in heads.items()} == shapes:
            return state
        return {name: value for name, value in state.items() if name not in heads} | own

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of maps `(N, channels, H, W)`."""
        learns = self.training and x.requires_grad
        # The same mean, whose gradient keeps the layout: without, the layers before take longer.
        mean = F.avg_pool2d(x, x.shape[2:]) if learns else F.adaptive_avg_pool2d(x, 1)
        x = mean.flatten(1)
        if self.dropout and self.training:
            x = F.dropout(x, self.dropout)
        logits: Tensor = self.classifier(x)
        return logits


def _is_pair(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 2


class DsCnn(Classifier):
    """A convolution, then pairs of a 3x3 depthwise and a 1x1 convolution, each with its norm.

    Maps `(N, 1, H, W)`, features of sound or grey pictures, to logits `(N, num_classes)`.

    Args:
        kernel: rows and columns of the first convolution.
        width: its outputs.
        stride: of it.
        blocks: outputs and stride of each pair.
        num_classes: outputs of the last layer.
        act: after every convolution.
        norm: whether batch norms follow the convolutions; the deployed network has none.

    """

    def __init__(
        self,
        kernel: Sequence[int],
        width: int,
        stride: int,
        blocks: Sequence[Sequence[int]],
        num_classes: int,
        *,
        act: Activation = "relu6",
        norm: bool = False,
    ) -> None:
        if not isinstance(blocks, Sequence) or not blocks or not all(map(_is_pair, blocks)):
            raise ValueError(
                f"blocks is {blocks}; expected outputs and stride of each, e.g. [[64,1],[64,1]]"
            )
        for outputs, _ in blocks:
            whole("outputs of a block", outputs)
        super().__init__(
            blocks[-1][0], num_classes, kernel=kernel, width=width, stride=stride, blocks=blocks,
            act=act,
        )  # fmt: skip
        whole("width", width)
        layers = [Convolution(1, width, two(kernel), stride, act=act, norm=norm)]
        for outputs, step in blocks:
            layers += [
                Convolution(width, width, 3, step, depthwise=True, act=act, norm=norm),
                Convolution(width, outputs, 1, act=act, norm=norm),
            ]
            width = outputs
        self.layers = nn.Sequential(*layers)
        self.complete()

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of maps `(N, 1, H, W)`."""
        return self.logits(self.layers(x))
