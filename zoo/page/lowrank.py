"""What the Looks tab compares a switch with: LoRA merged into the same network, and out again.

The factors are random numbers of the size of a look: what merging takes does not depend on what
they have learned.
"""

import copy
import threading
import time
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ROUNDS = 5
_SMALL = 1e-3  # of the factors' values: weights that lose bits, as trained factors make them


class LowRank:
    """Low-rank factors for every convolution of a copy of a network, one set per look.

    For a kernel W `(out, in, k, k)` they are B `(out, r)` and A `(r, in k k)`; merged in, the
    network computes with W + strength * B A (Hu et al., arXiv 2106.09685, section 4.1).

    Args:
        model: what is copied.
        values: that a set shall have, about.
        sets: how many.

    Attributes:
        rank: r, the same in all layers.
        values: that a set has.

    """

    def __init__(self, model: nn.Module, values: int, sets: int) -> None:
        self._model = copy.deepcopy(model)
        layers = {n: m for n, m in self._model.named_modules() if isinstance(m, nn.Conv2d)}
        self._names, self._weights = list(layers), [m.weight.data for m in layers.values()]
        self._clean = [weight.clone() for weight in self._weights]
        per_rank = sum(w.shape[0] + w[0].numel() for w in self._weights)
        self.rank = max(1, round(values / per_rank))
        self.values = self.rank * per_rank
        dice = torch.Generator().manual_seed(0)
        self._sets = [
            [_factors(weight, self.rank, dice) for weight in self._weights] for _ in range(sets)
        ]
        self._lock = threading.Lock()
        self._peft: float | None = None
        self._tried = False

    @torch.no_grad()
    def in_and_out(self, strengths: Sequence[float], rounds: int) -> tuple[float, int]:
        """Merge a set for each strength and unmerge them.

        Return ms, the fastest of the rounds, and the weights that it left changed.
        """
        pairs, times, off = list(zip(self._weights, self._clean, strict=True)), [], 0
        with self._lock:
            for _ in range(rounds):
                start = time.perf_counter()
                for sign in (1, -1):
                    for strength, factors in zip(strengths, self._sets, strict=False):
                        for weight, (b, a) in zip(self._weights, factors, strict=True):
                            weight.add_((b @ a).view(weight.shape), alpha=sign * strength)
                times.append(time.perf_counter() - start)
                off = sum(int((weight != clean).sum()) for weight, clean in pairs)
                for weight, clean in pairs:
                    weight.copy_(clean)
        return min(times) * 1e3, off

    def peft_ms(self) -> float | None:
        """Return how long peft takes to merge and unmerge one set; None where it is missing.

        Measured once: importing it takes seconds.
        """
        with self._lock:
            if not self._tried:
                self._tried = True
                self._peft = self._measured()
        return self._peft

    def _measured(self) -> float | None:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = LoraConfig(r=self.rank, target_modules=self._names)
            wrapped = get_peft_model(copy.deepcopy(self._model), config)
            times = []
            for _ in range(_ROUNDS):
                start = time.perf_counter()
                wrapped.merge_adapter()
                wrapped.unmerge_adapter()
                times.append(time.perf_counter() - start)
        return min(times) * 1e3


def _factors(weight: Tensor, rank: int, dice: torch.Generator) -> tuple[Tensor, Tensor]:
    left = torch.randn(weight.shape[0], rank, generator=dice)
    right = torch.randn(rank, weight[0].numel(), generator=dice)
    return left * _SMALL, right
