"""The verb that searches: an architecture within limits, as a recipe file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.artifacts.resolution import Ref
from zoo.errors import MismatchError
from zoo.registry.recipe import NAME, Recipe

if TYPE_CHECKING:
    from zoo.nas.greedy import Selection
    from zoo.nas.limits import Limits
    from zoo.nas.searchers.contract import Attempt
    from zoo.nas.spaces.contract import Choice, Space

GREEDY_TARGET = "ethos-u55-256"
DEFAULT = "evolution"
FAULTS = 20_000  # that hit each candidate, see `zoo.nas.turning`


@dataclass(frozen=True)
class Architecture:
    """An architecture that a search found.

    Attributes:
        recipe: the network.
        path: the file that holds the recipe.
        target: name of the device.
        method: the estimator that priced it.
        selection: how it was found, see `zoo.nas.greedy.Selection`.

    """

    recipe: Recipe
    path: Path
    target: str
    method: str
    selection: "Selection"

    @property
    def text(self) -> str:
        """What the command prints."""
        found = self.selection
        lines = [f"{self.target} ({self.method}), from {found.start_ms:.4g} ms"]
        lines += [
            f"  {step.decision} {step.value}: {step.latency_ms:.4g} ms" for step in found.steps
        ]
        share = f"{100 * found.capacity:.0f} % of the capacity"
        lines += [
            f"{self.path}  {self.recipe.summary}: {found.latency_ms:.4g} ms, {share}, "
            f"{found.priced} networks priced",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        facts = {"recipe": self.recipe.name, "path": str(self.path)}
        facts |= {"target": self.target, "method": self.method}
        return {**facts, **asdict(self.selection)}


@dataclass(frozen=True)
class Search:
    """What a search by trials found.

    Attributes:
        recipe: the best network.
        path: the file that holds the recipe.
        best: the trial, see `zoo.nas.searchers.contract.Attempt`.
        trials: all of them.
        metric: what the merit of a trial is called.
        against: the quantity that the front has beside it.
        limits: what a network may take, by quantity.

    """

    recipe: Recipe
    path: Path
    best: "Attempt"
    trials: "list[Attempt]"
    metric: str
    against: str
    limits: dict[str, float]

    @property
    def front(self) -> "list[Attempt]":
        """The trials that no other beats in the metric and `against` at once."""
        from zoo.nas.front import front

        return front(self.trials, self.against)

    @property
    def rows(self) -> list[list[str]]:
        """The front as a table, the header first."""
        from zoo.nas.front import table

        return table(self.front, self.metric)

    @property
    def text(self) -> str:
        """The last line that the command prints."""
        value = self.best.scores.get(self.metric, self.best.merit)
        share = f", {100 * self.best.load:.1f} % of the tightest limit" if self.limits else ""
        return (
            f"{self.path}  trial {self.best.number} of {len(self.trials)}: {self.metric} "
            f"{value:.4g}, {self.best.use}{share}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {
            "recipe": self.recipe.name,
            "path": str(self.path),
            "metric": self.metric,
            "against": self.against,
            "limits": self.limits,
            "best": self.best.to_json(),
            "front": [trial.number for trial in self.front],
            "trials": [trial.to_json() for trial in self.trials],
        }


def search(
    space: "str | Space",
    out: Ref,
    *,
    target: str | None = None,
    max_sram_bytes: float | None = None,
    max_flash_bytes: float | None = None,
    max_macs: float | None = None,
    max_latency_ms: float | None = None,
    method: str = "auto",
    by: str = "auto",
    by_options: Mapping[str, Any] | None = None,
    data: Ref | None = None,
    trials: int = 24,
    steps: int = 100,
    objective: str = "trained",
    filter: str = "",
    draws: int = 4,
    against: str = "macs",
    faults: int | None = None,
    work: float | None = None,
    seed: int = 0,
    resume: bool = False,
    device: str | None = None,
    training: Mapping[str, Any] | None = None,
    **options: Any,
) -> "Architecture | Search":
    """Find an architecture within limits, and write it as a recipe file.

    With a new `.json` file as `out`, a greedy search without training ("ran-e" has what it needs):
    from a network that is too slow it gives up as little as possible for the time. With a folder,
    candidates are brought within the limits as measured, trained for some steps, and the best on
    held-out data wins; `zoo.nas.study` says what lies in the folder.

    Args:
        space: what may be chosen: a name of `zoo.nas.spaces.contract.names()`, or a space.
        out: the recipe file NAME.json, or the folder of the search; NAME becomes the recipe's name.
        target: a name of `zoo.cost.target_names()`, or the path of a target's file. None: any
            device that runs TFLite Micro; for a greedy search ethos-u55-256.
        max_sram_bytes: working memory that a network may take: what Vela plans for an Ethos-U, else
            TFLite Micro's arena.
        max_flash_bytes: what is stored: weights and commands by Vela, else the `.tflite` file.
        max_macs: multiply-accumulates of one inference.
        max_latency_ms: time of one inference on the target.
        method: the estimator of it: "auto" (what the target says), "roofline", "vela", "measured".
        by: a name of `zoo.nas.searchers.contract.names()`; "auto" is "greedy" or "evolution".
        by_options: of the searcher.
        data: what candidates learn, as for `train`; their labels become the network's.
        trials: how many candidates are tried.
        steps: of each one's training.
        objective: "trained", or a proxy of `zoo.nas.proxies` that judges without training.
        filter: a proxy by which the best of `draws` proposals is tried; "" for none.
        draws: proposals of which one is tried, with a filter.
        against: what the front has beside the metric: "macs", "sram_bytes", "flash_bytes" or
            "latency_ms"; or "flip_rate", resiliency: how many % of single faults turn the answer of
            the trained candidate in int8. A target's registers are hit, without one those of an
            output-stationary array. Two seeds of faults have to rank the first 20 candidates alike.
        faults: that hit each candidate, where that is asked for; None: 20 000.
        work: training work, MACs of all samples' forward passes, after which no trial is begun.
        seed: of proposals, weights and batches.
        resume: go on with the search in `out`, or work on it together with other processes.
        device: "cpu" does not use an accelerator.
        training: settings of the recipes' training, {"lr": 1e-3}, as the overrides of `train`.
        options: of the space: `base="ran-e-32-ib"`, `keep=[6]`.

    Returns:
        The architecture. `zoo.train(path, ...)` trains it, `zoo.estimate(path, target)` prices it.

    Raises:
        UnknownNameError: there is no such space, option, target, method, searcher or proxy.
        MismatchError: no network is within the limits (the smallest feasible ones are told), they
            cannot be measured, the data cannot be used, or `out` holds something else.
        MissingExtraError: an extra that is needed is not installed.

    ```python
    import zoo

    found = zoo.search(
        "ran-e", "runs/small-ran.json", target="ethos-u55-256", max_latency_ms=0.6,
        base="ran-e-32-ib",
    )
    print(found.recipe.summary)
    ```

    """
    from zoo.nas.limits import Limits

    path = Path(out).expanduser()
    greedy = by == "greedy" or (by == "auto" and path.suffix == ".json")
    name = checked_file(path) if greedy else _checked_folder(path)
    if faults is not None and (greedy or against != "flip_rate"):
        raise MismatchError(f"--faults {faults} goes with --against resiliency, which is not given")
    limits = Limits(
        sram_bytes=max_sram_bytes, flash_bytes=max_flash_bytes, macs=max_macs,
        latency_ms=max_latency_ms,
    )  # fmt: skip
    chosen, of, settings = _space(space, options)
    if greedy:
        return _greedily(chosen, settings, path, limits, target or GREEDY_TARGET, method)
    how: dict[str, Any] = {
        "name": name, "space": chosen, "space_name": of, "settings": settings, "limits": limits,
        "method": method, "data": None if data is None else str(data), "steps": steps,
        "objective": objective, "filter": filter, "draws": draws, "against": against,
        "faults": FAULTS if faults is None else faults, "seed": seed, "device": device,
        "training": dict(training or {}),
    }  # fmt: skip
    until = {"trials": trials, "work": work, "resume": resume}
    return _by_trials(path, target, by, by_options or {}, how, until)


def _space(space: "str | Space", options: Mapping[str, Any]) -> tuple["Space", str, Any]:
    """Return a space, its name and its settings."""
    from zoo.nas.spaces import contract
    from zoo.registry.options import read

    if isinstance(space, str):
        chosen, name = contract.find(space), space
    else:
        chosen, name = space, getattr(space, "__name__", "own").split(".")[-1]
    return chosen, name, read(chosen.Options, options, f"space {name}")


def _by_trials(
    path: Path,
    target: str | None,
    by: str,
    by_options: Mapping[str, Any],
    how: Mapping[str, Any],
    until: Mapping[str, Any],
) -> Search:
    """Return what a search by trials finds; `how` is an `Assignment`'s, `until` when it ends."""
    from zoo import cost
    from zoo.nas.assignment import Assignment
    from zoo.nas.black_box import search as tried
    from zoo.nas.searchers import contract as searchers
    from zoo.registry.options import read

    by = DEFAULT if by == "auto" else by
    searcher = searchers.find(by)
    assignment = Assignment(**how, target=None if target is None else cost.target(target))
    options: Any = read(searcher.Options, by_options, f"searcher {by}")
    found = tried(assignment, searcher, options, by, path, **until)
    return Search(
        assignment.recipe(found.best.choice, assignment.name), found.path, found.best, found.trials,
        assignment.metric, assignment.against, assignment.limits.given,
    )  # fmt: skip


