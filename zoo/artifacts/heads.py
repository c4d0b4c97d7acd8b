"""A network with another number of classes: its last layer starts anew, the others are kept."""

from dataclasses import replace

from torch import nn

from zoo.errors import MismatchError
from zoo.models.forms import deployed_form, load_deployed, training_form
from zoo.registry.checkpoint import Checkpoint, build
from zoo.registry.recipe import Recipe

ARGUMENT = "num_classes"


def fresh(recipe: Recipe, classes: int) -> nn.Module:
    """Return a recipe's network with that many classes, freshly initialised, in eval mode.

    Raises:
        MismatchError: it has no classes, or cannot have so many.

    """
    if ARGUMENT not in recipe.args:
        raise MismatchError(f"{recipe.name} tells no classes apart; leave {ARGUMENT} out")
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise MismatchError(f"{ARGUMENT} is {classes!r}; expected a whole number")
    return build(replace(recipe, args={**recipe.args, ARGUMENT: classes}))


def exchanged(source: Checkpoint, classes: int) -> nn.Module:
    """Return a checkpoint's network, in eval mode, its last layer new unless it has that many.

    Raises:
        MismatchError: see `fresh`; or the checkpoint computes in integers, or cannot be changed.

    """
    made = fresh(source.recipe, classes)
    if classes == source.recipe.args[ARGUMENT]:
        return source.load()
    if source.quantization is not None:
        raise MismatchError(
            f"{source.label} computes in integers, for its own classes; take its float weights, "
            f"or train: zoo train {source.recipe.name} --from {source.label} --data DIR"
        )
    form = training_form(made, {})
    try:
        load_deployed(form, source.load())
    except (RuntimeError, ValueError) as error:
        raise MismatchError(f"{source.label} cannot get other classes: {error}") from error
    return deployed_form(form)
