"""How a choice's learned wishes become weights of its options, differentiably.

A sampler takes logits (..., options) and a temperature and returns weights of the same shape that
sum to 1 over the last dimension and pass gradients to the logits.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Sampler = Callable[[Tensor, float], Tensor]
_TINY = 1e-20


def softmax(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities of a softmax: every option takes part (DARTS, arXiv 1806.09055)."""
    return torch.softmax(logits / temperature, -1)


def gumbel(logits: Tensor, temperature: float) -> Tensor:
    """Return a sample of the concrete distribution, near one-hot when cool (arXiv 1611.00712)."""
    noise = -torch.empty_like(logits).exponential_().clamp_min(_TINY).log()
    return torch.softmax((logits + noise) / temperature, -1)


def straight_through(logits: Tensor, temperature: float) -> Tensor:
    """Return a one-hot sample with the gradient of `gumbel` (Jang et al., arXiv 1611.01144)."""
    return hard(gumbel(logits, temperature))


def binary_gate(logits: Tensor, temperature: float) -> Tensor:
    """Return a one-hot sample with the gradient of the probabilities (arXiv 1812.00332)."""
    shares = softmax(logits, temperature)
    flat = shares.detach().reshape(-1, shares.shape[-1])
    drawn = torch.multinomial(flat, 1).view(*shares.shape[:-1], 1)
    gates = torch.zeros_like(shares).scatter_(-1, drawn, 1.0)
    return gates + shares - shares.detach()


def hard(weights: Tensor) -> Tensor:
    """Return the one-hot of the largest weight, with the gradient of the weights."""
    one = torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)
    return one + weights - weights.detach()


SAMPLERS: dict[str, Sampler] = {
    "softmax": softmax,
    "gumbel": gumbel,
    "straight-through": straight_through,
    "binary-gate": binary_gate,
}
