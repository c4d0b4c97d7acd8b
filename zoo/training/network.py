"""Training a whole network: the trainee behind `zoo train`."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.errors import MismatchError, ZooError
from zoo.models.forms import deployed_form, load_deployed, stored_form, training_form
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.layout import CONFIG, UNSTATED
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Data, Task
from zoo.training.accelerator import accelerator_for
from zoo.training.batch_norms import share_batch_norms
from zoo.training.contract import Candidate, Hook, Setup
from zoo.training.hooks import Phases, Teacher
from zoo.training.loop import Run
from zoo.training.progress import Progress

_CALIBRATION_STEPS = 8  # batches of the first steps, from which a quantized form learns ranges
# From a deployed network, inputs and `Train.quant` to the form that is trained.
Quantizer = Callable[[nn.Module, Sequence[Tensor], str], nn.Module]


def train(
    recipe: Recipe,
    out: Path,
    *,
    data: str,
    data_license: str = UNSTATED,
    init: nn.Module | None = None,
    teacher: nn.Module | None = None,
    resume: bool = False,
    tracker: str | None = None,
    device: str | None = None,
    quantizer: Quantizer | None = None,
) -> Checkpoint:
    """Train a recipe and return the checkpoint that is best on held-out data.

    Args:
        recipe: what to train and how; its `train` settings are the record.
        out: the run folder.
        data: what the task trains on: a folder, or a Hub data set id.
        data_license: licence of that data, and hence of the weights; goes on the card.
        init: a deployed network to start from.
        teacher: a network whose outputs replace the data's targets.
        resume: continue from the newest state in `out`; the result equals an uninterrupted run.
        tracker: name of a tracker of Accelerate, e.g. "tensorboard".
        device: "cpu" to leave an accelerator unused; otherwise Accelerate chooses.
        quantizer: makes the training form if the recipe has `train.quant`, see
            `zoo.quantization.int8.qat.training_form`.

    Raises:
        MismatchError: `out` holds a run and `resume` is off, or a run of another recipe or data.
        ZooError: the loss became NaN or infinite; the last good checkpoint is kept.

    """
    accelerator = accelerator_for(recipe.name, recipe.train, out, tracker, device)
    hooks: list[Hook] = [Phases(recipe.train.steps)]
    if teacher is not None:
        hooks.append(Teacher(teacher, recipe))
    network = WholeNetwork(recipe, init, quantizer, teacher)
    run = Run(network, out, accelerator, data, data_license, hooks=hooks)
    run.execute(resume=resume, tracker=tracker)
    return Checkpoint.read(out)


class WholeNetwork:
    """Every parameter of a recipe's network; see `zoo.training.contract.Trainee`.

    Args:
        recipe: what to train and how.
        init: a deployed network to start from.
        quantizer: see `train`.
        teacher: what a hook lends the targets of; here it is only known again by its weights.

    """

    result = CONFIG
    setup: Setup
    module: nn.Module  # as Accelerate wraps it

    def __init__(
        self,
        recipe: Recipe,
        init: nn.Module | None = None,
        quantizer: Quantizer | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.recipe, self.init, self.quantizer = recipe, init, quantizer
        others = {"init": init, "teacher": teacher}
        self.weights = {key: _digest(n) for key, n in others.items() if n is not None}

    def training_data(self, task: Task, source: str) -> Data:
        """Return the task's training data."""
        return task.training_data(self.recipe, source)

    def build(self, setup: Setup) -> nn.Module:
        """Return the training form, initialised from the given weights if there are any."""
        self.setup, settings = setup, self.recipe.train
        model = build(self.recipe)
        if settings.quant is None:
            try:
                model = training_form(model, settings.options)
            except (TypeError, ValueError, RuntimeError) as error:
                raise MismatchError(
                    f"train.options {dict(settings.options)} do not fit {self.recipe.name}: {error}"
                ) from error
        if self.init is not None:
            try:
                load_deployed(model, stored_form(self.init)[0])
            except (ValueError, RuntimeError) as error:
                # torch lists every layer that does not fit: the first one says enough.
                first = " ".join(str(error).split()).partition(" size mismatch for ")
                reason = first[2].partition(" size mismatch for ")[0] or first[0]
                raise MismatchError(
                    f"{self.recipe.name} cannot start from these weights: {reason.rstrip('.')}; "
                    "give args as theirs, e.g. --set args.width=8, or start anew: --from none"
                ) from error
        if settings.quant is not None:
            if self.quantizer is None:
                raise MismatchError(f"train.quant is {settings.quant!r}, without a quantizer")
            model = self.quantizer(deployed_form(model), self._first_inputs(), settings.quant)
        if setup.accelerator.num_processes > 1:
            share_batch_norms(model)
        self.module = model
        return model

    def _first_inputs(self) -> list[Tensor]:
        """Return the inputs of the first steps, each with those of all processes."""
        setup = self.setup
        size = self.recipe.train.batch_size * setup.accelerator.num_processes
        return [
            setup.task.batch(setup.data, self.recipe, step, range(size), size)[0]
            for step in range(_CALIBRATION_STEPS)
        ]

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        """Let Accelerate wrap the network, and compile it if the settings say so."""
        prepared: Optimizer
        self.module, prepared = self.setup.accelerator.prepare(self.module, optimizer)
        compiled = self.recipe.train.compile
        self._called: Any = torch.compile(self.module) if compiled else self.module
        return prepared

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs.

        Raises:
            MismatchError: a batch norm has one value a channel, of which there is no variance.

        """
        try:
            outputs: Tensor = self._called(inputs)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise MismatchError(
                f"train.batch_size is {self.recipe.train.batch_size}: batch norms of "
                f"{self.recipe.name} see one value a channel, which has no variance; type: "
                "--set train.batch_size=2, or more"
            ) from error
        return outputs

    def collect(self) -> None:
        """Do nothing: the wrapped network's backward pass has already reduced the gradients."""

    def use(self) -> None:
        """Do nothing: the network computes with its own parameters."""

    @contextmanager
    def candidate(self, averaged: nn.Module | None) -> Iterator[Candidate]:
        """Lend the deployed form."""
        unwrap = self.setup.accelerator.unwrap_model
        form = unwrap(self.module) if averaged is None else averaged
        model = deployed_form(form)
        network, ranges = stored_form(model)
        yield Candidate(model, network.state_dict(), ranges)

    def identity(self) -> dict[str, Any]:
        """Return the recipe, and the digests of the weights that it names."""
        return {**self.recipe.to_json(), "weights": self.weights}

    def start(self) -> dict[str, Any]:
        """Return nothing: the recipe says it all."""
        return {}

    def check(self, start: Any) -> None:
        """Do nothing: there is no other start."""

    def is_complete(self) -> bool:
        """Say whether the checkpoint is that of the last step."""
        try:
            return Checkpoint.read(self.setup.out).metrics["training"]["complete"] is True
        except (ZooError, KeyError):
            return False

    def write(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Write the checkpoint."""
        recipe, setup = self.recipe, self.setup
        quant = recipe.train.quant
        Checkpoint.write(
            setup.out,
            recipe,
            progress.best,
            metrics,
            tag=f"{recipe.default_tag}-{quant}" if quant else None,
            license=setup.license,
            data=setup.data.facts,
            quantization=progress.best_quantization,
        )

    def close(self) -> None:
        """Do nothing: the network is the run's own."""


def _digest(network: nn.Module) -> str:
    """Return the SHA-256 of a network's names and values."""
    state = hashlib.sha256()
    for name, value in network.state_dict().items():
        state.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        state.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()
