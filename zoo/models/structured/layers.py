"""Layers whose matrix is stored in a form: linear layers and convolutions."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.models.structured.forms import DenseForm, Factors, Form, LowRankForm, nothing


class Structured(nn.Module):
    """A layer with a matrix (m, n) in a form: each factor is a parameter, under its own name.

    Args:
        form: of the matrix.
        m: rows of the matrix, the layer's outputs.
        n: its columns.
        bias: whether there is one.

    """

    bias: nn.Parameter | None

    def __init__(self, form: Form, m: int, n: int, *, bias: bool) -> None:
        super().__init__()
        self.form, self.m, self.n = form, m, n
        form.check(m, n)
        # As large as in a linear layer of torch.
        for name, value in form.drawn(m, n, 1 / (3 * n)).items():
            self.register_parameter(name, nn.Parameter(value))
        size = n**-0.5
        drawn = nn.Parameter(torch.empty(m).uniform_(-size, size)) if bias else None
        self.register_parameter("bias", drawn)

    @property
    def factors(self) -> dict[str, Tensor]:
        """The tensors of the form."""
        return {k: p for k, p in self.named_parameters(recurse=False) if k != "bias"}

    def matrix(self) -> Tensor:
        """Return the whole matrix (m, n); gradients reach the factors."""
        return self.form.weight(self.factors)

    def extra_repr(self) -> str:
        """Return the form and the sizes, for `print`."""
        return f"{self.form}, m={self.m}, n={self.n}, bias={self.bias is not None}"


class StructuredLinear(Structured):
    """A linear layer (..., n) -> (..., m)."""

    @classmethod
    def like(cls, layer: nn.Linear, form: Form) -> Self:
        """Return a layer of these sizes in another form, freshly initialised."""
        m, n = layer.weight.shape
        return cls(form, m, n, bias=layer.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Return the matrix times x, without forming it, and the bias."""
        return self.form.apply(self.factors, x, self.bias)

    def plain(self) -> nn.Linear:
        """Return the linear layer of torch with the same matrix."""
        layer = nn.Linear(self.n, self.m, bias=self.bias is not None)
        return _filled(layer, self.matrix(), self.bias)


class StructuredConv2d(Structured):
    """A convolution without groups; its matrix is (out, in * rows * columns of the kernel).

    One of several pixels may be dense or of low rank: then it is one with few outputs, and a
    1 x 1 convolution after it.
    """

    def __init__(
        self,
        form: Form,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, int],
        *,
        stride: tuple[int, int] = (1, 1),
        padding: Any = 0,
        dilation: tuple[int, int] = (1, 1),
        bias: bool = True,
    ) -> None:
        point = kernel == (1, 1) and padding in (0, (0, 0), "valid", "same")
        if not point and not isinstance(form, LowRankForm | DenseForm):
            raise MismatchError(
                f"a convolution of {kernel[0]} x {kernel[1]} pixels and padding {padding} takes no "
                f"form {form.NAME!r}; expected lowrank or dense"
            )
        super().__init__(form, out_channels, in_channels * kernel[0] * kernel[1], bias=bias)
        self.in_channels, self.kernel = in_channels, kernel
        self.stride, self.padding, self.dilation = stride, padding, dilation

    @classmethod
    def like(cls, layer: nn.Conv2d, form: Form) -> Self:
        """Return a layer of these sizes in another form, freshly initialised."""
        pair: Any = tuple  # torch's types say less than it stores
        return cls(
            form,
            layer.in_channels,
            layer.out_channels,
            pair(layer.kernel_size),
            stride=pair(layer.stride),
            padding=layer.padding,
            dilation=pair(layer.dilation),
            bias=layer.bias is not None,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, H, W) to (N, out, H', W')."""
        factors = self.factors
        if isinstance(self.form, DenseForm):
            return self._convolved(x, factors["weight"], self.bias)
        if isinstance(self.form, LowRankForm):
            return self._low_rank(x, self.form, factors)
        places = x[..., :: self.stride[0], :: self.stride[1]].permute(0, 2, 3, 1)
        return self.form.apply(factors, places, self.bias).permute(0, 3, 1, 2)

    def _convolved(self, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        weight = matrix.reshape(len(matrix), self.in_channels, *self.kernel)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def _low_rank(self, x: Tensor, form: LowRankForm, factors: Factors) -> Tensor:
        """Return the convolution with the right factor, then that with the left of one pixel."""
        left, right = factors["left"], factors["right"]
        if not form.rank:
            one = self._convolved(x, right.new_zeros(1, self.n), None)  # only for its size
            return nothing(one.permute(0, 2, 3, 1), self.m, self.bias).permute(0, 3, 1, 2)
        if form.middle == "diag":
            right = factors["middle"][:, None] * right
        elif form.middle == "full":
            right = factors["middle"] @ right
        return F.conv2d(self._convolved(x, right, None), left[:, :, None, None], self.bias)

    def plain(self) -> nn.Conv2d:
        """Return the convolution of torch with the same matrix."""
        layer = nn.Conv2d(
            self.in_channels,
            self.m,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            bias=self.bias is not None,
        )
        return _filled(layer, self.matrix(), self.bias)


def _filled(layer: Any, matrix: Tensor, bias: Tensor | None) -> Any:
    """Return a layer of torch with these values."""
    with torch.no_grad():
        layer.weight.copy_(matrix.reshape(layer.weight.shape))
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.to(matrix).eval()
