"""The base model of an adapter, loaded."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zoo.adapters.recipe import AdapterRecipe
from zoo.registry.recipe import Recipe

_SUBTASKS = {"causal-lm": "text-generation", "text-choice": "text-generation"}


@dataclass(frozen=True)
class Base:
    """A loaded base model.

    Attributes:
        model: in eval mode.
        recipe: of a model of the zoo; None for others.
        tokenizer: of a language model; None for others.

    """

    model: nn.Module
    recipe: Recipe | None = None
    tokenizer: Any = None

    def task_recipe(self, adapter: AdapterRecipe) -> Recipe:
        """Return what the adapter's task reads: the base's recipe with the adapter's training."""
        if self.recipe is not None:
            return replace(self.recipe, make=adapter.train, subtask=adapter.task)
        length = int(adapter.train.options.get("length", 1))
        return Recipe(
            name=adapter.name,
            summary=adapter.summary,
            task=_SUBTASKS.get(adapter.task, "unconditional-image-generation"),
            subtask=adapter.task,
            model=f"{type(self.model).__module__}:{type(self.model).__name__}",
            args={},
            input_shape=(1, length),
            preprocessing={},
            make=adapter.train,
            default_tag="base",
            paper="2406.13175",
        )
