"""The networks that a tab of the page offers: those with weights here, and those it was given."""

import functools
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from zoo import registry
from zoo.artifacts.resolution import resolve
from zoo.cost.result import readable
from zoo.errors import MissingWeightsError
from zoo.page.cards import duration
from zoo.registry.recipe import Recipe
from zoo.verbs.use import estimate

if TYPE_CHECKING:
    from zoo.registry.artifact import Artifact

DEVICES = {  # a class of microcontrollers, and an NPU beside one
    "stm32f746-216mhz-cmsisnn": "On a microcontroller, STM32F746",
    "ethos-u55-128": "On an NPU, Ethos-U55-128",
}


@dataclass(frozen=True, eq=False)
class Shelved:
    """A network on a shelf, ready to run.

    Attributes:
        ref: what it is called in commands.
        recipe: how it was made.
        model: itself.
        weights: its number of parameters.
        artifact: what the ref turned out to be.

    """

    ref: str
    recipe: Recipe
    model: nn.Module
    weights: int
    artifact: "Artifact"

    @property
    def label(self) -> str:
        """What visitors choose by."""
        return f"{self.ref}, {self.weights:,} weights"

    @property
    def labels(self) -> list[str]:
        """What it tells apart."""
        return [str(label) for label in self.recipe.preprocessing["labels"]]


def shelf(
    tasks: Collection[str], given: "Iterable[Artifact]", what: str, *, ending: str = ""
) -> dict[str, Shelved]:
    """Return the networks of some tasks by their refs, those given first.

    Args:
        tasks: subtasks of recipes.
        given: more checkpoints; those of other tasks are left out.
        what: what such networks do, for the error.
        ending: of the tags that are offered, "-int8" for networks of integers alone.

    Raises:
        MissingWeightsError: no such network has weights.

    """
    found = {}
    for artifact in given:
        if artifact.recipe is not None and artifact.recipe.subtask in tasks:
            found[artifact.ref] = _kept(artifact.ref, artifact, artifact.recipe)
    for name, recipe in registry.all_recipes().items():
        tags = registry.shipped_tags(name) if recipe.subtask in tasks else ()
        for tag in (tag for tag in tags if tag.endswith(ending)):
            ref = name if tag == recipe.default_tag else f"{name}.{tag}"
            artifact = resolve(ref)
            assert artifact.recipe is not None
            found[ref] = _kept(ref, artifact, artifact.recipe)
    if not found:
        raise MissingWeightsError(f"no network that {what} has weights; type: zoo list")
    return found


@functools.lru_cache(maxsize=64)
def costs(shelved: Shelved) -> list[tuple[str, str, str]]:
    """Return what a network costs on devices: where, how long, and how that is known."""
    rows = []
    for name, where in DEVICES.items():
        cost = estimate(shelved.artifact, name)
        words = f"{cost.obtained['latency_ms']}; weights {readable(cost.weight_bytes)}, "
        words += f"activations {readable(cost.peak_activation_bytes)}"
        words += "" if cost.fits else "; does not fit: " + "; ".join(cost.fits.reasons)
        rows.append((where, duration(cost.latency_ms), words))
    return rows


def _kept(ref: str, artifact: "Artifact", recipe: Recipe) -> Shelved:
    model = artifact.load()
    weights = sum(parameter.numel() for parameter in model.parameters())
    return Shelved(ref, recipe, model, weights, artifact)
