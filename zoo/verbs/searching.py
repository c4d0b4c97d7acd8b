"""The verb that searches: an architecture within a latency, as a recipe file."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import registry
from zoo.artifacts.resolution import Ref
from zoo.errors import MismatchError
from zoo.registry.recipe import NAME, Recipe

if TYPE_CHECKING:
    from zoo.nas.greedy import Selection


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


def search(
    space: str,
    out: Ref,
    *,
    target: str,
    max_latency_ms: float,
    method: str = "auto",
    **options: Any,
) -> Architecture:
    """Find an architecture within a latency, greedily, and write it as a recipe file.

    Args:
        space: what may be chosen: "ran-e", or one that an installed package brings.
        out: the recipe file, NAME.json; NAME becomes the recipe's name.
        target: a name of `zoo.cost.target_names()`, or the path of a target's file.
        max_latency_ms: the bound, for one inference.
        method: the estimator: "auto" (what the target says), "roofline", "vela", "measured".
        options: of the space: `base="ran-e-32-ib"`, `keep=[6]`.

    Returns:
        The architecture. `zoo.train(path, ...)` trains it, `zoo.estimate(path, target)` prices it.

    Raises:
        UnknownNameError: there is no such space, option, target or method.
        MismatchError: the bound is below the fastest network, or `out` is not a new .json file.

    ```python
    import zoo

    found = zoo.search(
        "ran-e", "runs/small-ran.json", target="ethos-u55-256", max_latency_ms=0.6,
        base="ran-e-32-ib",
    )
    print(found.recipe.summary)
    ```

    """
    from zoo import cost
    from zoo.cost.pricing import chosen_method
    from zoo.files import write_json
    from zoo.nas.greedy import select
    from zoo.nas.spaces import contract
    from zoo.registry.checkpoint import build
    from zoo.registry.options import read

    path = _checked(Path(out).expanduser())
    if not max_latency_ms > 0:
        raise MismatchError(f"the bound is {max_latency_ms} ms; expected more than 0")
    chosen, device = contract.find(space), cost.target(target)
    settings: Any = read(chosen.Options, options, f"space {space}")

    def price(choice: contract.Choice) -> float:
        recipe = chosen.recipe(settings, choice, path.stem)
        found = cost.estimate(build(recipe), device, method=method, input_shape=recipe.input_shape)
        return found.latency_ms

    selection = select(chosen, settings, price, max_latency_ms)
    recipe = chosen.recipe(settings, selection.choice, path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, recipe.to_json())
    return Architecture(recipe, path, device.name, chosen_method(device, method), selection)


def _checked(path: Path) -> Path:
    """Return the path of a new recipe file; refuse any other."""
    if path.suffix != ".json" or not NAME.fullmatch(path.stem):
        raise MismatchError(
            f"{path} is not a recipe's file; expected NAME.json, NAME of small letters, digits and "
            "hyphens, e.g. --out runs/my-ran-e.json"
        )
    if path.exists():
        raise MismatchError(f"{path} exists already; give another name, or remove it first")
    if path.stem in registry.names():
        raise MismatchError(f"{path.stem} is a recipe of the zoo; give another name")
    return path
