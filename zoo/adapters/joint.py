"""Training a base together with its sparse adapters, and then for mixtures of them.

An adapter that is fitted to an ordinary base has to make do with the features it finds. Here all
are trained in one loop: each step passes once through the base alone and once through the base
with each adapter. After `train.options.alone` of the steps, strengths and mixtures are drawn
instead, so that weights that add up make pictures that go together:

| passes of a step | strengths |
|---|---|
| the base | none |
| three singles | 1, or drawn from [0, 1] |
| three pairs | 1 + 1, t + (1 - t), or both drawn |
| several at once | three or more, drawn or all 1 |

The task says what a mixture's target is: `mixed_data`, `mixed_batch` and `mixed_scores`, see
`zoo.tasks.picture`. A run folder holds the base's checkpoint, a folder `adapters/<name>` of each
adapter, `mask-*.safetensors`, `log.jsonl` and the state to resume from.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zoo.adapters import masks
from zoo.adapters.folder import write_folder
from zoo.adapters.fused import Mixed, Together
from zoo.adapters.recipe import AdapterRecipe
from zoo.errors import MismatchError, ZooError
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.layout import CONFIG, UNSTATED
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Data, Task
from zoo.training.accelerator import accelerator_for
from zoo.training.contract import Candidate, Setup
from zoo.training.loop import Run
from zoo.training.progress import Progress

ADAPTERS = "adapters"
Strengths = Mapping[str, float]
_JUDGED_PAIRS = 8  # pairs at 1 + 1 that take part in choosing the checkpoint


def train(
    recipe: Recipe,
    adapters: Sequence[AdapterRecipe],
    out: Path,
    *,
    data: str,
    data_license: str = UNSTATED,
    resume: bool = False,
    tracker: str | None = None,
    device: str | None = None,
) -> Path:
    """Train a base with its adapters; return the run folder with a checkpoint of it and theirs.

    Args:
        recipe: of the base; its `train` says how all of it is trained.
        adapters: what is trained with it; of their own `train` only the filter counts.
        out: the run folder.
        data: what the task trains on.
        data_license: licence of that data, hence of base and adapters.
        resume: go on from the newest state; the result equals an uninterrupted run.
        tracker: of Accelerate, e.g. "tensorboard".
        device: "cpu" leaves an accelerator alone.

    Raises:
        MismatchError: no adapters; the task has no mixtures; settings or data do not fit; or a run
            is there and `resume` is off.
        ZooError: the loss became NaN or infinite.

    """
    accelerator = accelerator_for(recipe.name, recipe.train, out, tracker, device)
    trainee = BaseAndAdapters(recipe, adapters)
    JointRun(trainee, out, accelerator, data, data_license).execute(resume=resume, tracker=tracker)
    return out


def mixtures(names: Sequence[str], seed: int, step: int, *, alone: bool) -> list[dict[str, float]]:
    """Return the strengths of each pass of a step: a function of (seed, step) alone."""
    if alone:
        return [{}, *({name: 1.0} for name in names)]
    dice = np.random.Generator(np.random.Philox(key=[seed, 2**32 + step]))

    def some(count: int) -> list[str]:
        return [names[i] for i in dice.permutation(len(names))[: min(count, len(names))]]

    t, most = float(dice.random()), len(names)
    drawn = [dict.fromkeys(some(1), 1.0), dict.fromkeys(some(1), 1.0), dict.fromkeys(some(1), t)]
    if most > 1:
        first, second = some(2)
        halves = {first: t, second: 1 - t}
        drawn += [dict.fromkeys(some(2), 1.0), dict.fromkeys(some(2), 1.0), halves]
        drawn.append({name: float(dice.random()) for name in some(2)})
    if most > 2:
        several = some(int(dice.integers(3, most + 1)))
        whole = dice.random() < 0.4
        drawn.append({name: 1.0 if whole else float(dice.random()) for name in several})
    return [{}, *drawn]


class BaseAndAdapters:
    """A base and its adapters; see `zoo.training.contract.Trainee`.

    Args:
        recipe: of the base.
        adapters: recipes with different names, for the base's task.

    """

    result = CONFIG
    setup: Setup
    together: Together

    def __init__(self, recipe: Recipe, adapters: Sequence[AdapterRecipe]) -> None:
        if not adapters:
            raise MismatchError(
                f"no adapters to train with {recipe.name}; zoo adapter list shows named ones"
            )
        if len({adapter.name for adapter in adapters}) < len(adapters):
            raise MismatchError("two adapters have one name; each needs its own")
        for adapter in adapters:
            if adapter.task != recipe.subtask:
                raise MismatchError(f"{adapter.name} is for the task {adapter.task}, the base "
                                    f"{recipe.name} for {recipe.subtask}")  # fmt: skip
            if adapter.method != "shira" or adapter.mask.kind not in ("rand", "wm", "struct"):
                raise MismatchError(
                    f"{adapter.name} is trained by {adapter.method!r} with a mask of kind "
                    f"{adapter.mask.kind!r}; together with their base only 'shira' with rand, wm "
                    "or struct masks are, which need no trained base"
                )
        settings = recipe.train
        for name, value in (("compile", settings.compile), ("teacher", settings.teacher)):
            if value:
                raise MismatchError(f"train.{name} is not for a base with adapters")
        if settings.accumulation_steps > 1:
            raise MismatchError("train.accumulation_steps: a step has passes of its own here")
        share = settings.options.get("alone", 1.0)
        if not 0 <= share <= 1:
            raise MismatchError(f"train.options.alone is {share}; expected a share, 0 to 1")
        self.recipe, self.adapters = recipe, list(adapters)
        self.names = [adapter.name for adapter in adapters]

    def training_data(self, task: Task, source: str) -> Data:
        """Return what the task makes mixtures of."""
        needed = ("mixed_data", "mixed_batch", "mixed_scores")
        if missing := [name for name in needed if not hasattr(task, name)]:
            raise MismatchError(
                f"the task {self.recipe.subtask!r} has no {' and '.join(missing)}; a base with "
                "adapters is trained for mixtures, see zoo.tasks.picture"
            )
        return task.mixed_data(self.recipe, source)  # type: ignore[attr-defined]

    def build(self, setup: Setup) -> nn.Module:
        """Return the base, freshly initialised, and deltas of zero at each adapter's mask."""
        self.setup = setup
        network = build(self.recipe)
        indices = {a.name: masks.choose(network, a.mask) for a in self.adapters}
        self.together = Together(network, indices).to(setup.accelerator.device).train()
        return self.together

    def prepare(self, optimizer: Optimizer) -> Optimizer:
        """Prepare the optimizer alone: gradients are brought together in `collect`."""
        prepared: Optimizer = self.setup.accelerator.prepare(optimizer)
        self.setup.accelerator.register_for_checkpointing(self.together)
        return prepared

    @property
    def module(self) -> nn.Module:
        """Base and adapters."""
        return self.together

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the base alone."""
        outputs: Tensor = self.together(inputs, {})
        return outputs

    def collect(self) -> None:
        """Bring the gradients of all processes together."""
        accelerator = self.setup.accelerator
        if accelerator.num_processes > 1:
            for parameter in self.together.parameters():
                if parameter.grad is not None:  # the same ones in every process
                    parameter.grad = accelerator.reduce(parameter.grad, "mean")

    def use(self) -> None:
        """Do nothing: the weights are fused anew for every pass."""

    @contextmanager
    def candidate(self, averaged: nn.Module | None) -> Iterator[Candidate]:
        """Lend base and adapters, averaged or not."""
        together = self.together if averaged is None else averaged
        together.eval()
        try:
            yield Candidate(together, dict(together.state_dict()))
        finally:
            self.together.train()

    def filters(self, strengths: Strengths) -> dict[str, float]:
        """Return strengths by filter instead of adapter: what the task's targets are made of."""
        by_name = {a.name: str(a.train.options.get("filter", "")) for a in self.adapters}
        return {by_name[name]: strength for name, strength in strengths.items()}

    def judged(self) -> list[dict[str, float]]:
        """Return the mixtures that choose the checkpoint: each alone, some pairs, all, none."""
        pairs = list(combinations(self.names, 2))
        stride = max(1, len(pairs) // _JUDGED_PAIRS)
        chosen = [(name,) for name in self.names] + pairs[::stride] + [tuple(self.names)]
        return [{}, *(dict.fromkeys(names, 1.0) for names in dict.fromkeys(chosen))]

    def identity(self) -> dict[str, Any]:
        """Return the recipes without what says nothing about the training."""
        kept = []
        for adapter in self.adapters:
            facts = adapter.to_json()
            kept.append({key: facts[key] for key in ("name", "base", "mask", "train")})
        return {**self.recipe.to_json(), "adapters": {str(a["name"]): a for a in kept}}

    def start(self) -> dict[str, Any]:
        """Return the digests of the masks."""
        return {name: masks.digest(mask) for name, mask in self.together.indices.items()}

    def check(self, start: Mapping[str, Any]) -> None:
        """Refuse to go on with other masks."""
        if start != self.start():
            raise MismatchError(
                f"{self.setup.out} was trained with other masks; start in another folder"
            )

    def is_complete(self) -> bool:
        """Say whether the checkpoint is that of the last step."""
        try:
            return Checkpoint.read(self.setup.out).metrics["training"]["complete"] is True
        except (ZooError, KeyError):
            return False

    def write(self, progress: Progress, metrics: dict[str, Any]) -> None:
        """Write the adapters' folders, then the base's checkpoint."""
        setup, best = self.setup, progress.best
        prefix = "base."
        base = {k.removeprefix(prefix): v for k, v in best.items() if k.startswith(prefix)}
        facts = {**setup.data.facts, "license": setup.license}
        for adapter in self.adapters:
            flat = best[f"deltas.{adapter.name}"]
            look = str(adapter.train.options.get("filter", ""))
            source = {"source": f"{facts['source']}, filter {look}"}
            recipe = dataclasses.replace(adapter, data={**facts, **source})
            mask = {name: part.cpu() for name, part in self.together.indices[adapter.name].items()}
            pairs = {
                name: (mask[name], values)
                for name, values in self.together.split(adapter.name, flat).items()
            }
            folder = setup.out / ADAPTERS / adapter.name
            folder.mkdir(parents=True, exist_ok=True)
            write_folder(folder, recipe, (pairs, base), {**metrics, "trained_values": len(flat)})
        Checkpoint.write(
            setup.out,
            self.recipe,
            base,
            {**metrics, "training": {**metrics["training"], "adapters": self.names}},
            license=setup.license,
            data=setup.data.facts,
        )

    def close(self) -> None:
        """Do nothing: the network is the run's own."""


class JointRun(Run):
    """The loop of `zoo.training` with steps of several passes, each with its own strengths."""

    trainee: BaseAndAdapters

    def _step(self, step: int) -> Tensor:
        """Do one optimizer step over the passes of `mixtures`; return their mean loss."""
        trainee, accelerator, settings = self.trainee, self.accelerator, self.settings
        share = float(settings.options.get("alone", 1.0))
        drawn = mixtures(trainee.names, settings.seed, step, alone=step < share * settings.steps)
        size = settings.batch_size
        total = size * accelerator.num_processes * len(drawn)
        mean = torch.zeros((), device=accelerator.device)
        for number, strengths in enumerate(drawn):
            first = (number * accelerator.num_processes + accelerator.process_index) * size
            inputs, targets = (
                part.to(accelerator.device)
                for part in self.task.mixed_batch(  # type: ignore[attr-defined]
                    self.data, self.recipe, step, range(first, first + size), total,
                    trainee.filters(strengths),
                )
            )  # fmt: skip
            with accelerator.autocast():
                outputs = trainee.together(inputs, strengths)
            loss = self.task.loss(outputs.float(), targets) / len(drawn)
            accelerator.backward(loss)
            mean += loss.detach()
        trainee.collect()
        if settings.clip_norm:
            accelerator.clip_grad_norm_(self.trained.parameters(), settings.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for hook in self.hooks:
            hook.stepped(self.trained)
        reduced: Tensor = accelerator.reduce(mean, "mean")
        return reduced

    def _validate(self) -> None:
        """Score base and adapters, alone and mixed, on held-out data; keep the best."""
        key = self.task.FACTS.select_by
        with self.trainee.candidate(self.average.module) as candidate:
            scores: dict[str, float] = {}
            for strengths in self.trainee.judged():
                network = Mixed(candidate.network, strengths).eval()  # type: ignore[arg-type]
                score = self.task.mixed_scores(  # type: ignore[attr-defined]
                    network, self.data, self.trainee.filters(strengths)
                )
                self._check_finite(f"held-out {key}", score)
                scores["+".join(strengths) or "base"] = score
            mean = sum(scores.values()) / len(scores)
            self._log({f"held_out/{name}": value for name, value in {**scores, key: mean}.items()})
            self.progress.offer(mean, {key: mean}, candidate.tensors, None)
