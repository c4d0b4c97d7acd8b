"""Layers that several families share.

Of SESR and RAN, the linear block that collapses. Of the classifiers of pictures and sounds, layers
with batch norms to be folded away, and networks of them: trained with norms, deployed without.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1e-3  # in the batch norms of classifiers, as in the published code
Activation = Literal["relu", "relu6", ""]


class CollapsibleConv2d(nn.Module):
    """A k x k convolution a -> p followed by a 1x1 convolution p -> b, with nothing in between.

    Being linear, the pair equals one k x k convolution a -> b (SESR, arXiv 2103.09404,
    algorithms 1 and 2). Training computes that small kernel at every step and convolves the
    image once with it; gradients flow back to both factors. The equality is exact at borders
    too, because the k x k layer, which sees the zero padding, comes first.

    Args:
        in_channels: a, channels of the input `(N, a, H, W)`.
        out_channels: b, channels of the output `(N, b, H, W)`.
        kernel_size: k, odd; stride 1, zero padding (k - 1) / 2.
        expansion: p, the width between the two factors.
        residual: add the input to the output (a must equal b). Explicit, never inferred from
            equal widths: SESR's x4 output block has equal widths and no residual.

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        expansion: int,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if residual and in_channels != out_channels:
            raise ValueError(f"a residual needs equal widths, not {in_channels} -> {out_channels}")
        self.expand = nn.Conv2d(
            in_channels, expansion, kernel_size, padding=kernel_size // 2, bias=False
        )
        self.project = nn.Conv2d(expansion, out_channels, 1)
        self.residual = residual
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def collapse(self) -> tuple[Tensor, Tensor]:
        """Return the weight `(b, a, k, k)` and the bias `(b,)` of the one equal convolution.

        W[o,i,u,v] = sum_p W2[o,p] W1[p,i,u,v], plus 1 at the centre for o = i with a residual.
        """
        first, second = self.expand.weight, self.project.weight.flatten(1)
        weight = (second @ first.flatten(1)).unflatten(1, first.shape[1:])
        if self.residual:
            weight = weight + identity_kernel(weight)
        assert self.project.bias is not None
        return weight, self.project.bias

    @torch.no_grad()
    def load_collapsed(self, weight: Tensor, bias: Tensor) -> None:
        """Set both factors so that `collapse()` returns `weight` and `bias`.

        W2 keeps its random values and W1 becomes pinv(W2) (W - residual), the smallest W1 that
        fits; both are then scaled to equal norms, as in a trained pair. If W is the residual alone,
        W1 is 0 and W2 is left as it is, so that a gradient reaches W1.
        """
        if self.residual:
            weight = weight - identity_kernel(weight)
        second = self.project.weight.flatten(1).double()
        first = torch.linalg.pinv(second) @ weight.flatten(1).double()
        scale = (second.norm() / first.norm()).sqrt() if first.any() else 1.0
        self.expand.weight.copy_((first * scale).view_as(self.expand.weight))
        self.project.weight.copy_((second / scale).view_as(self.project.weight))
        self.project.bias.copy_(bias)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, a, H, W)` to `(N, b, H, W)` with one small convolution (collapsed space)."""
        weight, bias = self.collapse()
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    def forward_expanded(self, x: Tensor) -> Tensor:
        """Map `(N, a, H, W)` to `(N, b, H, W)` through both factors: as `forward`, but slow."""
        y: Tensor = self.project(self.expand(x))
        return x + y if self.residual else y


class DirectConv2d(nn.Module):
    """A k x k convolution trained as it is, in place of a `CollapsibleConv2d`.

    It starts where such a pair starts: at the residual, with about the pair's spread.

    Args:
        in_channels: a, channels of the input `(N, a, H, W)`.
        out_channels: b, channels of the output `(N, b, H, W)`.
        kernel_size: k, odd; stride 1, zero padding (k - 1) / 2.
        residual: start at the identity (a must equal b).

    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, residual: bool = False
    ) -> None:
        super().__init__()
        if residual and in_channels != out_channels:
            raise ValueError(f"a residual needs equal widths, not {in_channels} -> {out_channels}")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.xavier_uniform_(self.weight, gain=0.4)
        if residual:
            with torch.no_grad():
                self.weight.add_(identity_kernel(self.weight))

    def collapse(self) -> tuple[Tensor, Tensor]:
        """Return the weight `(b, a, k, k)` and the bias `(b,)`."""
        return self.weight, self.bias

    @torch.no_grad()
    def load_collapsed(self, weight: Tensor, bias: Tensor) -> None:
        """Load a weight and a bias."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, a, H, W)` to `(N, b, H, W)`."""
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)

    forward_expanded = forward


def linear_block(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    expansion: int,
    residual: bool = False,
) -> CollapsibleConv2d | DirectConv2d:
    """Return a linear block with this expansion, or the plain convolution if it is 0."""
    if not expansion:
        return DirectConv2d(in_channels, out_channels, kernel_size, residual=residual)
    return CollapsibleConv2d(
        in_channels, out_channels, kernel_size, expansion=expansion, residual=residual
    )


def identity_kernel(like: Tensor) -> Tensor:
    """Return the kernel `(b, b, k, k)` that copies its input, in the dtype of `like`."""
    kernel = torch.zeros_like(like)
    channels, centre = like.shape[0], like.shape[-1] // 2
    kernel[range(channels), range(channels), centre, centre] = 1
    return kernel


def activated(x: Tensor, act: Activation) -> Tensor:
    """Return an activation's values."""
    return F.relu6(x) if act == "relu6" else F.relu(x) if act else x


