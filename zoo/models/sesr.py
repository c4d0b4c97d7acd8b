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

from zoo.models.blocks import CollapsibleConv2d, DirectConv2d, identity_kernel, linear_block

PRELU_START = 0.25  # the slope for negative features before training
MID_GREY = 0.5  # subtracted from the input, so that zero padding continues grey, not black


class SESR(nn.Module):
    """The deployed network: luma `(N, 1, H, W)` in [0, 1] to luma `(N, 1, sH, sW)` in [0, 1].

    With x0 = first(y - 0.5) and x_i = act_i(conv_i(x_{i-1})), the output is
    depth_to_space(last(x_m + x0) + y), clipped. Channel c of the last convolution is the
    output pixel at row c // s, column c % s of each s x s cell (`torch.pixel_shuffle`).

    Args:
        channels: f, width of the features (16, or 32 for XL).
        blocks: m, number of 3x3 convolutions.
        scale: s, the enlargement (2 or 4).
        activation: "prelu", a learned slope per channel, or "relu": the authors' quantized form,
            whose activations need no rounding before the nonlinearity.

    """

    def __init__(self, channels: int, blocks: int, scale: int, activation: str = "prelu") -> None:
        super().__init__()
        self.scale, self.activation = scale, activation
        self.first = nn.Conv2d(1, channels, 5, padding=2)
        self.body = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(blocks)
        )
        self.act = nn.ModuleList(_activation(activation, channels) for _ in range(blocks))
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
            activation=self.activation,
            expansion=expansion,
        )


def _activation(kind: str, channels: int) -> nn.Module:
    if kind not in ("prelu", "relu"):
        raise ValueError(f"activation is {kind!r}; expected prelu or relu")
    return nn.ReLU() if kind == "relu" else nn.PReLU(channels, init=PRELU_START)


class ExpandedSESR(nn.Module):
    """The training form: every convolution of `SESR` is a linear block, collapsible if expanded.

    Args:
        channels: f, as in `SESR`.
        blocks: m, as in `SESR`.
        scale: s, as in `SESR`.
        activation: as in `SESR`.
        expansion: p, width inside the blocks (the authors: 256 for M3, M5 and M7; 64 for M11 and
            XL); 0 trains the small kernels themselves.

    """

    def __init__(
        self,
        channels: int,
        blocks: int,
        scale: int,
        activation: str = "prelu",
        *,
        expansion: int,
    ) -> None:
        super().__init__()
        self.shape, self.scale, self.activation = (channels, blocks), scale, activation
        self.first = linear_block(1, channels, 5, expansion=expansion)
        self.body = nn.ModuleList(
            linear_block(channels, channels, 3, expansion=expansion, residual=True)
            for _ in range(blocks)
        )
        # The published code starts the slopes at 0. At the fast rates used here 20 of the 32
        # channels of M5's last two layers then end positive on under a tenth of all pixels.
        self.act = nn.ModuleList(_activation(activation, channels) for _ in range(blocks))
        self.last = linear_block(channels, scale * scale, 5, expansion=expansion)

    def forward(self, y: Tensor, *, expanded: bool = False) -> Tensor:
        """Enlarge `(N, 1, H, W)` to `(N, 1, sH, sW)`, unclipped so that no gradient is lost.

        `expanded` convolves through the wide factors (the published baseline; for comparison).
        """

        def apply(part: nn.Module, x: Tensor) -> Tensor:
            return part.forward_expanded(x) if expanded else part(x)  # type: ignore[operator]

        y = y.contiguous(memory_format=torch.channels_last)
        first = x = apply(self.first, y - MID_GREY)
        for block, act in zip(self.body, self.act, strict=True):
            x = act(apply(block, x))
        return F.pixel_shuffle(apply(self.last, x + first) + y, self.scale)

    @torch.no_grad()
    def deployed(self) -> SESR:
        """Return the equal `SESR`, in eval mode."""
        model = SESR(*self.shape, self.scale, self.activation).to(self.first.collapse()[0])
        for block, conv in self._pairs(model):
            weight, bias = block.collapse()
            conv.weight.copy_(weight)
            conv.bias.copy_(bias)  # type: ignore[union-attr]
        model.act.load_state_dict(self.act.state_dict())
        return model.eval()

    @torch.no_grad()
    def load_deployed(self, model: nn.Module) -> None:
        """Start from a deployed `SESR` of the same width and at most the same depth.

        With another scale, everything but the output block is copied (the paper's warm start of x4
        from x2); with another activation, everything but the slopes. Additional layers start as the
        identity, kernel 0 plus the residual and slopes of 1, so that the deeper network computes
        what the shallower one does (not with ReLU, which has no slopes).

        Raises:
            ValueError: `model` is not a SESR of this width, or is deeper.

        """
        channels, blocks = self.shape
        if (
            not isinstance(model, SESR)
            or model.first.out_channels != channels
            or len(model.body) > blocks
        ):
            raise ValueError(f"needs a SESR with {channels} channels and at most {blocks} blocks")
        self._take(self.first, model.first)
        if model.scale == self.scale:
            self._take(self.last, model.last)
        for number, (block, act) in enumerate(zip(self.body, self.act, strict=True)):
            if number < len(model.body):
                self._take(block, model.body[number])
                if model.activation == self.activation:
                    act.load_state_dict(model.act[number].state_dict())
            else:
                weight, bias = block.collapse()  # type: ignore[operator]
                block.load_collapsed(identity_kernel(weight), torch.zeros_like(bias))  # type: ignore[operator]
                if isinstance(act, nn.PReLU):
                    nn.init.ones_(act.weight)

    @staticmethod
    def _take(block: nn.Module, conv: nn.Module) -> None:
        block.load_collapsed(conv.weight, conv.bias)  # type: ignore[operator]

    def _pairs(self, model: SESR) -> list[tuple[CollapsibleConv2d | DirectConv2d, nn.Conv2d]]:
        blocks = [self.first, *self.body, self.last]
        convolutions = [model.first, *model.body, model.last]
        return list(zip(blocks, convolutions, strict=True))
