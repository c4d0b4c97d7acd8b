"""Weights set to zero by their size, and kept there."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def masks(weights: Mapping[str, Tensor], share: float, *, by_layer: bool) -> dict[str, Tensor]:
    """Return which weights stay: the largest, so many of all.

    Args:
        weights: by name.
        share: of them that stays, rounded to whole weights; of those of one size, the first.
        by_layer: whether each layer keeps this share; else all together do.

    """
    if by_layer:
        return {name: _largest(weight, share) for name, weight in weights.items()}
    every = _largest(torch.cat([weight.flatten() for weight in weights.values()]), share)
    parts = every.split([weight.numel() for weight in weights.values()])
    return {
        name: part.view_as(weight)
        for (name, weight), part in zip(weights.items(), parts, strict=True)
    }


def _largest(weight: Tensor, share: float) -> Tensor:
    order = weight.detach().abs().flatten().sort(descending=True, stable=True).indices
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[order[: max(1, round(share * weight.numel()))]] = True
    return mask.view_as(weight)


def stages(share: float, count: int) -> list[float]:
    """Return the shares that stay after each stage: fast at first (Zhu and Gupta, 1710.01878).

    s_k = share + (1 - share) (1 - k / count)^3.
    """
    return [share + (1 - share) * (1 - k / count) ** 3 for k in range(1, count + 1)]


@torch.no_grad()
def apply(network: nn.Module, chosen: Mapping[str, Tensor]) -> None:
    """Set the weights of layers that do not stay to zero, in place."""
    for name, mask in chosen.items():
        network.get_submodule(name).get_parameter("weight").mul_(mask)