class Normed(nn.Module):
    """A layer, optionally with a batch norm that is folded into it, and an activation.

    A subclass has the layer, with a bias, under the name that `layer` returns.
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

    @torch.no_grad()
    def fold(self) -> None:
        """Move the batch norm, as it is in eval mode, into the layer."""
        if self.norm is None:
            return
        weight, bias = self.layer.weight, self.layer.bias
        assert self.norm.running_var is not None
        assert self.norm.running_mean is not None
        assert bias is not None
        factor = self.norm.weight.double() / (self.norm.running_var.double() + EPSILON).sqrt()
        shift = (bias.double() - self.norm.running_mean) * factor + self.norm.bias
        weight.copy_(weight.double() * factor.view(-1, *(1,) * (weight.ndim - 1)))
        bias.copy_(shift)
        self.norm = None


class Convolution(Normed):
    """A convolution with TensorFlow's padding "same", and optionally a batch norm and activation.

    Where a row of zeros is needed on one side only, it goes below, and a column to the right.

    Args:
        inputs: channels of the input `(N, inputs, H, W)`.
        outputs: channels of the output `(N, outputs, ceil(H / stride), ceil(W / stride))`.
        kernel: rows and columns, or both.
        stride: rows and columns between two outputs.
        depthwise: whether each channel is convolved by itself.
        act: the activation; "" for none.
        norm: whether a batch norm follows, before the activation.

    """

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
    ) -> None:
        super().__init__()
        self.act = act
        sizes = (kernel, kernel) if isinstance(kernel, int) else (kernel[0], kernel[1])
        self.even = stride == 1 and all(size % 2 for size in sizes)  # as much above as below
        self.conv = nn.Conv2d(
            inputs,
            outputs,
            sizes,
            stride,
            padding=(sizes[0] // 2, sizes[1] // 2) if self.even else 0,
            groups=inputs if depthwise else 1,
        )
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.norm = nn.BatchNorm2d(outputs, EPSILON) if norm else None

    @property
    def layer(self) -> nn.Conv2d:
        """The convolution."""
        return self.conv

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, inputs, H, W)` to `(N, outputs, ceil(H / stride), ceil(W / stride))`."""
        if not self.even:
            rows, columns = (
                max((-(-n // stride) - 1) * stride + kernel - n, 0)
                for n, kernel, stride in zip(
                    x.shape[2:], self.conv.kernel_size, self.conv.stride, strict=True
                )
            )
            if rows or columns:
                left, above = columns // 2, rows // 2
                x = F.pad(x, (left, columns - left, above, rows - above))
        return self.finish(self._convolved(x))

    def _convolved(self, x: Tensor) -> Tensor:
        """Return the outputs; in float where bf16 gradients on CPUs take ten times as long."""
        strided = self.conv.groups > 1 and max(self.conv.stride) > 1
        if not (self.training and strided and x.device.type == "cpu"):
            return self.conv(x)
        with torch.autocast("cpu", enabled=False):
            return self.conv(x.to(self.conv.weight.dtype))


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
        """Start from a deployed network: this form then has no batch norms either.

        A norm would normalize each batch once more, by its own statistics, although the folded
        weights already do so by those of the whole set.

        Raises:
            RuntimeError: the weights do not fit.

        """
        for layer in self.modules():
            if isinstance(layer, Normed):
                layer.norm = None
        self.load_state_dict(self.adopted(network.state_dict()))

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what this form takes of a deployed network's tensors: all of them."""
        return state


class Classifier(Foldable):
    """A network that ends in a mean over the map and a linear layer.

    Args:
        channels: of the map.
        num_classes: outputs of the linear layer.
        arguments: further ones of its class.

    """

    def __init__(self, channels: int, num_classes: int, **arguments: Any) -> None:
        super().__init__(num_classes=num_classes, **arguments)
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}; expected at least 2")
        self.classifier = nn.Linear(channels, num_classes)

    def complete(self) -> None:
        """Choose the layout in which CPUs run these narrow layers faster, once all is built."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def adopted(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a network's tensors; its last layer starts anew if it has other outputs."""
        own = {f"classifier.{name}": value for name, value in self.classifier.state_dict().items()}
        theirs = state.get("classifier.weight")
        if theirs is None or len(theirs) == self.classifier.out_features:
            return state
        return {**state, **own}

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits `(N, num_classes)` of maps `(N, channels, H, W)`."""
        learns = self.training and x.requires_grad
        # The same mean, whose gradient keeps the layout: without, the layers before take longer.
        mean = F.avg_pool2d(x, x.shape[2:]) if learns else F.adaptive_avg_pool2d(x, 1)
        logits: Tensor = self.classifier(mean.flatten(1))
        return logits


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
        super().__init__(
            blocks[-1][0], num_classes, kernel=kernel, width=width, stride=stride, blocks=blocks,
            act=act,
        )  # fmt: skip
        layers = [Convolution(1, width, (kernel[0], kernel[1]), stride, act=act, norm=norm)]
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
