"""What a task is: facts, and plain functions that feed a model, judge it and run it.

A member of `zoo.tasks` is named after a recipe's `subtask`; packages add theirs through the
entry-point group of that name. `tests/battery/test_tasks.py` tries each one on its own tiny data.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.registry.artifact import Result
from zoo.registry.recipe import Compress, Recipe, Train


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        key: its key in what `validate` and `evaluate` return, e.g. "psnr_y_db".
        name: for people, e.g. "PSNR Y".
        unit: e.g. "dB"; "" if it has none.
        better: which value is better, the "higher" or the "lower".
        hub_type: its name among the Hub's metrics, e.g. "psnr"; "" if the Hub does not have it.

    """

    key: str
    name: str
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    hub_type: str = ""

    @property
    def label(self) -> str:
        """The name, with the unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, kw_only=True)
class Demo:
    """How the page shows what adapters do to a model of a task; see `Shown.demo`.

    Attributes:
        kind: one word; tasks of the same kind share a part of the page.
        title: title of that part.
        takes: a prompt, or the file of a picture.
        asks: label of that input.
        gives: what is shown.
        packages: packages that must be installed.

    """

    kind: str
    title: str
    takes: Literal["prompt", "picture"]
    asks: str = "Prompt"
    gives: Literal["text", "picture"]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What is known about a task without looking at a model or at data.

    Attributes:
        name: a recipe's `subtask`, e.g. "super-resolution".
        pipeline_tag: the Hub's tag, e.g. "image-to-image".
        sample: what one sample is called, e.g. "image"; `evaluate` counts `images`.
        metrics: the task's metrics, in the order of a card's columns.
        select_by: key of the metric that chooses the checkpoint; "" if nothing is trained.
        beside: keys of further real numbers from `evaluate` that are not the model's own quality:
            a standard error, or what a plain method reaches.
        output_range: limits of a deployed network's outputs, if its training form, which needs
            gradients, exceeds them.
        adapter: settings from which a new adapter starts; None if the task has no adapters.
        adapter_mask: settings of its mask that differ from the defaults, e.g. {"density": 0.2}.
        usage: lines of Python for a card, with {ref} and {shape}.
        demo: how the page shows adapters of this task; None if it does not.

    """

    name: str
    pipeline_tag: str
    sample: str
    metrics: tuple[Metric, ...]
    select_by: str = ""
    beside: tuple[str, ...] = ()
    output_range: tuple[float, float] | None = None
    adapter: Train | None = None
    adapter_mask: Mapping[str, Any] = field(default_factory=dict)
    usage: str = 'model = zoo.load("{ref}")  # takes ({shape})'
    demo: Demo | None = None

    def __post_init__(self) -> None:
        keys = [metric.key for metric in self.metrics]
        if len(set(keys)) < len(keys) or (self.select_by and self.select_by not in keys):
            raise MismatchError(
                f"the task {self.name!r} selects by {self.select_by!r} but has the metrics "
                f"{', '.join(keys)}; expected one of these, each once"
            )

    @property
    def samples(self) -> str:
        """Several samples: the key of their number in metrics and facts of data."""
        return f"{self.sample}s"

    def metric(self, key: str) -> Metric | None:
        """Return the metric of a key; None for other numbers."""
        return next((metric for metric in self.metrics if metric.key == key), None)

    def merit(self, scores: Mapping[str, float]) -> float:
        """Return the score that selects, negated if lower is better: the greatest wins."""
        chosen = self.metric(self.select_by)
        if chosen is None or self.select_by not in scores:
            raise MismatchError(f"the task {self.name!r} has no score to select by in {scores}")
        value = scores[self.select_by]
        return value if chosen.better == "higher" else -value


class Data(Protocol):
    """What `training_data` returns."""

    @property
    def held_out(self) -> Any:
        """Samples that are never trained on and choose the checkpoint; `len` works on them."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything in the data that a run depends on."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a card says about the data: `source`, number of `samples`, `held_out`, `sha256`."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Something small to try a task on, offline: a second's work at most.

    Attributes:
        recipe: a recipe with short training settings.
        model: a deployed network with random weights, in eval mode.
        data: the data to train and judge on.
        source: the input of `run`; None if the task has no `run`.
        tokenizer: tokenizer of a language model, else None.

    """

    recipe: Recipe
    model: nn.Module
    data: Path
    source: Any = None
    tokenizer: Any = None


