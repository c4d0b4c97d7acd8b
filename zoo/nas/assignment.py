"""What a search by trials is for: a space, limits, and how a candidate is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.cost import Target
from zoo.errors import MismatchError, UnknownNameError
from zoo.nas import judging, measuring, proxies
from zoo.nas.limits import UNITS, Limits
from zoo.nas.searchers.contract import FLIPS
from zoo.nas.spaces.contract import Choice, Decision, Space, decided
from zoo.registry.codec import to_json
from zoo.registry.options import check_seed
from zoo.registry.recipe import Recipe
from zoo.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """What is searched for, and how a candidate is judged.

    Attributes:
        name: of the recipe that is found.
        space: which networks there are.
        space_name: what people call it.
        settings: of the space.
        limits: what a network may take.
        target: of which device; None: any that runs TFLite Micro.
        method: the estimator of its latency.
        data: what candidates learn; None where nothing is trained.
        steps: of a candidate's training.
        objective: "trained", or a proxy by which candidates are judged instead.
        filter: a proxy of which the best of `draws` proposals is tried; "" for none.
        draws: proposals for each trial.
        against: the quantity that the front has beside the merit; FLIPS for resiliency.
        faults: that hit each candidate, where resiliency is a goal.
        seed: of everything.
        device: "cpu" leaves an accelerator unused.
        training: settings of the recipes' training that are not the space's own, e.g.
            {"lr": 1e-3, "options.retakes": 4}; see `Recipe.override`.

    """

    name: str
    space: Space
    space_name: str
    settings: Any
    limits: Limits = field(default_factory=Limits)
    target: Target | None = None
    method: str = "auto"
    data: str | None = None
    steps: int = 100
    objective: str = judging.TRAINED
    filter: str = ""
    draws: int = 4
    against: str = "macs"
    faults: int = 20_000
    seed: int = 0
    device: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measuring.checked(self.limits, self.target, self.method)
        if self.trains and self.data is None:
            raise MismatchError(
                "candidates are trained to be judged; add --data DIR, or --objective synflow for "
                "a search without training"
            )
        for name, least in (("steps", 1), ("draws", 1)):
            if getattr(self, name) < least:
                raise MismatchError(f"{name} is {getattr(self, name)}; expected {least} or more")
        check_seed(self.seed)
        if self.against not in (*UNITS, FLIPS):
            known = (*UNITS, FLIPS)
            raise UnknownNameError.near(
                "quantity", self.against, known, f"known: {', '.join(known)}"
            )
        for proxy in {self.objective, self.filter} - {judging.TRAINED, ""}:
            proxies.named(proxy)
        if self.against == "latency_ms" and self.target is None:
            raise MismatchError("a front against latency needs a device; add --target")
        if self.against == FLIPS and not self.trains:
            raise MismatchError(
                f"resiliency is measured on trained candidates, and --objective {self.objective} "
                "trains none; leave it out"
            )

    @property
    def trains(self) -> bool:
        """Whether candidates are trained."""
        return self.objective == judging.TRAINED

    @property
    def metric(self) -> str:
        """What the merit is called."""
        if not self.trains:
            return self.objective
        return task_of(self.recipe(self.first, self.name)).FACTS.select_by

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """What there is to choose."""
        return decided(self.space, self.settings)

    @property
    def first(self) -> Choice:
        """The choice of every first value."""
        return {decision.name: decision.values[0] for decision in self.decisions}

    def recipe(self, choice: Choice, name: str) -> Recipe:
        """Return the recipe of a choice, with the labels of the data."""
        return self.fitted(self.space.recipe(self.settings, choice, name))

    def fitted(self, recipe: Recipe) -> Recipe:
        """Return a recipe of the space with the labels of the data and the training's settings."""
        return judging.fitted(recipe.override(self.training), self.data)

    def identity(self, material: judging.JudgedOn | None) -> dict[str, Any]:
        """Return what must be the same for a search to go on; `material` is of its data."""
        fingerprint = None
        if material is not None:
            recipe = judging.short(self.recipe(self.first, self.name), self.steps, self.seed)
            fingerprint = material(recipe).fingerprint
        how: dict[str, Any] = {"steps": self.steps} if self.trains else {}
        how |= {"filter": self.filter, "draws": self.draws} if self.filter else {}
        return {
            "space": self.space_name,
            "options": to_json(self.settings),
            "decisions": {d.name: list(d.values) for d in self.decisions},
            "limits": self.limits.given,
            "target": None if self.target is None else self.target.name,
            "method": self.method,
            "objective": self.objective,
            **how,
            "against": self.against,
            **({"faults": self.faults} if self.against == FLIPS else {}),
            "seed": self.seed,
            "training": dict(self.training),
            "data": fingerprint,
        }
