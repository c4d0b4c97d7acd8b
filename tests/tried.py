"""What a test builds of a recipe."""

import torch

from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

LARGE = 2_000_000  # parameters


def tried(recipe: Recipe) -> Recipe:
    """Return a recipe, or the tiny form of one that is large."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build(recipe).parameters())
    return recipe.in_tiny_form() if parameters > LARGE else recipe
