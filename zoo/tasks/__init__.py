"""Tasks: what feeds a model, what it is trained on and how it is judged, as plain functions.

A module here is named after a recipe's `subtask` and offers `training_data`, `batch`, `loss`,
`validate`, `evaluate` and `run`, `calibration` if its networks are quantized, `taught` if it asks
a teacher in a way of its own, and `default_output` if a run writes a file unasked; `zoo.train` and
the verbs call nothing else. What `run` returns has `text`, which the command prints, `to_json` and
`save`. A task whose recipes are compressed and not trained has `evaluate`
and `run` alone.
"""

import importlib
import importlib.util
from types import ModuleType

from zoo.errors import UnknownNameError, newer
from zoo.registry.recipe import Recipe


def task_of(recipe: Recipe) -> ModuleType:
    """Return the task module of a recipe.

    Raises:
        UnknownNameError: there is none for its `subtask`.

    """
    name = recipe.subtask.replace("-", "_")
    if name.isidentifier() and importlib.util.find_spec(f"zoo.tasks.{name}"):
        module = importlib.import_module(f"zoo.tasks.{name}")
        if hasattr(module, "evaluate"):  # else it is a part of another task
            return module
    raise UnknownNameError(
        f"recipe {recipe.name!r} is for the task {recipe.subtask!r}, which this zoo does not know "
        f"({newer()})"
    )
