"""Tasks: how a model is fed, trained and judged, as plain functions.

Each module here is a task, named after a recipe's `subtask`; see `zoo.tasks.contract`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from zoo import extensions
from zoo.errors import MismatchError, UnknownNameError, newer
from zoo.registry.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.tasks.contract import Task

POINT = "zoo.tasks"


def named(name: str) -> "Task":
    """Return the task of that name.

    Raises:
        UnknownNameError: there is no such task; the message lists near misses.
        MismatchError: another package's task does not do what a task must.

    """
    from zoo.tasks.contract import check

    task: Task = extensions.member(POINT, name, "task")
    check(task, name)
    return task


def task_of(recipe: Recipe) -> "Task":
    """Return the task of a recipe.

    Raises:
        UnknownNameError: there is no task for its `subtask`.
        MismatchError: only transformers runs it.

    """
    if recipe.of_transformers and recipe.subtask != "text-generation":
        raise MismatchError(
            f"{recipe.name} is for {recipe.task}, which transformers runs and the zoo does not: "
            f"import zoo.quantization, then {recipe.model.split(':')[1]}.from_pretrained(FOLDER)"
        )
    if recipe.subtask not in extensions.members(POINT):
        raise UnknownNameError(
            f"recipe {recipe.name!r} is for the task {recipe.subtask!r}, which this zoo does not "
            f"know ({newer()})"
        )
    return named(recipe.subtask)


def for_data(recipe: Recipe, data: str) -> Recipe:
    """Return the recipe as its task fits it to the data: with their labels, for example."""
    fit = getattr(task_of(recipe), "for_data", None)
    return recipe if fit is None else fit(recipe, data)


def calibration(recipe: Recipe, source: Path) -> "list[Tensor]":
    """Return the batches of inputs from which integers learn their ranges.

    Raises:
        MismatchError: the recipe's task has no calibration.

    """
    read = getattr(task_of(recipe), "calibration", None)
    if read is None:
        raise MismatchError(
            f"the task {recipe.subtask!r} has no calibration: its networks are not quantized; "
            "leave int8 out"
        )
    batches: list[Tensor] = read(recipe, source)
    return batches
