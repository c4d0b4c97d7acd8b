"""What is priced of a name or a checkpoint: its own weights if they are here, else random ones."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo.cost.estimators.contract import Subject
from zoo.cost.pricing import of_module
from zoo.errors import MissingWeightsError
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from zoo.artifacts.networks import Network


def of_network(network: "Network", shape: tuple[int, ...] | None = None) -> Subject:
    """Return what is priced of a network of the zoo; nothing is fetched.

    Args:
        network: what a ref was resolved to.
        shape: of its input; None takes the recipe's.

    """
    if network.looked_at is not None:  # the weights are elsewhere
        return of_recipe(network.recipe, None, shape)
    return of_recipe(network.recipe, _found(network.find), shape)


def of_recipe(
    recipe: Recipe, weights: Checkpoint | None, shape: tuple[int, ...] | None = None
) -> Subject:
    """Return what is priced of a recipe, with the weights of a checkpoint or with random ones.

    Encoded, they take 0.2 to 1.1 bytes each, and a network may wait for them.

    Raises:
        MissingWeightsError, UnsafeFileError: the checkpoint's file is missing, or another.

    """
    shape = shape or recipe.input_shape
    if weights is None:
        import torch

        with torch.device("meta"):
            return of_module(build(recipe), shape)
    if weights.quantization is None:
        return of_module(weights.load(), shape)
    from zoo.deploy.file_network import integer_network

    return of_module(integer_network(weights), shape)


def _found(find: Callable[[], Checkpoint]) -> Checkpoint | None:
    try:
        return find()
    except MissingWeightsError:
        return None
