"""The three stages of a compressible training: settle, search, refine; in two runs.

All layers start with a wish for the one option that fits the budget and loses least. In the search
the loss grows by strength * loss * |ln(size / budget)|, where the size is what wishes expect, the
sharper the later, and by a growing share of indecision. At its end each layer takes the options
that are wished for most and together fit the budget exactly. The draws have worn the weights by
then, and the optimizer's memory is of them: so the second run starts from the weights that the
first started from, and trains them for what was chosen, where only a size above the budget costs.
After its last step weights next to zero go until the size is within the budget as a device's
compiler counts it, not as it was predicted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.nas.dnas.regularisers import indecision, one_sided, sharpened, two_sided
from zoo.nas.dnas.selection import within
from zoo.nas.udc.network import CompressibleNetwork
from zoo.nas.udc.options import BITS, SPARSITIES
from zoo.training.contract import Hook, Setup

LOOK_EVERY = 10  # steps; runs are saved at multiples of it
_WARM, _COOL = 2.0, 0.3  # temperature of the draws
_STRENGTH, _DECIDED = 2.0, 0.3
_NEAR = 0.75  # of the budget: how small the option may be that a search starts at
_MARGIN = 0.98  # of the budget, which fine-tuning may move about
_SAVES = 10  # states of a run
_REPAIRS = 20  # at most, each of what is still too much


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run aims at, and when.

    Attributes:
        steps: of the run.
        settle: share of them in plain int8; the rest searches, or refines what is chosen.
        ratio: how many times smaller than in plain int8 the encoded weights are to be.
        budget: encoded bytes that they may take; 0 if the ratio says it.
        options: bits and sparsity of each layer, by their numbers, or one pair for all layers; none
            to search.
        bounded: whether there is a budget.

    """

    steps: int
    settle: float
    ratio: float
    budget: float
    options: Sequence[tuple[int, int]] = ()
    bounded: bool = True

    @property
    def first(self) -> int:
        """The first step after those that settle."""
        return round(self.settle * self.steps) // LOOK_EVERY * LOOK_EVERY

    @property
    def save_every(self) -> int:
        """Steps between two states, where what a compiler said is asked again."""
        return -(-self.steps // _SAVES // LOOK_EVERY) * LOOK_EVERY


class Stages(Hook):
    """The part of a run that leads a `CompressibleNetwork` through its stages.

    Args:
        plan: what the run aims at.
        encoded: says how many bytes a compiler makes of the weights; None if there is none.

    """

    def __init__(self, plan: Plan, encoded: Callable[[CompressibleNetwork], float | None]) -> None:
        self.plan, self.encoded = plan, encoded
        self._goal = 0.0
        self._step = 0

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Know the network, and the budget.

        Raises:
            MismatchError: no options are as small as the budget.

        """
        assert isinstance(trained, CompressibleNetwork)
        self.network, plan = trained, self.plan
        trained.look(shares=True)
        sizes = trained.sizes()
        self.plain = float(sizes[:, BITS.index(8), 0].sum())
        self.budget = plan.budget or self.plain / plan.ratio
        least = float(sizes.reshape(len(sizes), -1).min(1).sum())
        if plan.bounded and _MARGIN * self.budget < least:
            raise MismatchError(
                f"the weights are to take {self.budget:.0f} bytes, encoded; this network's take "
                f"{self.plain:.0f} in plain int8, and {least / _MARGIN:.0f} at least "
                f"(--max-flash), a ratio of {_MARGIN * self.plain / least:.1f} at most (--ratio)"
            )

        if not plan.options:
            trained.lean(*self._start(sizes.sum(0)))

    def _start(self, totals: NDArray[np.float64]) -> tuple[int, int]:
        """Return one option for all layers, about as large as the budget, that loses least.

        Draws from all options alike would ruin the weights before anything is known.
        """
        near = (totals <= self.budget) & (totals >= _NEAR * self.budget)
        if not near.any():
            near = totals == totals.flat[np.abs(np.log(totals / self.budget)).argmin()]
        options = [(int(b), int(s)) for b, s in np.argwhere(near)]
        return min(options, key=lambda option: self.network.lost(*option))

    def starting(self, step: int) -> None:
        """Say what the step computes; look at the weights now and then; decide once."""
        plan, network = self.plan, self.network
        self._step = step
        if step < plan.first:
            network.stage = "settle"
        elif not plan.options:
            network.stage = "search"
            network.temperature = _WARM * (_COOL / _WARM) ** self._progress
            if step % LOOK_EVERY == 0:
                network.look(shares=step == plan.first)
                self._sizes = torch.from_numpy(network.sizes()).float().to(network.limits.device)
        else:
            if step == plan.first:
                network.look(shares=True)
                network.choose(self.decided())
            network.stage = "refine"
            if plan.bounded and (step == plan.first or step % plan.save_every == 0):
                self._compare()
            if step % LOOK_EVERY == 0 and plan.bounded:
                network.tighten(float(network.chosen_bytes().detach()) - self._goal)

    def stepped(self, trained: nn.Module) -> None:
        """Prune after the last step what is beyond the budget, as a compiler counts it."""
        plan = self.plan
        if self._step < plan.steps - 1 or not plan.options or not plan.bounded:
            return
        for _ in range(_REPAIRS):
            found = self.encoded(self.network)
            if found is None or found <= self.budget:
                return
            self.network.tighten((found - self.budget) / 2)  # a weight may save more than it says

    def _compare(self) -> None:
        """Take from a compiler how far off the predicted size is, and aim so much lower."""
        found = self.encoded(self.network)
        predicted = float(self.network.chosen_bytes().detach())
        off = 1.0 if found is None else max(1.0, found / predicted)
        self._goal = _MARGIN * self.budget / off

    @property
    def _progress(self) -> float:
        return (self._step - self.plan.first) / max(1, self.plan.steps - self.plan.first)

    def decided(self) -> list[tuple[int, int]]:
        """Return the options of every layer: those most wished for that fit the budget."""
        network, given = self.network, list(self.plan.options)
        if given:
            return given * len(network.layers) if len(given) == 1 else given
        bits, sparsity = (torch.log_softmax(x.detach(), -1) for x in network.wishes())
        joint = (bits[:, :, None] + sparsity[:, None, :]).flatten(1).double().cpu().numpy()
        sizes = network.sizes().reshape(len(network.layers), -1)
        taken = within(joint, sizes, _MARGIN * self.budget)
        return [(int(k) // len(SPARSITIES), int(k) % len(SPARSITIES)) for k in taken]

    def loss(self, loss: Tensor) -> Tensor:
        """Add what the size costs."""
        if not self.plan.bounded or self._step < self.plan.first:
            return loss
        unit = loss.detach().abs()
        if self.plan.options:
            over = one_sided(self.network.chosen_bytes(), self._goal)
            return loss + _STRENGTH * unit * over
        progress = self._progress
        bits, sparsity = self.network.wishes()
        cost = self._expected(bits, sparsity, progress)
        away = two_sided(cost, self.budget)
        undecided = (indecision(bits) + indecision(sparsity)) / 2
        return loss + unit * (_STRENGTH * away + _DECIDED * progress * undecided)

    def _expected(self, bits: Tensor, sparsity: Tensor, progress: float) -> Tensor:
        """Return the size that the wishes expect, with a gradient for weights too."""
        p, q = sharpened(bits, progress), sharpened(sparsity, progress)
        total = torch.einsum("lb,ls,lbs->", p, q, self._sizes)
        for row in range(len(self.network.layers)):
            option = int(p[row].argmax()), int(q[row].argmax())
            own = self.network.bytes_of(row, *option)
            total = total + own - own.detach()
        return total
