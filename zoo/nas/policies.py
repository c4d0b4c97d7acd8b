"""Policy networks of a drone: a picture goes in, how to steer and whether to brake come out."""

import torch
from torch import Tensor, nn

SIDE = 200  # pixels of the grey picture's sides


class ResidualPolicy(nn.Module):
    """DroNet's form (Loquercio et al. 2018), with a number of blocks and a width of one's own.

    A 5x5 convolution and a pool, then residual blocks that halve the sides: the first keeps the
    width, each later one doubles it up to four times. DroNet itself has three blocks and width 32.
    """

    def __init__(self, blocks: int = 3, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 5, stride=2, padding=2)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = [width * min(2**i, 4) for i in range(blocks)]
        self.blocks = nn.Sequential(
            *(_Block(i, o) for i, o in zip([width, *widths], widths, strict=False))
        )
        self.head = nn.Conv2d(widths[-1], 2, _side(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Return steering and the score of a collision, (N, 2), of pictures (N, 1, 200, 200)."""
        return self.head(torch.relu(self.blocks(self.pool(self.stem(x))))).flatten(1)


def _side(blocks: int) -> int:
    side = SIDE // 4
    for _ in range(blocks):
        side = (side + 1) // 2
    return side


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(torch.relu(self.first(torch.relu(x))))
