"""SESR: super-efficient super resolution (Bhardwaj et al., MLSys 2022, arXiv 2103.09404).

`SESR` is the deployed (collapsed) network, `ExpandedSESR` the form that is trained.
Differences from the published TensorFlow code, each on purpose: the bias of a collapsed
block is a bias (there it is spread over the kernel's taps), the x4 output block has no residual
(there it gains one whenever its widths happen to be equal), and one depth-to-space step
by the scale in PyTorch's standard `pixel_shuffle` order (there x4 is two x2 steps, which orders
the 16 channels differently).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.models.blocks import CollapsibleConv2d

MID_GREY = 0.5  # subtracted from the input, so that zero padding continues grey, not black


class SESR(nn.Module):
    """The deployed network: luma `(N, 1, H, W)` in [0, 1] to luma `(N, 1, sH, sW)` in [0, 1].

    With x0 = first(y - 0.5) and x_i = PReLU_i(conv_i(x_{i-1})), the output is
    depth_to_space(last(x_m + x0) + y), clipped. Channel c of the last convolution is the
    output pixel at row c // s, column c % s of each s x s cell (`torch.pixel_shuffle`).

    Args:
        channels: f, width of the features (16, or 32 for XL).
        blocks: m, number of 3x3 convolutions.
        scale: s, the enlargement (2 or 4).

    """

    def __init__(self, channels: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.first = nn.Conv2d(1, channels, 5, padding=2)
        self.body = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks)
        )
        self.act = nn.ModuleList(nn.PReLU(channels, init=0.25) for _ in range(blocks))
        self.last = nn.Conv2d(channels, scale * scale, 5, padding=2)
        # On CPUs oneDNN runs these narrow layers about twice as fast with channels last.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def halo(self) -> int:
        """Input pixels on each side that an output pixel depends on: 2 + m + 2."""
        return 4 + len(self.body)

    def forward(self, y: Tensor) -> Tensor:
        """Enlarge luma `(N, 1, H, W)` to `(N, 1, sH, sW)`; values in [0, 1] on both sides."""
        first = x = self.first(y - MID_GREY)
        for conv, act in zip(self.body, self.act, strict=True):
            x = act(conv(x))
        return F.pixel_shuffle(self.last(x + first) + y, self.scale).clamp(0, 1)

    def trainable(self, *, expansion: int) -> "ExpandedSESR":
        """Return a training form, freshly initialised; `load_deployed` starts it from a network."""
        return ExpandedSESR(
            channels=self.first.out_channels,
            blocks=len(self.body),
            scale=self.scale,
            expansion=expansion,
        )


class ExpandedSESR(nn.Module):
    """The training form: every convolution of `SESR` is a collapsible linear block.

    Args:
        channels: f, as in `SESR`.
        blocks: m, as in `SESR`.
        scale: s, as in `SESR`.
        expansion: p, width inside the blocks (256 for M3, M5 and M7; 64 for M11 and XL).

    """

    def __init__(self, channels: int, blocks: int, scale: int, *, expansion: int) -> None:
        super().__init__()
        self.args = {"channels": channels, "blocks": blocks, "scale": scale}
        self.first = CollapsibleConv2d(1, channels, 5, expansion=expansion)
        self.body = nn.ModuleList(
            CollapsibleConv2d(channels, channels, 3, expansion=expansion, residual=True)
            for _ in range(blocks)
        )
        # The published code starts the slopes at 0. At the fast rates used here 20 of the 32
        # channels of M5's last two layers then end positive on under a tenth of all pixels.
        self.act = nn.ModuleList(nn.PReLU(channels, init=0.25) for _ in range(blocks))
        self.last = CollapsibleConv2d(channels, scale * scale, 5, expansion=expansion)

    def forward(self, y: Tensor, *, expanded: bool = False) -> Tensor:
        """Enlarge `(N, 1, H, W)` to `(N, 1, sH, sW)`, unclipped so that no gradient is lost.

        `expanded` convolves through the wide factors (the published baseline; for comparison).
        """

        def apply(block: nn.Module, x: Tensor) -> Tensor:
            return block.forward_expanded(x) if expanded else block(x)  # type: ignore[operator]

        y = y.contiguous(memory_format=torch.channels_last)
        first = x = apply(self.first, y - MID_GREY)
        for block, act in zip(self.body, self.act, strict=True):
            x = act(apply(block, x))
        return F.pixel_shuffle(apply(self.last, x + first) + y, self.args["scale"])

    @torch.no_grad()
    def deployed(self) -> SESR:
        """Return the equal `SESR`, in eval mode."""
        model = SESR(**self.args).to(self.first.expand.weight)
        for block, conv in self._pairs(model):
            weight, bias = block.collapse()
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)  # type: ignore[union-attr]
        model.act.load_state_dict(self.act.state_dict())
        return model.eval()

    @torch.no_grad()
    def load_deployed(self, model: nn.Module) -> None:
        """Start from a deployed `SESR` of the same width and depth.

        With another scale everything but the output block is taken over (the paper's warm
        start of x4 from x2).

        Raises:
            ValueError: `model` is no SESR of this width and depth.

        """
        if not isinstance(model, SESR) or (model.first.out_channels, len(model.body)) != (
            self.args["channels"],
            self.args["blocks"],
        ):
            raise ValueError(
                f"needs a SESR with {self.args['channels']} channels and "
                f"{self.args['blocks']} blocks"
            )
        for block, conv in self._pairs(model):
            if block is self.last and model.scale != self.args["scale"]:
                continue
            assert conv.bias is not None
            block.load_collapsed(conv.weight, conv.bias)
        self.act.load_state_dict(model.act.state_dict())

    def _pairs(self, model: SESR) -> list[tuple[CollapsibleConv2d, nn.Conv2d]]:
        blocks = [self.first, *self.body, self.last]
        convolutions = [model.first, *model.body, model.last]
        return list(zip(blocks, convolutions, strict=True))
