"""The verb that shares real filters out between the layers of a hybrid network."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.artifacts.resolution import Ref, checkpoint, recipe_of, resolve
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe
from zoo.verbs import exporting
from zoo.verbs.searching import checked_file

if TYPE_CHECKING:
    from zoo.compression.shares import LayerShare
    from zoo.registry.artifact import Artifact


@dataclass(frozen=True)
class FilterShares:
    """How real filters were shared out.

    Attributes:
        recipe: of the hybrid network.
        path: its file.
        layers: what it makes of each 1x1 convolution, see `zoo.compression.shares.LayerShare`.
        alpha: the uniform share that was the budget.
        budget_bytes: what all these convolutions take with it.

    """

    recipe: Recipe
    path: Path
    layers: "list[LayerShare]"
    alpha: float
    budget_bytes: int

    @property
    def bytes(self) -> int:
        """What the 1x1 convolutions take."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def rows(self) -> list[list[str]]:
        """Every layer as a table, the header first."""
        table = [["LAYER", "FILTERS", "REAL", "ALPHA", "BYTES"]]
        for layer, share in zip(self.layers, self.recipe.args["alpha"], strict=True):
            numbers = layer.filters, layer.real, f"{share:g}", layer.bytes
            table.append([layer.name, *map(str, numbers)])
        return table

    @property
    def text(self) -> str:
        """The last line that the command prints."""
        return (
            f"{self.path}  {self.bytes} bytes in 1x1 convolutions; {self.budget_bytes} with alpha "
            f"{self.alpha:g} in each. Train it: zoo train {self.path} --data DIR --out DIR"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the facts as JSON types."""
        return {
            "path": str(self.path),
            "alpha": list(self.recipe.args["alpha"]),
            "bytes": self.bytes,
            "budget_alpha": self.alpha,
            "budget_bytes": self.budget_bytes,
        }


def search_shares(
    name: Ref,
    out: Ref,
    *,
    init: "Ref | Artifact",
    data: Ref,
    alpha: float = 0.5,
    inputs: int = 64,
    seed: int = 0,
) -> FilterShares:
    """Share real filters out between the layers of a hybrid network, and write its recipe's file.

    The layers compete for the bytes that the same share in every layer would take: filters that
    bear it worst to be ternary, as estimated from gradients of the trained network, stay real. See
    `zoo.compression.shares`.

    Args:
        name: a recipe with hybrid filter banks, or a recipe file.
        out: the recipe file NAME.json; NAME becomes the recipe's name.
        init: ref of the trained network of real filters, of the same width.
        data: inputs that it is seen at work on, as for `compress` by int8.
        alpha: the share of real filters whose bytes are the budget.
        inputs: how many are seen at most.
        seed: of the labels that are drawn.

    Returns:
        The shares. `zoo.train(path, ...)` trains the network.

    Raises:
        UnknownNameError: there is no such recipe.
        MissingWeightsError: the trained network has no weights here.
        MismatchError: the recipe has no hybrid banks, the network has ternary filters or another
            width, alpha is not from 0 to 1, the data cannot be used, or `out` exists.

    ```python
    import zoo

    shares = zoo.search_shares(
        "mobilenet-v1-025-hybrid", "runs/mine.json", init="./runs/real", data="pictures", alpha=0.25
    )
    print(shares.recipe.args["alpha"])
    ```

    """
    import dataclasses

    from zoo.compression.shares import allocated, layer_shares
    from zoo.files import write_json
    from zoo.tasks import calibration

    path = Path(out).expanduser()
    label = checked_file(path)
    if inputs < 1:
        raise MismatchError(f"inputs is {inputs}; expected 1 or more")
    recipe, source = recipe_of(name), checkpoint(resolve(init))
    network, batches = source.load(), calibration(source.recipe, exporting.data_path(data))
    shared = allocated(recipe, network, batches, alpha, most=inputs, seed=seed)
    made = dataclasses.replace(
        shared,
        name=label,
        args={**shared.args, "num_classes": source.recipe.args["num_classes"]},
        preprocessing=source.recipe.preprocessing,
        summary=f"{recipe.summary.partition(', half')[0]}, real filters shared out by layer",
    )
    uniform = layer_shares(dataclasses.replace(made, args={**made.args, "alpha": alpha}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, made.to_json())
    budget = sum(layer.bytes for layer in uniform)
    return FilterShares(made, path, layer_shares(made), alpha, budget)
