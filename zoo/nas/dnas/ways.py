"""What a differentiable search combines: a `Way`, and the published ones as a few settings."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

_DECIDED = 0.3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """How a differentiable search is made.

    Attributes:
        sampler: a name of `zoo.nas.dnas.samplers.SAMPLERS`.
        warm, cool: temperature of the draws at the start and at the end.
        settle: share of the steps that train weights only, with any options.
        sandwich: every so many steps the largest network is trained, and at the next one any;
            0 never does.
        wishes_every: every so many steps train only the wishes, and the others only the weights,
            as bilevel searches do; 0 trains both in each step.
        split: whether wishes learn from one half of the data, and weights from the other.
        partial: of so many channels one is under a choice in a forward pass, drawn anew each time,
            and the others pass by it; 0 for all.
        edges: whether layers that a depth may leave out are weighed against the way past them by a
            softmax of its own; a depth is then as likely as what these make of it.
        relaxed: how strongly the weights of two networks that share their wishes are held together,
            each trained on its own half of the data; 0 for one network.
        two_sided: whether a cost below its limit costs too.
        sharpen: whether costs are expected by ever sharper probabilities.
        decide: how much indecision costs at the end, as a share of the loss.
        select: "argmax" of the wishes, or "perturbation": by what the network loses without an
            option.

    """

    sampler: str = "gumbel"
    warm: float = 5.0
    cool: float = 0.5
    settle: float = 0.25
    sandwich: int = 3
    wishes_every: int = 0
    two_sided: bool = True
    sharpen: bool = True
    decide: float = _DECIDED
    split: bool = False
    partial: int = 0
    edges: bool = False
    relaxed: float = 0.0
    select: Literal["argmax", "perturbation"] = "argmax"

    def progress(self, step: int, steps: int) -> float:
        """Return how far a search of so many steps is, below 0 while weights settle."""
        first = self.settle * steps
        return (step - first) / max(1.0, steps - first)

    def of_wishes(self, step: int) -> bool:
        """Say whether a step of a bilevel search is one of the wishes."""
        return bool(self.wishes_every) and step % self.wishes_every == 0

    def half(self, step: int, steps: int) -> int | None:
        """Return which half of the data a step learns from: 1 is the wishes'; None is both."""
        if self.relaxed:
            return None
        return int(self.progress(step, steps) >= 0 and self.of_wishes(step))


_PLAIN: dict[str, Any] = {"sandwich": 0, "two_sided": False, "sharpen": False, "decide": 0.0}
_SUMS: dict[str, Any] = {**_PLAIN, "sampler": "softmax", "warm": 1.0, "cool": 1.0, "split": True}
WAYS: Mapping[str, Way] = {
    "zoo": Way(),
    # Wu et al., arXiv 1812.03443: Gumbel softmax, weights and wishes in turn.
    "fbnet": Way(**_PLAIN, wishes_every=5, split=True),
    # Cai et al., arXiv 1812.00332: one path at a time, gates instead of sums.
    "proxylessnas": Way(
        **_PLAIN, sampler="binary-gate", warm=1.0, cool=1.0, wishes_every=2, split=True
    ),
    # Liu et al., arXiv 1806.09055, to the first order: all paths, in turn.
    "darts": Way(**_SUMS, settle=0.1, wishes_every=2),
    # Wang et al., arXiv 2108.04392: DARTS, decided by perturbation.
    "darts-pt": Way(**_SUMS, settle=0.1, wishes_every=2, select="perturbation"),
    # Xu et al., arXiv 1907.05737: DARTS on a few channels, with edges that are normalised.
    "pc-darts": Way(**_SUMS, settle=0.3, wishes_every=2, partial=4, edges=True),
    # Xue et al., arXiv 2008.03901: min L1(w, a) + L2(y, a) + b / 2 |w - y|^2, all in each step.
    "rarts": Way(**_SUMS, settle=0.1, relaxed=0.1),
    # Stamoulis et al., arXiv 1904.02877: one path with shared weights, all trained together.
    "single-path": Way(**_PLAIN, sampler="straight-through", warm=1.0, cool=1.0),
}
