"""One visible training loop, under Accelerate: any device, any number of processes, exact resume.

What is trained is a `Trainee` (see `zoo.training.contract`): a whole network, or a few values of
one. A run folder holds the result chosen so far, a log and the state to resume from (see
`zoo.training.run_folder`). Batches and learning rate are functions of the step alone, so a state
holds only tensors: weights, moving average, optimizer and random generators.
"""

import dataclasses
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.errors import ZooError
from zoo.files import check_name, probe
from zoo.registry.codec import leaves
from zoo.registry.recipe import Train
from zoo.tasks import task_of
from zoo.training.contract import Hook, Setup, Trainee, Update
from zoo.training.hooks import MovingAverage
from zoo.training.optimizers import make_optimizer
from zoo.training.progress import Progress
from zoo.training.run_folder import RunFolder
from zoo.training.updates import update_for

if TYPE_CHECKING:
    from accelerate import Accelerator


def learning_rate(train: Train, step: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then half a cosine to zero.

    The warm-up is at most a fifth of the steps: a recipe's settings are for its own, long run, and
    a short one would otherwise end before it has learned anything.
    """
    warmup = min(train.warmup_steps, train.steps // 5)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, train.steps - warmup)
    return train.lr * 0.5 * (1 + math.cos(math.pi * progress))


def average_decay(train: Train) -> float:
    """Return the decay of the moving average: over half of the steps at most.

    The average of a short run would otherwise stay where the run started.
    """
    return min(train.ema_decay, max(0.0, 1 - 2 / train.steps))


class Run:
    """One training run; `loop` is the training itself.

    Args:
        trainee: what is trained.
        out: the run folder.
        accelerator: see `zoo.training.accelerator`.
        source: where the data come from.
        license: licence of the data.
        hooks: parts that may change a batch's targets or look on after a step.
        update: how a step is done; None: as the settings say.

    """

    trained: nn.Module
    optimizer: Optimizer

    def __init__(
        self,
        trainee: Trainee,
        out: Path,
        accelerator: "Accelerator",
        source: str,
        license: str,
        *,
        hooks: Sequence[Hook] = (),
        update: Update | None = None,
    ) -> None:
        self.trainee, self.recipe, self.settings = trainee, trainee.recipe, trainee.recipe.train
        self.accelerator, self.out, self.update = accelerator, check_name(out), update
        self.folder = RunFolder(out, trainee.result)
        self.task = task_of(self.recipe)
        # The main process prepares the data, the others find them in the cache; `finally`, so
        # that unusable data gives the same clear error in every process.
        if not accelerator.is_main_process:
            accelerator.wait_for_everyone()
        try:
            self.data = trainee.training_data(self.task, source)
        finally:
            if accelerator.is_main_process:
                accelerator.wait_for_everyone()
        self.setup = Setup(accelerator, self.task, self.data, out, license)
        self.average = MovingAverage(average_decay(self.settings))
        self.hooks = (self.average, *hooks)
        self.progress = Progress()

    def execute(self, *, resume: bool = False, tracker: str | None = None) -> None:
        """Start or resume, and train to the end."""
        from accelerate.utils import set_seed

        try:
            state = self.open_folder(resume)
            set_seed(self.settings.seed)
            self.start()
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
        finally:
            self.trainee.close()

    # --- setting up ---------------------------------------------------------------------------

    def open_folder(self, resume: bool) -> Path | None:
        """Make the run folder; return the state to resume from, or None to start."""
        state = self.folder.newest(resume)
        if state is not None:
            self.folder.check(state, self._identity())
            return state
        self.accelerator.wait_for_everyone()  # no process writes before all have looked
        probe(self.out)
        if self.accelerator.is_main_process:
            self.folder.clear()
        return None

    def _identity(self) -> dict[str, Any]:
        return {
            "recipe": self.trainee.identity(),
            "data": self.data.fingerprint,
            "processes": self.accelerator.num_processes,
        }

    def start(self) -> None:
        """Build what is trained, its optimizer and the hooks."""
        self.trained = self.trainee.build(self.setup)
        for hook in self.hooks:
            hook.begin(self.setup, self.trained)
        optimizer = make_optimizer(self.settings, self.trained.parameters())
        self.optimizer = self.trainee.prepare(optimizer)
        self.step_by = self.update or update_for(self.settings, self.trained)
        for hook in self.hooks:
            hook.prepared(self.setup)

    # --- the loop -----------------------------------------------------------------------------

    def loop(self) -> None:
        """Train until it is finished; log, validate and save on the way."""
        settings, progress, accelerator = self.settings, self.progress, self.accelerator
        bar = self._bar()
        started = time.perf_counter() - progress.seconds
        running = torch.tensor(progress.loss, device=accelerator.device)
        while not self._finished():
            rate = learning_rate(settings, progress.step)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            running += self._step(progress.step)
            progress.step += 1
            progress.losses += 1
            progress.seconds = time.perf_counter() - started
            bar.update()
            last = progress.step == settings.steps
            log, evaluate, save = (
                last or progress.step % every == 0
                for every in (settings.log_every, settings.eval_every, settings.save_every)
            )
            if log or evaluate or save:
                progress.loss = running.item()
                self._check_finite("loss", progress.loss)
            if log:
                self._log({"loss": progress.loss / progress.losses, "lr": rate})
                progress.loss, progress.losses = 0.0, 0
                running.zero_()
            if evaluate:
                self._validate()
            if save or self._finished():
                self._save(self._finished())
        bar.close()
        if accelerator.is_main_process and not self.trainee.is_complete():
            self._write_result(last=True)  # killed between the last state and its result
        accelerator.wait_for_everyone()

    def _finished(self) -> bool:
        """Say whether all steps are done, or too many evaluations found nothing better."""
        settings, progress = self.settings, self.progress
        if progress.step >= settings.steps or not settings.patience:
            return progress.step >= settings.steps
        since = (progress.step - progress.best_step) // settings.eval_every
        return progress.best_score is not None and since >= settings.patience

    def _step(self, step: int) -> Tensor:
        """Do one optimizer step; return its mean loss over processes and micro-batches."""
        for hook in self.hooks:
            hook.starting(step)
        loss = self.step_by(_Passes(self, step), self.optimizer)
        self.trainee.use()
        for hook in self.hooks:
            hook.stepped(self.trained)
        mean: Tensor = self.accelerator.reduce(loss, "mean")
        return mean

    def _check_finite(self, quantity: str, value: float) -> None:
        if not math.isfinite(value):
            kept = f"the last good checkpoint is in {self.out}"
            if not self.folder.has_result:
                kept = "no checkpoint had been written yet"
            raise ZooError(
                f"the {quantity} is {value} at step {self.progress.step}; stopped, {kept}. "
                "Try a smaller rate: --set train.lr="
                f"{self.settings.lr / 4:g}"
            )

    def _validate(self) -> None:
        """Score the candidate with averaged weights on held-out data; keep the best."""
        with self.trainee.candidate(self.average.module) as candidate:
            scores = self.task.validate(candidate.network, self.data, self.recipe)
            for name, value in scores.items():
                self._check_finite(f"held-out {name}", value)
            self._log({f"held_out/{name}": value for name, value in scores.items()})
            merit = self.task.FACTS.merit(scores)
            self.progress.offer(merit, scores, candidate.tensors, candidate.ranges)

    # --- what is written ----------------------------------------------------------------------

    def _save(self, last: bool) -> None:
        """Write the state, then the result."""
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
        facts = {"identity": self._identity(), "progress": self.progress.write(state)}
        if start := self.trainee.start():
            facts["start"] = dict(start)
        self.folder.keep(step, facts)
        self._write_result(last)

    def load_state(self, state: Path) -> None:
        """Continue a run from `state`."""
        facts = self.folder.facts(state)
        if "start" in facts:
            self.trainee.check(facts["start"])
        self.folder.remove_orphans()
        self.accelerator.load_state(str(state))
        self.progress = Progress.read(state, facts["progress"])
        if self.accelerator.is_main_process:
            self.folder.cut_log(self.progress.step)
        self.trainee.use()

    def _write_result(self, last: bool) -> None:
        if self.progress.best:
            self.trainee.write(self.progress, self._metrics(last))

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


class _Passes:
    """The passes of one step; see `zoo.training.contract.Passes`."""

    def __init__(self, run: Run, step: int) -> None:
        self.run, self.step = run, step

    def backward(self) -> Tensor:
        """Compute the gradients over all processes, clipped; return the mean loss of this one."""
        run = self.run
        loss = self._over_parts(run.accelerator.backward)
        run.trainee.collect()
        if run.settings.clip_norm:
            run.accelerator.clip_grad_norm_(run.trained.parameters(), run.settings.clip_norm)
        return loss

    def forward(self) -> Tensor:
        """Return the mean loss of this process, without gradients."""
        with torch.no_grad():
            return self._over_parts(lambda loss: None)

    def _over_parts(self, use: Callable[[Tensor], Any]) -> Tensor:
        """Hand the loss of each micro-batch to `use`; return their mean."""
        run, accelerator = self.run, self.run.accelerator
        size, parts = run.settings.batch_size, run.settings.accumulation_steps
        total = size * parts * accelerator.num_processes
        mean = torch.zeros((), device=accelerator.device)
        for part in range(parts):
            first = (part * accelerator.num_processes + accelerator.process_index) * size
            rows = range(first, first + size)
            inputs, targets = (
                x.to(accelerator.device)
                for x in run.task.batch(run.data, run.recipe, self.step, rows, total)
            )
            with accelerator.accumulate(run.trainee.module):
                with accelerator.autocast():
                    for hook in run.hooks:
                        targets = hook.targets(inputs, targets, self.step)
                    outputs = run.trainee.forward(inputs)
                loss = whole = self._loss(outputs.float(), targets)
                for hook in run.hooks:
                    whole = hook.loss(whole)
                use(whole)
            mean += loss.detach() / parts
        return mean

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss, so that the mean over processes is that of their whole batch."""
        task: Any = self.run.task
        divisors, accelerator = getattr(task, "divisors", None), self.run.accelerator
        if divisors is None or accelerator.num_processes == 1:
            loss: Tensor = task.loss(outputs, targets)
        else:
            all_of_them = accelerator.reduce(divisors(targets), "sum").clamp_min(1)
            loss = task.loss(outputs, targets, all_of_them / accelerator.num_processes)
        return loss