def _greedily(
    space: "Space", settings: Any, path: Path, limits: "Limits", target: str, method: str
) -> Architecture:
    """Return what a greedy search finds, written as a file."""
    from zoo import cost
    from zoo.cost.pricing import chosen_method
    from zoo.cost.stored import of_recipe
    from zoo.files import write_json
    from zoo.nas.greedy import select

    if limits.latency_ms is None or len(limits.given) > 1:
        raise MismatchError(
            "a greedy search needs --max-latency, and knows no other limit; for those, give a "
            "folder as --out, and --data DIR"
        )
    device = cost.target(target)

    def price(choice: "Choice") -> float:
        recipe = space.recipe(settings, choice, path.stem)
        return cost.estimate(of_recipe(recipe, None), device, method=method).latency_ms

    selection = select(space, settings, price, limits.latency_ms)
    recipe = space.recipe(settings, selection.choice, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, recipe.to_json())
    return Architecture(recipe, path, device.name, chosen_method(device, method), selection)


def _checked_folder(path: Path) -> str:
    """Return the name that a folder of a search gives its recipe; refuse others."""
    if not NAME.fullmatch(path.name):
        raise MismatchError(
            f"{path} gives the recipe its name; expected a folder's name of small letters, digits "
            "and hyphens, e.g. --out runs/my-words, or NAME.json for a greedy search"
        )
    return _free(path, path.name)


def checked_file(path: Path) -> str:
    """Return the name that a new recipe file gives; refuse any other path."""
    if path.suffix != ".json" or not NAME.fullmatch(path.stem):
        raise MismatchError(
            f"{path} is not a recipe's file; expected NAME.json, NAME of small letters, digits and "
            "hyphens, e.g. --out runs/my-ran-e.json"
        )
    if path.exists():
        raise MismatchError(f"{path} exists already; give another name, or remove it first")
    return _free(path, path.stem)


def _free(path: Path, name: str) -> str:
    """Return a name that is none of the zoo's recipes."""
    if name in registry.names():
        raise MismatchError(f"{path}: {name} is a recipe of the zoo; give another name")
    return name
