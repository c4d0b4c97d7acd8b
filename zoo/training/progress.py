"""How far a training run has got, and the best it has found so far."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

BEST = "best.pt"


@dataclasses.dataclass
class Progress:
    """What a state keeps besides the optimizer's tensors.

    Attributes:
        step: optimizer steps done.
        seconds: time spent on them, over all resumptions.
        loss: the sum of the losses that are in no line of the log yet.
        losses: how many they are.
        best_score: score on held-out data, larger is better; None before the first validation.
        best_step: the step at which it was reached.
        best_metrics: all held-out scores at that step.
        best: the tensors that reached it.
        best_quantization: their ranges, if they are trained for integers.

    """

    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    losses: int = 0
    best_score: float | None = None
    best_step: int = 0
    best_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    best: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    best_quantization: dict[str, Any] | None = None

    def offer(
        self, score: float, metrics: dict[str, float], tensors: Mapping[str, Tensor], ranges: Any
    ) -> None:
        """Keep a copy of tensors that score better than all before; of equals the first stays."""
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_step, self.best_metrics = score, self.step, metrics
            self.best_quantization = ranges
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def write(self, state: Path) -> dict[str, Any]:
        """Write the best tensors into a state; return the rest as JSON types."""
        facts = dataclasses.asdict(self)
        torch.save(facts.pop("best"), state / BEST)
        return facts

    @classmethod
    def read(cls, state: Path, facts: Mapping[str, Any]) -> Self:
        """Return what `write` left in a state."""
        return cls(**facts, best=torch.load(state / BEST, weights_only=True))
