"""What a task is: facts, and plain functions that feed a model, judge it and run it.

A member of `zoo.tasks` is named after a recipe's `subtask`; packages add theirs through the
entry-point group of that name. `tests/battery/test_tasks.py` tries every one on its own tiny data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from zoo.errors import MismatchError
from zoo.registry.recipe import Compress, Recipe, Train


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good a model is.

    Attributes:
        key: its key in what `validate` and `evaluate` return, e.g. "psnr_y_db".
        name: for people, e.g. "PSNR Y".
        unit: e.g. "dB"; empty: it has none.
        better: whether the higher or the lower value is.
        hub_type: its name among the Hub's metrics, e.g. "psnr"; empty: the Hub has none.

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
    """How the page shows what adapters change in a model of a task; see `Shown.demo`.

    Attributes:
        kind: a mark of one word; tasks of the same mark share a part of the page.
        title: of that part.
        takes: a prompt, or the number of an input that the task makes.
        asks: label of that number.
        gives: what is shown.
        packages: what must be installed.

    """

    kind: str
    title: str
    takes: Literal["prompt", "number"]
    asks: str = "Prompt"
    gives: Literal["text", "picture"]
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What is known about a task without looking at a model or at data.

    Attributes:
        name: a recipe's `subtask`, e.g. "super-resolution".
        pipeline_tag: the Hub's, e.g. "image-to-image".
        sample: what one sample is called, e.g. "image"; `evaluate` counts `images`.
        metrics: in the order of a card's columns.
        select_by: key of the metric that chooses the checkpoint; empty: nothing is trained.
        beside: keys of further real numbers that `evaluate` gives, which are not the model's own
            quality: a standard error, what a plain method reaches.
        output_range: the limits that a deployed network keeps to, where its training form, which
            has to have gradients, does not.
        adapter: where the training of a new adapter starts; None: the task has no adapters.
        adapter_mask: settings of its mask that differ from the defaults, e.g. {"density": 0.2}.
        usage: lines of Python for a card, with {ref} and {shape}.
        demo: how the page shows adapters of this task; None: not at all.

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
                f"the task {self.name!r} selects by {self.select_by!r} and has the metrics "
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
        """Return the score that selects, negated where lower is better: the greatest wins."""
        chosen = self.metric(self.select_by)
        if chosen is None or self.select_by not in scores:
            raise MismatchError(f"the task {self.name!r} has no score to select by in {scores}")
        value = scores[self.select_by]
        return value if chosen.better == "higher" else -value


class Data(Protocol):
    """What `training_data` returns."""

    @property
    def held_out(self) -> Any:
        """Samples that are never trained on and choose the checkpoint; they have a length."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that a run depends on."""

    @property
    def facts(self) -> dict[str, Any]:
        """What a card says of the data: `source`, the number of `samples`, `held_out`, `sha256`."""


class Result(Protocol):
    """What `run` returns."""

    @property
    def text(self) -> str:
        """What `zoo run` prints."""

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""

    def save(self, path: Path) -> Path:
        """Write it to a file, and return that."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Something small to try a task on, without a network: a second's work at most.

    Attributes:
        recipe: with short training settings.
        model: a deployed network with random weights, in eval mode.
        data: what is trained on and judged on.
        source: what `run` takes; None: the task has no `run`.
        tokenizer: of a language model.

    """

    recipe: Recipe
    model: nn.Module
    data: Path
    source: Any = None
    tokenizer: Any = None


class Task(Protocol):
    """The functions of a task.

    A task whose `FACTS` select by no metric is not trained, and has neither `training_data` nor
    `batch`, `loss` and `validate`; one whose models only get adapters has no `run`. Further
    functions are used where a task has them:

        forward(model, inputs) -> outputs: how a network is called in training an adapter.
        taught(teacher, inputs, recipe, step) -> targets: what a teacher makes of inputs.
        calibration(recipe, source) -> [batch, ...]: what quantization learns ranges from.
        default_output(recipe, source) -> path: where `zoo run` writes unasked.
        demo: see `Shown`.
    """

    FACTS: TaskFacts

    def training_data(self, recipe: Recipe, source: str, tokenizer: Any = None) -> Data:
        """Return what is trained on, prepared; `tokenizer` is that of a language model."""

    def batch(
        self, data: Any, recipe: Recipe, step: int, rows: range, total: int
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of rows of a step: a function of (seed, step, row) alone."""

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Return what is minimized."""

    def validate(self, model: nn.Module, data: Any, recipe: Recipe) -> dict[str, float]:
        """Return metrics on the held-out samples, `FACTS.select_by` among them."""

    def evaluate(
        self, model: Any, recipe: Any, data: Path, tokenizer: Any = None
    ) -> dict[str, Any]:
        """Return metrics on test data: the number of samples, and `protocol`, in words.

        With `per_<sample>`, a list of the same for each sample, the command prints a table.
        Keyword options are the task's own.
        """

    def run(self, model: Any, recipe: Any, source: Any, out: Path | None = None) -> Result:
        """Return what a model makes of one input; with `out`, save it too."""

    def trial(self, folder: Path, recipe: Recipe | None = None) -> Trial:
        """Write tiny data into a folder, and return what to try: a recipe, or the smallest."""


def recipe_of(
    model: nn.Module,
    facts: TaskFacts,
    make: Train | Compress,
    name: str = "trial",
    summary: str = "A trial",
) -> Recipe:
    """Return what a task reads of a model that another library saved."""
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
    """A task with a `Demo`."""

    def demo(self, model: Any, recipe: Any, tokenizer: Any, given: Any) -> Any:
        """Return a text or a Pillow image, as `FACTS.demo` says, for a prompt or a number."""


TRAINING = ("training_data", "batch", "loss", "validate")


def check(task: Any, name: str) -> None:
    """Raise if something is not the task of that name.

    Raises:
        MismatchError: it has no `FACTS`, those of another task, or lacks a function.

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
    needed = (*needed, *(("demo",) if facts.demo else ()))
    if missing := [part for part in needed if not callable(getattr(task, part, None))]:
        raise MismatchError(
            f"the task {name!r} has no {', '.join(missing)}; see zoo.tasks.contract"
        )
