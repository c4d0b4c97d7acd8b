"""Tasks: what feeds a model, what it is trained on and how it is judged, as plain functions.

A module here is named after a recipe's `subtask` and offers `training_data`, `batch`, `loss`,
`validate`, `evaluate` and `run`; `zoo.train` and the verbs call nothing else.
"""

import importlib
from types import ModuleType

from zoo.recipe import Recipe


def task_of(recipe: Recipe) -> ModuleType:
    """Return the task module of a recipe."""
    return importlib.import_module(f"zoo.tasks.{recipe.subtask.replace('-', '_')}")
