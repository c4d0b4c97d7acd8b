"""The options of a repair, for methods that offer one."""

from dataclasses import dataclass
from typing import Literal

from zoo.errors import MismatchError
from zoo.registry.options import check_seed


@dataclass(frozen=True, kw_only=True)
class RepairOptions:
    """How a network is repaired after its compression.

    Attributes:
        repair: what tunes it: "gradient" (Adam), "evolve" (scales of tensors, by mutation), or ""
            for no repair.
        repair_loss: distance from the float network's outputs: "mse", "kl" (of labels),
            "contrastive" (each input's outputs nearest to its own, InfoNCE), or "auto": kl where
            the outputs are logits of labels, else mse.
        repair_steps: steps of Adam; trials of the evolution.
        repair_rate: Adam's rate; the largest relative change of a scale.
        seed: seed of everything drawn at random.

    """

    repair: Literal["", "gradient", "evolve"] = ""
    repair_loss: Literal["auto", "mse", "kl", "contrastive"] = "auto"
    repair_steps: int = 60
    repair_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that are none of steps or of a rate."""
        if self.repair_steps < 1:
            raise MismatchError(f"repair_steps is {self.repair_steps}; expected 1 or more")
        if not 0 < self.repair_rate < 1:
            raise MismatchError(f"repair_rate is {self.repair_rate:g}; expected 0 < rate < 1")
        check_seed(self.seed)
