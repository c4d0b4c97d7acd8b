"""The linear block of SESR and RAN: convolutions with nothing in between, which are one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padded(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return `(N, C, H, W)` with the zeros of TensorFlow's padding "same" around it.

    Where a row of zeros is needed on one side only, it goes below, and a column to the right.
    """
    rows, columns = (
        max((-(-n // step) - 1) * step + size - n, 0)
        for n, size, step in zip(x.shape[2:], kernel, stride, strict=True)
    )
    if not rows and not columns:
        return x
    left, above = columns // 2, rows // 2
    return F.pad(x, (left, columns - left, above, rows - above))


class CollapsibleConv2d(nn.Module):
    """A k x k convolution a -> p followed by a 1x1 convolution p -> b, with nothing in between.

    Being linear, the pair equals one k x k convolution a -> b (SESR, arXiv 2103.09404,
    algorithms 1 and 2). Training computes that small kernel at every step and convolves the
    image once with it; gradients flow back to both factors. The equality is exact at borders
    too, because the k x k layer, which sees the zero padding, comes first.

    Args:
        in_channels: a, channels of the input `(N, a, H, W)`.
        out_channels: b, channels of the output `(N, b, H, W)`.
        kernel_size: k, odd.
        expansion: p, the width between the two factors.
        residual: add the input to the output (a must equal b). Explicit, never inferred from
            equal widths: SESR's x4 output block has equal widths and no residual.
        stride: rows and columns between two outputs; with 1, zero padding (k - 1) / 2, else
            TensorFlow's "same".
        bias: whether the output has one; a batch norm that follows has its own.

    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        expansion: int,
        residual: bool = False,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if residual and (in_channels != out_channels or stride != 1):
            raise ValueError(
                f"a residual needs equal widths, not {in_channels} -> {out_channels}, and stride 1"
            )
        self.expand = nn.Conv2d(
            in_channels,
            expansion,
            kernel_size,
            stride,
            padding=kernel_size // 2 if stride == 1 else 0,
            bias=False,
        )
        self.project = nn.Conv2d(expansion, out_channels, 1, bias=bias)
        self.residual = residual
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.project.weight)
        if self.project.bias is not None:
            nn.init.zeros_(self.project.bias)

    def collapse(self) -> tuple[Tensor, Tensor]:
        """Return the weight `(b, a, k, k)` and the bias `(b,)` of the one equal convolution.

        W[o,i,u,v] = sum_p W2[o,p] W1[p,i,u,v], plus 1 at the centre for o = i with a residual.
        """
        first, second = self.expand.weight, self.project.weight.flatten(1)
        weight = (second @ first.flatten(1)).unflatten(1, first.shape[1:])
        if self.residual:
            weight = weight + identity_kernel(weight)
        bias = self.project.bias
        return weight, weight.new_zeros(len(weight)) if bias is None else bias

    @torch.no_grad()
    def collapsed(self) -> nn.Conv2d:
        """Return the one equal convolution, with a bias; the caller pads where the stride is 2."""
        weight, bias = self.collapse()
        conv = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            weight.shape[2:],  # type: ignore[arg-type]
            self.expand.stride,  # type: ignore[arg-type]
            self.expand.padding,  # type: ignore[arg-type]
        ).to(weight)
        conv.weight.copy_(weight)
        conv.bias.copy_(bias)  # type: ignore[union-attr]
        return conv

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
        conv = self.expand
        return F.conv2d(self._padded(x), weight, bias, conv.stride, conv.padding)

    def forward_expanded(self, x: Tensor) -> Tensor:
        """Map `(N, a, H, W)` to `(N, b, H, W)` through both factors: as `forward`, but slow."""
        y: Tensor = self.project(self.expand(self._padded(x)))
        return x + y if self.residual else y

    def _padded(self, x: Tensor) -> Tensor:
        conv = self.expand
        return x if conv.stride == (1, 1) else padded(x, conv.kernel_size, conv.stride)


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
