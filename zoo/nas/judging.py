"""How good a candidate is: on held-out data after a short training, or by a proxy without one."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.cost.deployed import seeded
from zoo.errors import MismatchError
from zoo.nas import proxies
from zoo.nas.limits import Use
from zoo.nas.spaces.contract import Choice, Space
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.codec import to_json
from zoo.registry.layout import UNSTATED
from zoo.registry.recipe import Recipe
from zoo.tasks import for_data, task_of
from zoo.tasks.contract import Data, Task
from zoo.training.accelerator import accelerator_for
from zoo.training.loop import Run
from zoo.training.network import WholeNetwork

TRAINED = "trained"  # the objective that is none of the proxies
_SHORTEST_MEMORY = 10  # of these parts of a training an average of the weights remembers one


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How good a candidate is.

    Attributes:
        merit: more is better.
        scores: by key.
        spent: training work, MACs of all samples' forward passes.

    """

    merit: float
    scores: dict[str, float]
    spent: float = 0.0


def fitted(recipe: Recipe, data: str | None) -> Recipe:
    """Return a recipe with the labels of the data.

    Raises:
        MismatchError: they have one label only.

    """
    if data is None:
        return recipe
    found = for_data(recipe, data)
    labels = found.preprocessing.get("labels")
    if labels is not None and len(labels) < 2:
        raise MismatchError(
            f"{data} has one label, {', '.join(map(str, labels))!r}; a search needs data of two or "
            "more, a folder for each"
        )
    return found


def short(recipe: Recipe, steps: int, seed: int) -> Recipe:
    """Return a recipe that is trained for so many steps and judged at their end."""
    whole = recipe.train
    average = min(whole.ema_decay, max(0.0, 1 - _SHORTEST_MEMORY / steps))
    made = dataclasses.replace(
        whole,
        steps=steps,
        warmup_steps=min(whole.warmup_steps, steps // 10),
        ema_decay=average,
        eval_every=steps,
        save_every=max(1, steps // 4),
        log_every=min(whole.log_every, steps),
        patience=0,
        seed=seed,
    )
    return dataclasses.replace(recipe, make=made)


class JudgedOn:
    """Training data, read once for all candidates that learn from the same.

    Args:
        source: where the data come from.

    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._key = ""
        self._data: Any = None

    def __call__(self, recipe: Recipe) -> Any:
        """Return a recipe's training data."""
        facts = to_json(recipe)
        of = {name: facts[name] for name in ("task", "subtask", "input_shape", "preprocessing")}
        how = [facts["make"]["options"], facts["make"]["seed"]]
        key = json.dumps([of, how], sort_keys=True)
        if key != self._key:
            self._key, self._data = "", None  # the memory first
            self._data = task_of(recipe).training_data(recipe, self.source)
            self._key = key
        return self._data


class _Candidate(WholeNetwork):
    """A network whose data are there."""

    def __init__(self, recipe: Recipe, material: JudgedOn) -> None:
        super().__init__(recipe)
        self.material = material

    def training_data(self, task: Task, source: str) -> Data:
        """Return the data of all candidates."""
        found: Data = self.material(self.recipe)
        return found


def trained(
    recipe: Recipe,
    use: Use,
    folder: Path,
    *,
    material: JudgedOn,
    steps: int,
    seed: int,
    device: str | None,
) -> Verdict:
    """Train a candidate for some steps; return what it reaches on held-out data.

    Args:
        recipe: of the candidate.
        use: what it takes; gives its MACs.
        folder: of the training, which is taken up there if it was under way.
        material: what it learns.
        steps: of the training.
        seed: of weights and batches.
        device: "cpu" leaves an accelerator unused.

    Raises:
        ZooError: the loss became infinite.

    """
    trial = short(recipe, steps, seed)
    under_way = any(folder.glob("state-*"))
    accelerator = accelerator_for(trial.name, trial.train, folder, None, device)
    run = Run(_Candidate(trial, material), folder, accelerator, material.source, UNSTATED)
    run.execute(resume=under_way)
    facts = task_of(recipe).FACTS
    keys = {metric.key for metric in facts.metrics}
    held_out = Checkpoint.read(folder).metrics["held_out"]
    scores = {key: float(value) for key, value in held_out.items() if key in keys}
    work = float(steps * trial.train.batch_size * trial.train.accumulation_steps * use.macs)
    return Verdict(merit=facts.merit(scores), scores=scores, spent=work)


def inputs(recipe: Recipe, data: str | None, seed: int) -> torch.Tensor:
    """Return a batch for proxies: of the data, or without any normal random numbers."""
    if data is None:
        dice = torch.Generator().manual_seed(seed)
        return torch.randn((proxies.BATCH, *recipe.input_shape[1:]), generator=dice)
    task: Any = task_of(recipe)
    rows = range(proxies.BATCH)
    batch = task.batch(task.training_data(recipe, data), recipe, 0, rows, len(rows))
    found: torch.Tensor = batch[0]
    return found


def by_proxy(
    name: str,
    space: Space,
    settings: Any,
    batch: Callable[[Recipe], torch.Tensor],
) -> Callable[[Choice, Recipe, Use], float]:
    """Return a function that scores candidates by a proxy.

    Args:
        name: of the proxy.
        space: that the candidates are of.
        settings: of the space.
        batch: gives inputs for a candidate.

    """
    proxy = proxies.named(name)

    def score(choice: Choice, recipe: Recipe, use: Use) -> float:
        network = seeded(lambda: build(recipe))
        candidate = proxies.Untrained(
            network=network, inputs=batch(recipe), use=use, space=space, settings=settings,
            choice=choice,
        )  # fmt: skip
        return proxy(candidate)

    return score
