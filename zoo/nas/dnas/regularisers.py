"""What is added to a search's loss: the distance from a budget, and indecision.

Both are shares of the task's loss, so that one strength serves losses of any size.
"""

import torch
from torch import Tensor


def two_sided(cost: Tensor, budget: float) -> Tensor:
    """Return |ln(cost / budget)|: a one-sided penalty ends far below the budget."""
    return torch.log(cost / budget).abs()


def one_sided(cost: Tensor, budget: float) -> Tensor:
    """Return how far ln(cost / budget) is above 0."""
    return torch.log(cost / budget).clamp_min(0)


def indecision(logits: Tensor) -> Tensor:
    """Return the mean entropy of the choices as a share of the greatest, from 0 to 1."""
    shares = torch.softmax(logits, -1)
    entropy = -(shares * torch.log_softmax(logits, -1)).sum(-1)
    most = torch.log(torch.tensor(float(logits.shape[-1])))
    return entropy.mean() / most


def sharpened(logits: Tensor, progress: float, last: float = 0.15) -> Tensor:
    """Return the probabilities by which costs are expected: ever nearer to the argmax's.

    The expectation under an undecided softmax is not what the chosen network will cost.

    Args:
        logits: (..., options).
        progress: of the search, from 0 to 1.
        last: the temperature at the end; it starts at 1.

    """
    return torch.softmax(logits / (1 + (last - 1) * progress), -1)
