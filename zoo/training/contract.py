"""What the training loop requires of what it trains, and of the parts it is composed of.

A `Trainee` says what is trained, judged and written. A `Hook` is a part that may change the
targets of a batch or look on after a step. An `Update` makes one step of an optimizer.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Data, Task
from zoo.training.progress import Progress

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class Setup:
    """Where a run takes place.

    Attributes:
        accelerator: the `Accelerator` of Accelerate.
        task: the module of `zoo.tasks` that feeds and judges.
        data: the task's training data, with `fingerprint` and `facts`.
        out: the run folder.
        license: licence of the data, and hence of what is trained.

    """

    accelerator: "Accelerator"
    task: Task
    data: Any
    out: Path
    license: str


class Candidate(NamedTuple):
    """A network to judge, with its tensors and integer ranges, to keep if it is the best."""

    network: nn.Module
    tensors: Mapping[str, Tensor]
    ranges: Any = None


class Trainee(Protocol):
    """What a run trains, and what becomes of it.

    Attributes:
        recipe: what the task reads; its `train` says how it is trained.
        result: name of the file that says a result is in the run folder.

    """

    recipe: Recipe
    result: str

    def training_data(self, task: Task, source: str) -> Data:
        """Return the task's training data."""

    def build(self, setup: Setup) -> nn.Module:
        """Return the module whose parameters are trained and averaged, the same everywhere."""

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        """Hand over to Accelerate what is trained; return its optimizer."""

    @property
    def module(self) -> nn.Module:
        """The module whose gradients Accelerate accumulates."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs that the task's loss takes, for the task's inputs."""

    def collect(self) -> None:
        """Bring the gradients of all processes to what is trained, after a step's backward."""

    def use(self) -> None:
        """Compute with the current values, after a step and after a state is read."""

    def candidate(self, averaged: nn.Module | None) -> AbstractContextManager[Candidate]:
        """Lend the network to judge, with averaged parameters or with those being trained.

        Args:
            averaged: the averages of what `build` returned; None for the values being trained.

        """

    def identity(self) -> Mapping[str, Any]:
        """Return the recipe that a run must have to be resumed, as JSON types, with its `name`."""

    def start(self) -> Mapping[str, Any]:
        """Return what else a state records of the start, as JSON types; {} is left out."""

    def check(self, start: Mapping[str, Any]) -> None:
        """Refuse to resume from another start.

        Raises:
            MismatchError: the start of this run differs.

        """

    def is_complete(self) -> bool:
        """Say whether the run folder holds the result of a run that reached its last step."""

    def write(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Write the best so far into the run folder.

        Args:
            progress: the best tensors and scores.
            metrics: what to record next to them, as JSON types.

        """

    def close(self) -> None:
        """Give back what was borrowed, however the run ended."""


class Hook:
    """A part of a run. A subclass defines the moments it takes part in."""

    def begin(self, setup: Setup, trained: nn.Module) -> None:
        """Set up, before Accelerate wraps what is trained."""

    def prepared(self, setup: Setup) -> None:
        """Register what a state must keep, after Accelerate has wrapped what is trained."""

    def targets(self, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """Return the targets that a batch is trained towards; called under autocast.

        Args:
            inputs: inputs of one micro-batch.
            targets: those of the data, or of the hook before.
            step: number of the optimizer step, from 0.

        """
        return targets

    def starting(self, step: int) -> None:
        """Prepare for an optimizer step, numbered from 0."""

    def loss(self, loss: Tensor) -> Tensor:
        """Return the loss of one micro-batch with what the part adds to it.

        Args:
            loss: the task's, or what the hook before made of it.

        """
        return loss

    def stepped(self, trained: nn.Module) -> None:
        """Look at the parameters after an optimizer step."""


class Passes(Protocol):
    """The passes over one step's batch; each call is a whole pass, over every micro-batch."""

    def backward(self) -> Tensor:
        """Compute the gradients over all processes, clipped; return the mean loss of this one."""

    def forward(self) -> Tensor:
        """Return the mean loss of this process, without gradients."""


class Update(Protocol):
    """How an optimizer step is made of passes: one backward pass, several, or none at all."""

    def __call__(self, passes: Passes, optimizer: Optimizer) -> Tensor:
        """Do one step and clear the gradients; return this process's loss, for the log."""
