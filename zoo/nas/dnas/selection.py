"""How a search ends: which option each choice takes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HALVINGS = 60


def within(
    wishes: NDArray[np.float64], sizes: NDArray[np.float64], budget: float
) -> NDArray[np.int64]:
    """Return the options that are wished for most and together are as large as a budget allows.

    Each choice takes the option with the largest wish - price * size; the price is the least that
    fits, below 0 if the favourites leave room. What room then remains goes to single options, those
    first that are wished for most.

    Args:
        wishes: (choices, options), logarithms of probabilities.
        sizes: likewise, what an option adds to the sum that has a budget.
        budget: the most that the sum may be; if nothing fits, the smallest options are returned.

    """
    rows = np.arange(len(wishes))

    def taken(price: float) -> NDArray[np.int64]:
        return np.asarray(np.argmax(wishes - price * sizes, axis=1), np.int64)

    def total(options: NDArray[np.int64]) -> float:
        return float(sizes[rows, options].sum())

    smallest = np.asarray(np.argmin(sizes, axis=1), np.int64)
    if total(smallest) >= budget:
        return smallest
    spread = float(np.ptp(wishes)) + 1.0
    apart = np.diff(np.sort(sizes, axis=1))
    high = spread / max(1e-3, float(apart[apart > 0].min(initial=np.inf)))
    if not np.isfinite(high) or high == 0:  # nothing to decide by size
        high = spread
    low, picked = -high, smallest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        options = taken(middle)
        if total(options) <= budget:
            high, picked = middle, options
        else:
            low = middle
    return _filled(picked, wishes, sizes, budget)


def _filled(
    picked: NDArray[np.int64],
    wishes: NDArray[np.float64],
    sizes: NDArray[np.float64],
    budget: float,
) -> NDArray[np.int64]:
    """Return options enlarged one by one while they fit, the most wished for first."""
    picked, rows = picked.copy(), np.arange(len(picked))
    while True:
        now = sizes[rows, picked]
        room = budget - now.sum()
        more = sizes - now[:, None]
        gain = wishes - wishes[rows, picked][:, None]
        gain = np.where((more > 0) & (more <= room), gain, -np.inf)
        if not np.isfinite(gain).any():
            return picked
        row, option = np.unravel_index(int(gain.argmax()), gain.shape)
        picked[row] = option


def by_perturbation(
    logits: Sequence[Tensor], merit: Callable[[Sequence[Tensor]], float]
) -> list[int]:
    """Return the options without which a network is worst (DARTS-PT, arXiv 2108.04392).

    Decision by decision each option is left out, and the others share its weight; the one that is
    missed most is taken, and what follows is judged with it alone.

    Args:
        logits: of each decision.
        merit: of the network with these weights of options; more is better.

    """
    weights = [torch.softmax(x, -1) for x in logits]
    taken: list[int] = []
    for place, shares in enumerate(weights):
        merits = []
        for option in range(len(shares)):
            rest = shares.clone()
            rest[option] = 0.0
            trial = rest / rest.sum() if len(shares) > 1 else shares
            merits.append(merit([*weights[:place], trial, *weights[place + 1 :]]))
        taken.append(int(np.argmin(merits)))
        weights[place] = torch.nn.functional.one_hot(torch.tensor(taken[-1]), len(shares)).to(
            shares
        )
    return taken
