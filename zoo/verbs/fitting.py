"""What fits a device: `zoo list --fits`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from zoo import registry
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from zoo.artifacts.networks import Network
    from zoo.cost import Cost


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """A network that fits a device.

    Attributes:
        recipe: of the network.
        cost: on the device.
        tag: of the weights whose quality this is; "" where none ship.
        metric: name of the quality, "" where nobody measured it.
        data: what it was measured on.
        quality: its value, or None.
        unit: of the value.

    """

    recipe: Recipe
    cost: "Cost"
    tag: str = ""
    metric: str = ""
    data: str = ""
    quality: float | None = None
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types."""
        facts = {"tag": self.tag, "metric": self.metric, "data": self.data}
        about = {"name": self.recipe.name, "task": self.recipe.task, "unit": self.unit}
        return {**about, **facts, "quality": self.quality, "cost": self.cost.to_json()}


def fitting(target: str, recipes: Sequence[Recipe]) -> list[Fitting]:
    """Return which networks fit a device, whole or in tiles, the fastest first.

    By the target's own method, not a compiler's: it prices all of them in seconds. Language models
    and networks that cannot be priced are left out.

    Raises:
        UnknownNameError: there is no such target.

    """
    from zoo import cost
    from zoo.artifacts.resolution import resolve
    from zoo.cost.stored import of_network

    device, found = cost.target(target), []
    for recipe in recipes:
        if recipe.of_transformers or recipe.input_shape is None:
            continue
        network = cast("Network", resolve(recipe, weights=False))
        try:
            priced = cost.estimate(of_network(network), device, method=device.method)
        except MismatchError:
            continue
        if priced.fits or priced.runs_tiled:
            found.append(Fitting(recipe=recipe, cost=priced, **_quality(recipe)))
    return sorted(found, key=lambda one: one.cost.latency_ms)


def _quality(recipe: Recipe) -> dict[str, Any]:
    """Return the first metric of the default weights, or of the first that ship."""
    from zoo.artifacts.resolution import checkpoint
    from zoo.cost.comparison import qualities
    from zoo.tasks import task_of

    tags = registry.shipped_tags(recipe.name)
    if not tags:
        return {}
    tag = recipe.default_tag if recipe.default_tag in tags else tags[0]
    metrics = checkpoint(f"{recipe.name}.{tag}").metrics
    for one in qualities(metrics, task_of(recipe).FACTS).values():
        metric = one.metric
        return {
            "tag": tag, "metric": metric.name, "data": one.data, "quality": one.value,
            "unit": metric.unit,
        }  # fmt: skip
    return {"tag": tag}
