"""Updates: how one optimizer step is made of passes over its batch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from zoo.registry.recipe import Train
from zoo.training.contract import Passes, Update


def update_for(settings: Train, trained: nn.Module) -> Update:
    """Return how the steps of a run are made.

    Args:
        settings: `sharpness` above 0 asks for `SharpnessAware`.
        trained: the module whose parameters are trained.

    """
    return SharpnessAware(settings.sharpness, trained) if settings.sharpness else descent


def descent(passes: Passes, optimizer: Optimizer) -> Tensor:
    """Step along the gradient of the batch; return its loss."""
    loss = passes.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss


class SharpnessAware:
    """Steps by the gradient at w + radius g / ||g|| (SAM, arXiv 2010.01412).

    They lead to flat minima, whose networks lose less when they are pruned or rounded afterwards:
    CrAFT (arXiv 2305.04526). A step takes two passes, so it is to be compared with plain training
    of twice as many steps. g is the gradient over all processes and micro-batches: two processes
    train like one. The second pass draws what the first drew (dropout), and leaves the statistics
    of batch norms alone.

    Args:
        radius: length of the step up, over all parameters together.
        network: the module whose parameters are trained.

    """

    def __init__(self, radius: float, network: nn.Module) -> None:
        self.radius, self.network = radius, network

    def __call__(self, passes: Passes, optimizer: Optimizer) -> Tensor:
        """Do one step and clear the gradients; return the loss where it started."""
        random = _random_states()
        loss = passes.backward()
        every = [p for group in optimizer.param_groups for p in group["params"]]
        parameters = [p for p in every if p.grad is not None]
        kept = [p.detach().clone() for p in parameters]  # subtraction would not be exact
        climb(parameters, self.radius)
        optimizer.zero_grad()
        _restore(random)
        with _statistics_kept(self.network):
            passes.backward()
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        optimizer.step()
        optimizer.zero_grad()
        return loss


@torch.no_grad()
def climb(parameters: list[Tensor], radius: float) -> None:
    """Move parameters along their gradients, by `radius` all together."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    norm = torch.stack([g.float().norm() for g in gradients]).norm()
    scale = radius / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.add_(gradient * scale.to(gradient.dtype))


def _random_states() -> tuple[Tensor, list[Tensor]]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices


def _restore(states: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let batch norms normalize by their batch without counting it."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    before = [(m.momentum, m.num_batches_tracked) for m in norms]
    for norm, (_, count) in zip(norms, before, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
