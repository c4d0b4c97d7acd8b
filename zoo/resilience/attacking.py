"""Attacking a classifier of pictures: restarts, and pixels of 8 bits."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.resilience.attacks.contract import ChosenAttack, Model

BATCH = 100
WHITE = 255


class PixelModel(nn.Module):
    """A classifier that takes pictures in [0, 1], with its normalisation inside.

    Args:
        network: takes pictures in the range (low, high), gives logits.
        span: that range.

    """

    def __init__(self, network: nn.Module, span: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.span = network, span

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(N, labels)` of pictures `(N, C, H, W)` in [0, 1]."""
        low, high = self.span
        logits: Tensor = self.network(images * (high - low) + low)
        return logits


def rounded(images: Tensor, moved: Tensor, eps: float) -> Tensor:
    """Return changed pictures on the grid of 8 bits, still within eps of pictures on that grid."""
    most = int(eps * WHITE + 1e-6)
    shift = ((moved - images) * WHITE).round().clamp(-most, most)
    return ((images * WHITE).round() + shift).clamp(0, WHITE) / WHITE


def attacked(
    chosen: ChosenAttack,
    model: Model,
    images: Tensor,
    labels: Tensor,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Return pictures, changed so that a model errs, on the grid of 8 bits.

    Every picture is attacked, those that the model gets wrong anyway too. Of several restarts the
    first counts that fools the model, else the last.

    Args:
        chosen: the attack.
        model: what is attacked.
        images: `(N, C, H, W)` on the grid of 8 bits in [0, 1].
        labels: `(N,)`.
        progress: is told how many pictures are done.

    """
    parts = []
    for start in range(0, len(images), BATCH):
        x, y = images[start : start + BATCH], labels[start : start + BATCH]
        made, left = x.clone(), torch.ones(len(x), dtype=torch.bool)
        for restart in range(chosen.options.restarts):
            # One generator for a batch and restart: results do not depend on what came before.
            seed = (chosen.options.seed * 1009 + restart) * 100_003 + start
            dice = torch.Generator().manual_seed(seed)
            tried = chosen.attack.perturb(model, x[left], y[left], chosen.options, dice)
            made[left] = rounded(x[left], tried.detach(), chosen.options.eps)
            if restart + 1 < chosen.options.restarts:
                left = predicted(model, made) == y
                if not left.any():
                    break
        parts.append(made)
        if progress:
            progress(start + len(x))
    return torch.cat(parts)


@torch.no_grad()
def predicted(model: Model, images: Tensor) -> Tensor:
    """Return the likeliest labels `(N,)`."""
    return torch.cat([model(part).argmax(1) for part in images.split(BATCH)])
