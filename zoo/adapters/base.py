"""The base model of an adapter, loaded."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zoo import tasks
from zoo.adapters.recipe import AdapterRecipe
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Base:
    """A loaded base model.

    Attributes:
        model: the base model, in eval mode.
        recipe: the recipe of a zoo model; None for other models.
        tokenizer: the tokenizer of a language model; None for other models.

    """

    model: "nn.Module"
    recipe: Recipe | None = None
    tokenizer: Any = None

    def task_recipe(self, adapter: AdapterRecipe) -> Recipe:
        """Return what the adapter's task reads: the base's recipe with the adapter's training.

        Raises:
            MismatchError: the adapter is for another task than the base.

        """
        if self.recipe is not None:
            own = self.recipe.subtask
            if adapter.task != own and not self.recipe.of_transformers:
                raise MismatchError(
                    f"{adapter.name} is for the task {adapter.task}, and its base "
                    f"{self.recipe.name} for {own}; give --task {own}, or another base"
                )
            return replace(self.recipe, make=adapter.train, subtask=adapter.task)
        from zoo.tasks.contract import recipe_of

        facts = tasks.named(adapter.task).FACTS
        return recipe_of(self.model, facts, adapter.train, adapter.name, adapter.summary)
