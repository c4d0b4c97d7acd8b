"""One visible training loop, under Accelerate: any device, any number of processes, exact resume.

A run folder holds the checkpoint chosen so far (see `zoo.registry.checkpoint`), a log and the
state to resume from (see `zoo.training.run_folder`). Batches and learning rate are functions of the
step alone, so a state is only tensors: weights, moving average, optimizer, random generators.
"""

import dataclasses
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from zoo.errors import MismatchError, ZooError
from zoo.files import probe
from zoo.models.forms import deployed_form, load_deployed, stored_form, training_form
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.codec import leaves
from zoo.registry.layout import CONFIG, UNSTATED
from zoo.registry.recipe import Recipe, Train
from zoo.tasks import task_of
from zoo.training.accelerator import accelerator_for
from zoo.training.optimizers import make_optimizer
from zoo.training.progress import Progress
from zoo.training.run_folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

_CALIBRATION_STEPS = 8  # batches of the first steps, which a quantized form learns ranges from
# From a deployed network, inputs and `Train.quant` to the form that is trained.
Quantizer = Callable[[nn.Module, Sequence[Tensor], str], nn.Module]


def learning_rate(train: Train, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then half a cosine to zero."""
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    progress = (step - train.warmup_steps) / max(1, train.steps - train.warmup_steps)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


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
    """Train a recipe and return the checkpoint that did best on held-out data.

    Args:
        recipe: what to train and how; its `train` settings are the record.
        out: the run folder.
        data: what the task trains on: a folder, or a Hub data set id.
        data_license: licence of that data, hence of the weights; goes on the card.
        init: a deployed network to start from.
        teacher: a network whose outputs take the place of the data's targets.
        resume: go on from the newest state in `out`; the result equals an uninterrupted run.
        tracker: name of a tracker of Accelerate, e.g. "tensorboard".
        device: "cpu" to leave an accelerator alone; the rest is Accelerate's to choose.
        quantizer: makes the training form where the recipe has `train.quant`, see
            `zoo.quantization.int8.qat.training_form`.

    Raises:
        MismatchError: `out` holds a run and `resume` is off, or resumes another recipe or data.
        ZooError: the loss became NaN or infinite; the last good checkpoint is kept.

    """
    accelerator = accelerator_for(recipe.name, recipe.train, out, tracker, device)
    run = Run(recipe, out, accelerator, data, data_license)
    run.quantizer, run.teacher = quantizer, teacher
    run.execute(init, resume, tracker)
    return Checkpoint.read(out)


class Run:
    """The pieces of one training run; `loop` is the training itself.

    What is trained is decided by the methods below "what is trained": here the whole network, in
    `zoo.adapters.training` a few of its values.
    """

    RESULT = CONFIG  # the file that says a result is in the folder
    quantizer: Quantizer | None = None
    teacher: nn.Module | None = None

    def __init__(
        self, recipe: Recipe, out: Path, accelerator: "Accelerator", data: str, license: str
    ) -> None:
        self.recipe, self.settings, self.out = recipe, recipe.train, out
        self.accelerator, self.license = accelerator, license
        self.folder = RunFolder(out, self.RESULT)
        self.task = task_of(recipe)
        # The main process prepares the data, the others find them in the cache; `finally`, so
        # that data which cannot be used are the same clear error in every process.
        if not accelerator.is_main_process:
            accelerator.wait_for_everyone()
        try:
            self.data = self._training_data(data)
        finally:
            if accelerator.is_main_process:
                accelerator.wait_for_everyone()
        self.progress = Progress()

    def execute(self, init: nn.Module | None, resume: bool, tracker: str | None) -> None:
        """Start or resume, and train to the last step."""
        from accelerate.utils import set_seed

        state = self.open_folder(resume)
        set_seed(self.settings.seed)
        self.start(init)
        if state is not None:
            self.load_state(state)
        if tracker:
            config = leaves(dataclasses.asdict(self.settings)).items()
            self.accelerator.init_trackers(
                self.recipe.name, config={k: v for k, v in config if v is not None}
            )
        try:
            self.loop()
        finally:
            self.accelerator.end_training()

    # --- what is trained ----------------------------------------------------------------------

    def _training_data(self, data: str) -> Any:
        return self.task.training_data(self.recipe, data)

    def _trained(self) -> nn.Module:
        """Return the module whose parameters are averaged."""
        return self.accelerator.unwrap_model(self.model)

    def _forward(self, inputs: Tensor) -> Tensor:
        return self.called(inputs)

    def _update(self) -> None:
        """Clip and step, at the last micro-batch of a step; Accelerate knows which that is."""
        if self.accelerator.sync_gradients and self.settings.clip_norm:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @contextmanager
    def _candidate(self) -> Iterator[tuple[nn.Module, Mapping[str, Tensor], Any]]:
        """Yield the network to judge; its tensors and ranges, to keep if it is the best so far."""
        averaged = self.average.module if self.settings.ema_decay else None
        model = deployed_form(averaged or self.accelerator.unwrap_model(self.model))
        network, quantization = stored_form(model)
        yield model, network.state_dict(), quantization

    # --- setting up ---------------------------------------------------------------------------

    def open_folder(self, resume: bool) -> Path | None:
        """Make the run folder; return the state to resume from, or None to start."""
        state = self.folder.newest(resume)
        if state is not None:
            self.folder.check(state, self._identity())
            return state
        self.accelerator.wait_for_everyone()  # nobody writes before everybody has looked
        probe(self.out)
        if self.accelerator.is_main_process:
            self.folder.clear()
        return None

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.to_json(),
            "data": self.data.fingerprint,
            "processes": self.accelerator.num_processes,
        }

    def _state_facts(self) -> dict[str, Any]:
        """Return what else a state records."""
        return {}

    def start(self, init: nn.Module | None) -> None:
        """Build model, moving average and optimizer."""
        model = build(self.recipe)
        if self.settings.quant is None:
            try:
                model = training_form(model, self.settings.options)
            except (TypeError, ValueError, RuntimeError) as error:
                raise MismatchError(
                    f"train.options {dict(self.settings.options)} do not fit "
                    f"{self.recipe.name}: {error}"
                ) from error
        if init is not None:
            try:
                load_deployed(model, stored_form(init)[0])
            except (ValueError, RuntimeError) as error:
                raise MismatchError(
                    f"{self.recipe.name} cannot start from these weights: {error}"
                ) from error
        if self.settings.quant is not None:
            if self.quantizer is None:
                raise MismatchError(f"train.quant is {self.settings.quant!r}, without a quantizer")
            model = self.quantizer(model, self._first_inputs(), self.settings.quant)
        decay = self.settings.ema_decay
        average = get_ema_multi_avg_fn(decay)
        self.average = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        self.average.to(self.accelerator.device)
        optimizer = make_optimizer(self.settings, model.parameters())
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.called = torch.compile(self.model) if self.settings.compile else self.model
        self.accelerator.register_for_checkpointing(self.average)
        if self.teacher is not None:
            self.teacher = self.teacher.to(self.accelerator.device).eval().requires_grad_(False)
            if self.settings.compile:
                self.teacher = cast(nn.Module, torch.compile(self.teacher))

    def _first_inputs(self) -> list[Tensor]:
        """Return the inputs of the first steps, the same in every process."""
        size = self.settings.batch_size
        return [
            self.task.batch(self.data, self.recipe, step, range(size), size)[0]
            for step in range(_CALIBRATION_STEPS)
        ]

    # --- the loop -----------------------------------------------------------------------------

    def loop(self) -> None:
        """Train to the last step; log, validate and save on the way."""
        settings, progress, accelerator = self.settings, self.progress, self.accelerator
        bar = self._bar()
        started = time.perf_counter() - progress.seconds
        running = torch.zeros((), device=accelerator.device)
        while progress.step < settings.steps:
            rate = learning_rate(settings, progress.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            running += self._step(progress.step)
            self.average.update_parameters(self._trained())
            progress.step += 1
            progress.seconds = time.perf_counter() - started
            bar.update()
            last = progress.step == settings.steps
            log, evaluate, save = (
                last or progress.step % every == 0
                for every in (settings.log_every, settings.eval_every, settings.save_every)
            )
            if log or evaluate or save:
                self._check_finite("loss", running.item())
            if log:
                self._log({"loss": running.item() / self._since_log(), "lr": rate})
                running.zero_()
            if evaluate:
                self._validate()
            if save:
                self._save(last)
        bar.close()
        if accelerator.is_main_process and not self._is_complete():
            self._write_checkpoint(last=True)  # killed between the last state and its checkpoint
        accelerator.wait_for_everyone()

    def _step(self, step: int) -> Tensor:
        """Do one optimizer step; return its mean loss over processes and micro-batches."""
        settings, accelerator = self.settings, self.accelerator
        size, parts = settings.batch_size, settings.accumulation_steps
        total = size * parts * accelerator.num_processes
        losses = torch.zeros((), device=accelerator.device)
        for part in range(parts):
            first = (part * accelerator.num_processes + accelerator.process_index) * size
            rows = range(first, first + size)
            inputs, targets = (
                x.to(accelerator.device)
                for x in self.task.batch(self.data, self.recipe, step, rows, total)
            )
            with accelerator.accumulate(self.model):
                with accelerator.autocast():
                    if self.teacher is not None:
                        targets = self._taught(self.teacher, inputs, targets.shape, step)
                    outputs = self._forward(inputs)
                value = self.task.loss(outputs.float(), targets)
                accelerator.backward(value)
                self._update()
            losses += value.detach() / parts
        mean: Tensor = accelerator.reduce(losses, "mean")
        return mean

    def _taught(
        self, teacher: nn.Module, inputs: Tensor, expected: torch.Size, step: int
    ) -> Tensor:
        """Return what the teacher makes of the inputs: targets without the noise of the data's."""
        with torch.no_grad():
            if hasattr(self.task, "taught"):
                targets = self.task.taught(teacher, inputs, self.recipe, step)
            else:
                targets = teacher(inputs)
        if targets.shape != expected:
            raise MismatchError(
                f"train.teacher {self.settings.teacher} returns {tuple(targets.shape)}; expected "
                f"{tuple(expected)}, as the data of {self.recipe.name} have it"
            )
        return targets.float()

    def _since_log(self) -> int:
        return self.progress.step % self.settings.log_every or self.settings.log_every

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            kept = f"the last good checkpoint is in {self.out}"
            if not self.folder.has_result:
                kept = "no checkpoint had been written yet"
            raise ZooError(
                f"the {what} is {value} at step {self.progress.step}; stopped, {kept}. "
                "Try a smaller rate: --set train.lr="
                f"{self.settings.lr / 4:g}"
            )

    def _validate(self) -> None:
        """Score the deployed form of the averaged weights on held-out data; keep the best."""
        with self._candidate() as (model, tensors, quantization):
            scores = self.task.validate(model, self.data, self.recipe)
            for name, value in scores.items():
                self._check_finite(f"held-out {name}", value)
            self._log({f"held_out/{name}": value for name, value in scores.items()})
            self.progress.offer(self.task.FACTS.merit(scores), scores, tensors, quantization)

    # --- what is written ----------------------------------------------------------------------

    def _save(self, last: bool) -> None:
        """Write the state, then the checkpoint."""
        step = self.progress.step
        state = self.folder.unfinished(step)
        if self.accelerator.is_main_process:
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(state))
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        progress = self.progress.write(state)
        facts = {"identity": self._identity(), "progress": progress, **self._state_facts()}
        self.folder.keep(step, facts)
        self._write_checkpoint(last)

    def load_state(self, state: Path) -> None:
        """Take up a run where `state` left it."""
        self.folder.remove_orphans()
        self.accelerator.load_state(str(state))
        self.progress = Progress.read(state, self.folder.facts(state)["progress"])
        if self.accelerator.is_main_process:
            self.folder.cut_log(self.progress.step)

    def _is_complete(self) -> bool:
        try:
            return Checkpoint.read(self.out).metrics["training"]["complete"] is True
        except (ZooError, KeyError):
            return False

    def _write_checkpoint(self, last: bool) -> None:
        if not self.progress.best:
            return
        Checkpoint.write(
            self.out,
            self.recipe,
            self.progress.best,
            self._metrics(last),
            tag=f"{self.recipe.default_tag}-{self.settings.quant}" if self.settings.quant else None,
            license=self.license,
            data=self.data.facts,
            quantization=self.progress.best_quantization,
        )

    def _metrics(self, last: bool) -> dict[str, Any]:
        """Return the held-out scores of the best, and how it was trained."""
        settings = self.settings
        return {
            "held_out": {
                **self.progress.best_metrics,
                self.task.FACTS.samples: len(self.data.held_out),
                "step": self.progress.best_step,
            },
            "training": {
                "steps": self.progress.step,
                "complete": last,
                "hours": round(self.progress.seconds / 3600, 3),
                "samples_per_step": settings.batch_size
                * settings.accumulation_steps
                * self.accelerator.num_processes,
                "processes": self.accelerator.num_processes,
                "device": self.accelerator.device.type,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }

    def _log(self, values: Mapping[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        self.accelerator.log(dict(values), step=self.progress.step)
        seconds = round(self.progress.seconds, 2)
        self.folder.log({"step": self.progress.step, "seconds": seconds, **values})

    def _bar(self) -> Any:
        from tqdm import tqdm

        quiet = not (self.accelerator.is_main_process and sys.stderr.isatty())
        return tqdm(
            desc=self.recipe.name,
            total=self.settings.steps,
            initial=self.progress.step,
            unit="step",
            disable=quiet,
            dynamic_ncols=True,
        )