class Task(Protocol):
    """The functions of a task.

    A task whose `FACTS` select by no metric is not trained, and has no `training_data`, `batch`,
    `loss` or `validate`; one whose models only get adapters has no `run`. Further functions are
    used if a task has them:

        for_data(recipe, source) -> recipe: how the data's labels change what is trained.
        forward(model, inputs) -> outputs: how a network is called when an adapter is trained.
        divisors(target) -> counts that `loss` divides sums by, where batches differ in them; then
            `loss(output, target, shared)` divides by those of all processes, over their number.
        taught(teacher, inputs, recipe, step) -> targets: a teacher's outputs for the inputs.
        stream(model, recipe, source, out=None, **options) -> result: for `zoo run --stream`, of a
            long input.
        follower(model, recipe, **options): what takes it piece by piece, by `push(piece)`.
        calibration(recipe, source) -> [batch, ...]: inputs from which quantization learns ranges.
        labelled(recipe, data, most) -> Labelled: at most so many inputs, evenly spread over what
            `evaluate` judges, as the network takes them, with their labels; of a task that is right
            or wrong about each sample.
        unseen(data, recipe, most) -> Labelled: the same of the samples that `training_data` holds
            out.
        default_output(recipe, source) -> path: where `zoo run` writes by default.
        demo: see `Shown`.
    """

    FACTS: TaskFacts

    def training_data(self, recipe: Recipe, source: str, tokenizer: Any = None) -> Data:
        """Return the prepared training data.

        Args:
            recipe: what is trained; its `train.options` are the task's settings.
            source: a folder, a file or a Hub data set.
            tokenizer: a language model's, else None.

        Raises:
            MismatchError: the data cannot be used.

        """

    def batch(
        self, data: Any, recipe: Recipe, step: int, rows: range, total: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a step's rows: a function of (seed, step, row) alone.

        Args:
            data: from `training_data`.
            recipe: gives the seed and the task's settings.
            step: number of the optimizer step, from 0.
            rows: the rows of this micro-batch, within `range(total)`.
            total: samples of the whole step, over processes and micro-batches.

        Returns:
            Two tensors whose first dimension is `len(rows)`.

        """

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the scalar to minimize."""

    def validate(self, model: nn.Module, data: Any, recipe: Recipe) -> dict[str, float]:
        """Return metrics on `data.held_out` by key, `FACTS.select_by` among them."""

    def evaluate(
        self, model: Any, recipe: Any, data: Path, tokenizer: Any = None
    ) -> dict[str, Any]:
        """Return metrics on test data, the number of samples, and `protocol`, in words.

        If `per_<sample>` lists the same for each sample, the command prints a table. Keyword
        options are specific to the task.

        Raises:
            MismatchError: the data cannot be used.

        """

    def run(self, model: Any, recipe: Any, source: Any, out: Path | None = None) -> Result:
        """Return a model's result for one input; with `out`, save it too.

        Keyword options are specific to the task.

        Raises:
            MismatchError: the input cannot be used, or `out` cannot be written.

        """

    def trial(self, folder: Path, recipe: Recipe | None = None) -> Trial:
        """Write tiny data into a folder, and return what to try, with `recipe` or the smallest."""


def recipe_of(
    model: nn.Module,
    facts: TaskFacts,
    make: Train | Compress,
    name: str = "trial",
    summary: str = "A trial",
) -> Recipe:
    """Return the recipe that a task reads, for a model that another library saved."""
    length = int(make.options.get("length", 1))
    return Recipe(
        name=name, summary=summary, task=facts.pipeline_tag, subtask=facts.name,
        model=f"{type(model).__module__}:{type(model).__name__}", args={},
        input_shape=(1, length), preprocessing={}, make=make, default_tag="base",
        paper="2406.13175",
    )  # fmt: skip


def short(recipe: Recipe, **options: Any) -> Recipe:
    """Return a recipe for a trial: four steps of four samples, with other task options."""
    train = replace(
        recipe.train, steps=4, batch_size=4, lr=1e-3, warmup_steps=1, ema_decay=0.0, precision="no",
        init=None, teacher=None, quant=None, log_every=1, eval_every=2, save_every=4,
        options={**recipe.train.options, **options},
    )  # fmt: skip
    return replace(recipe, make=train)


class Shown(Task, Protocol):
    """A task with a `Demo`; one that takes pictures has `samples`, too."""

    def demo(self, model: Any, recipe: Any, tokenizer: Any, given: Any) -> Iterator[Any]:
        """Yield a text as it grows, or a Pillow image, for a prompt or the file of a picture.

        Between two of them others may use the model, with other adapters in it.
        """

    def samples(self, folder: Path) -> list[Path]:
        """Write pictures to try adapters on into an empty folder; return their files."""


TRAINING = ("training_data", "batch", "loss", "validate")


def check(task: Any, name: str) -> None:
    """Raise if `task` is not the task of that name.

    Raises:
        MismatchError: it has no `FACTS`, has those of another task, or lacks a function.

    """
    facts = getattr(task, "FACTS", None)
    if not isinstance(facts, TaskFacts):
        raise MismatchError(
            f"the task {name!r} has no FACTS that are a TaskFacts; see zoo.tasks.contract"
        )
    if facts.name != name:
        raise MismatchError(
            f"the task {name!r} calls itself {facts.name!r}; one of the two is wrong"
        )
    needed: Sequence[str] = ("evaluate", "trial", *(TRAINING if facts.select_by else ()))
    if facts.demo:
        needed = (*needed, "demo", *(("samples",) if facts.demo.takes == "picture" else ()))
    if missing := [part for part in needed if not callable(getattr(task, part, None))]:
        raise MismatchError(
            f"the task {name!r} has no {', '.join(missing)}; see zoo.tasks.contract"
        )
