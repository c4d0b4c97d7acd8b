"""FSRCNN: super resolution by a transposed convolution (Dong, Loy and Tang, arXiv 1608.00367).

The network on which SESR's authors compare, in quality and as a defence against attacks. One
difference from the paper, on purpose: mid grey is subtracted from the input and added to the
output, so that zero padding continues grey, not black.
"""

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MID_GREY = 0.5
PRELU_START = 0.25
WINDOW = 9  # of the last layer, in pixels of the output
Upsampling = Literal["transposed", "sub-pixel"]


class FSRCNN(nn.Module):
    """Luma `(N, 1, H, W)` in [0, 1] to luma `(N, 1, sH, sW)` in [0, 1].

    Features of 5x5 pixels, shrunk to a few channels by 1x1, m mappings of 3x3, widened again by
    1x1; then a 9x9 transposed convolution of stride s, whose output is clipped.

    Args:
        scale: s, the enlargement (2 to 4).
        channels: d, width of the features.
        shrunk: s of the paper, width of the mappings.
        mappings: m, number of 3x3 convolutions.
        upsampling: the last layer as published, "transposed", or the same function as a convolution
            of the input's size and a depth-to-space step, "sub-pixel": see `sub_pixel`.

    """

    def __init__(
        self,
        scale: int,
        channels: int = 56,
        shrunk: int = 12,
        mappings: int = 4,
        upsampling: Upsampling = "transposed",
    ) -> None:
        super().__init__()
        self.shape, self.scale, self.upsampling = (channels, shrunk, mappings), scale, upsampling
        widths = [channels, *[shrunk] * (mappings + 1), channels]
        kernels = [5, 1, *[3] * mappings, 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, padding=kernel // 2)
            for before, after, kernel in zip([1, *widths], widths, kernels, strict=False)
        )
        self.act = nn.ModuleList(nn.PReLU(width, init=PRELU_START) for width in widths)
        self.last: nn.Module
        if upsampling == "transposed":
            # Symmetric as far as an even size allows: one row and column more below and right.
            self.last = nn.ConvTranspose2d(
                channels, 1, WINDOW, stride=scale, padding=WINDOW // 2, output_padding=scale - 1
            )
            # What torch draws for a transposed convolution is ten times too small for one output.
            nn.init.normal_(self.last.weight, std=(channels * WINDOW**2 / scale**2) ** -0.5)
        elif upsampling == "sub-pixel":
            reach = _reach(scale)
            self.last = nn.Conv2d(channels, scale**2, 2 * reach + 1, padding=reach)
        else:
            raise ValueError(f"upsampling is {upsampling!r}; expected transposed or sub-pixel")
        # On CPUs oneDNN runs these narrow layers about twice as fast with channels last.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on: 2 + m and the last layer's."""
        return 2 + self.shape[2] + _reach(self.scale)

    def forward(self, y: Tensor) -> Tensor:
        """Enlarge luma `(N, 1, H, W)` to `(N, 1, sH, sW)`; values in [0, 1] on both sides."""
        x = y - MID_GREY
        for convolution, act in zip(self.convolutions, self.act, strict=True):
            x = act(convolution(x))
        x = self.last(x)
        if self.upsampling == "sub-pixel":
            x = F.pixel_shuffle(x, self.scale)
        return (x + MID_GREY).clamp(0, 1)

    def trainable(self) -> "TrainedFSRCNN":
        """Return a training form, freshly initialised."""
        return TrainedFSRCNN(self)

    @torch.no_grad()
    def sub_pixel(self) -> "FSRCNN":
        """Return the equal network whose last layer computes at the input's size.

        A transposed convolution of stride s is s x s interleaved convolutions, one for each place
        in a cell of the output (Shi et al., arXiv 1609.07009).
        """
        if self.upsampling == "sub-pixel":
            return self
        assert isinstance(self.last, nn.ConvTranspose2d)
        other = FSRCNN(self.scale, *self.shape, upsampling="sub-pixel").to(self.last.weight)
        other.convolutions.load_state_dict(self.convolutions.state_dict())
        other.act.load_state_dict(self.act.state_dict())
        assert isinstance(other.last, nn.Conv2d)
        assert other.last.bias is not None
        other.last.weight.copy_(_interleaved(self.last.weight, self.scale))
        assert self.last.bias is not None
        other.last.bias.copy_(self.last.bias.expand(self.scale**2))
        return other.train(self.training)


def _reach(scale: int) -> int:
    """Return how many input pixels to each side the last layer sees from one of its cells."""
    return (WINDOW // 2 + scale - 1) // scale


def _interleaved(weight: Tensor, scale: int) -> Tensor:
    """Return (d, 1, 9, 9) of a transposed convolution as (s * s, d, k, k) of a convolution.

    Output row s i + p is the sum over input rows j of w[s (i - j) + p + 4], which is tap
    j - i + reach of channel p's kernel.
    """
    reach = _reach(scale)
    taps = torch.arange(2 * reach + 1)
    rows = [scale * (reach - taps) + place + WINDOW // 2 for place in range(scale)]
    kernels = []
    for down in rows:
        for right in rows:
            inside = ((down >= 0) & (down < WINDOW))[:, None] & ((right >= 0) & (right < WINDOW))
            drawn = weight[:, 0][:, down.clamp(0, WINDOW - 1)][:, :, right.clamp(0, WINDOW - 1)]
            kernels.append(drawn * inside.to(weight))
    return torch.stack(kernels)


class TrainedFSRCNN(nn.Module):
    """The training form: the deployed network, unclipped, its last layer at the input's size.

    The convolution of the interleaved kernels has the values and gradients of the transposed one,
    and costs a CPU about half.
    """

    def __init__(self, network: FSRCNN) -> None:
        super().__init__()
        if network.upsampling != "transposed":
            raise ValueError("only the transposed form is trained; sub_pixel() converts it")
        self.network = network

    def forward(self, y: Tensor) -> Tensor:
        """Enlarge `(N, 1, H, W)` to `(N, 1, sH, sW)`, unclipped so that no gradient is lost."""
        network = self.network
        x = y - MID_GREY
        for convolution, act in zip(network.convolutions, network.act, strict=True):
            x = act(convolution(x))
        last = network.last
        assert isinstance(last, nn.ConvTranspose2d)
        assert last.bias is not None
        kernel = _interleaved(last.weight, network.scale)
        x = F.conv2d(x, kernel, last.bias.expand(len(kernel)), padding=kernel.shape[2] // 2)
        return F.pixel_shuffle(x, network.scale) + MID_GREY

    def deployed(self) -> FSRCNN:
        """Return the equal `FSRCNN`, in eval mode."""
        return copy.deepcopy(self.network).eval()

    def load_deployed(self, model: nn.Module) -> None:
        """Start from a deployed `FSRCNN` of the same shape.

        Raises:
            ValueError: `model` is none.

        """
        if not isinstance(model, FSRCNN) or model.shape != self.network.shape:
            raise ValueError(f"needs an FSRCNN of the widths {self.network.shape}")
        self.network.load_state_dict(model.state_dict())
