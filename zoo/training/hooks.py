"""Hooks of the training loop: the moving average of what is trained, phases, and a teacher."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe
from zoo.training.contract import Hook, Setup


class MovingAverage(Hook):
    """An exponential moving average of parameters and buffers; a copy if the decay is 0."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @property
    def module(self) -> nn.Module | None:
        """The averages, as a module; None without a decay."""
        return self._average.module if self.decay else None

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Start with the first parameters; a copy made later would call Accelerate's wrappers."""
        function = get_ema_multi_avg_fn(self.decay)
        self._average = AveragedModel(trained, multi_avg_fn=function, use_buffers=True)
        self._average.to(setup.accelerator.device)

    def prepared(self, setup: Setup) -> None:
        """Be a part of every state."""
        setup.accelerator.register_for_checkpointing(self._average)

    def stepped(self, trained: nn.Module) -> None:
        """Take in the new parameters."""
        self._average.update_parameters(trained)


class Phases(Hook):
    """Tells a training form that has `advance` how far its run is; see `zoo.models.forms`.

    Args:
        steps: of the run.

    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Keep the form, which Accelerate wraps later."""
        self._advance: Any = getattr(trained, "advance", None)

    def starting(self, step: int) -> None:
        """Say which share of the run is done."""
        if self._advance is not None:
            self._advance(step / self.steps)


class Teacher(Hook):
    """A network whose outputs replace the data's targets (distillation).

    Args:
        network: the deployed teacher.
        recipe: the recipe that learns from it.

    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        self.network, self.recipe = network, recipe

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Move to the device."""
        self._task = setup.task
        self.network = self.network.to(setup.accelerator.device).eval().requires_grad_(False)
        if self.recipe.train.compile:
            self.network = cast(nn.Module, torch.compile(self.network))

    def targets(self, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """Return the teacher's outputs: targets without the noise of the data's."""
        with torch.no_grad():
            if hasattr(self._task, "taught"):
                taught: Tensor = self._task.taught(self.network, inputs, self.recipe, step)
            else:
                taught = self.network(inputs)
        if taught.shape != targets.shape:
            raise MismatchError(
                f"train.teacher {self.recipe.train.teacher} returns {tuple(taught.shape)}; "
                f"expected {tuple(targets.shape)}, as the data of {self.recipe.name} have it"
            )
        return taught.float()
