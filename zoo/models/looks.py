"""Looks: a small network that sparse adapters restyle, at half resolution.

Plain 3x3 layers on quarters of 2x2 pixels, as a strided first layer and a depth-to-space step do
it: every layer is one that microcontrollers and their compilers know. It was trained together
with its adapters (`zoo.adapters.joint`); without one it gives the photograph back. The network
has no position of its own: where dots and hatching lie is told by three planes of texture beside
the picture (`zoo.data.filters.textures`), so that tiles of a large picture fit together.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLANES = 3  # of texture, beside red, green and blue
MID_GREY = 0.5  # subtracted from the input, so that zero padding continues grey, not black
PRELU_START = 0.25  # the slope for negative features before training


class Looks(nn.Module):
    """Picture and texture `(N, 6, H, W)` in [0, 1] to a picture `(N, 3, H, W)`; H and W even.

    With x = input - 0.5, x_0 = first(x) and x_i = prelu(conv_i(x_{i-1})), the output is
    depth_to_space(last(x_m + x_0) + space_to_depth(x's colours)) + 0.5; clipped, except in
    training, where a clipped pixel would have no gradient. `first` has kernels of 6x6 pixels in
    steps of 2: the same numbers as 3x3 on 24 channels of 2x2 pixels.

    Args:
        channels: width of the features.
        blocks: m, number of 3x3 convolutions between first and last.

    """

    scale = 1  # of the output against the input
    multiple = 2  # of which height and width of an input are
    skip: Tensor

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 + PLANES, channels, 6, stride=2, padding=2)
        self.body = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks)
        )
        self.act = nn.ModuleList(nn.PReLU(channels, init=PRELU_START) for _ in range(blocks))
        self.last = nn.Conv2d(channels, 12, 3, padding=1)
        # Channel 4 c + 2 y + x of a quarter is colour c at row y, column x of its 2x2 pixels.
        skip = torch.zeros(12, 3 + PLANES, 2, 2)
        for channel in range(12):
            skip[channel, channel // 4, channel // 2 % 2, channel % 2] = 1
        self.register_buffer("skip", skip, persistent=False)
        # On CPUs oneDNN runs these narrow layers about twice as fast with channels last.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def halo(self) -> int:
        """Pixels on each side that an output pixel depends on, as an even number."""
        return 2 * (len(self.body) + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Restyle `(N, 6, H, W)`: colours and texture in [0, 1], to colours `(N, 3, H, W)`.

        Raises:
            ValueError: H or W is odd: the last row or column would be lost.

        """
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"the picture has {height} rows and {width} columns; expected even numbers: "
                "zoo.run takes pictures of any size"
            )
        x = x.contiguous(memory_format=torch.channels_last) - MID_GREY
        first = features = self.first(x)
        for conv, act in zip(self.body, self.act, strict=True):
            features = act(conv(features))
        quarters = self.last(features + first) + F.conv2d(x, self.skip, stride=2)
        y = F.pixel_shuffle(quarters, 2) + MID_GREY
        return y if self.training else y.clamp(0, 1)
