"""What others measure on an untrained network, for `benchmarks.ran_expressivity`."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from zoo.models.convnext import Block, ConvNeXt


def synflow(network: ConvNeXt, size: tuple[int, int]) -> float:
    """Return log10 of synflow (Tanaka et al., arXiv 2006.05467): sum of |w dR/dw|, weights |w|.

    R is the sum of the outputs for a picture of ones. As usual where there are norms, they are left
    out: they would make the constant maps zero.
    """
    model = copy.deepcopy(network).double().eval()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.LayerNorm):
                setattr(parent, name, nn.Identity())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    model(torch.ones(1, network.in_chans, *size, dtype=torch.double)).sum().backward()
    total = sum(
        float((p * p.grad).detach().abs().sum()) for p in model.parameters() if p.grad is not None
    )
    return float(np.log10(total))


@torch.no_grad()
def naswot(network: ConvNeXt, pictures: Tensor) -> float:
    """Return NASWOT (Mellor et al., arXiv 2006.04647): log det of how alike activations are.

    K_ij counts the units that are on, or off, for both pictures i and j `(N, C, H, W)`; a GELU is
    on where its input is positive.
    """
    model, kernel = copy.deepcopy(network).eval(), np.zeros((len(pictures),) * 2)
    for block in model.modules():
        if isinstance(block, Block):
            block.pwconv1.register_forward_hook(lambda _, __, output: seen(output))

    def seen(output: Tensor) -> None:
        on = (output > 0).flatten(1).float()
        kernel[:] += (on @ on.T + (1 - on) @ (1 - on).T).numpy()

    model(pictures)
    return float(np.linalg.slogdet(kernel)[1])
