"""How a model is to be compressed: a method and its options, from what the user gave."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from zoo.compression import catalogue
from zoo.compression.contract import Method, takes
from zoo.errors import MismatchError
from zoo.registry.options import carried, merged, read, recorded
from zoo.registry.recipe import Compress

DEFAULT = "gptvq"  # for a language model


@dataclasses.dataclass(frozen=True)
class ChosenMethod:
    """A method with the options given to it.

    Attributes:
        name: the method's name.
        method: the method's module.
        options: an instance of its `Options`.
        said: the options that were given, as recorded in a recipe.

    """

    name: str
    method: Method
    options: Any
    said: Mapping[str, Any]


def choose(
    before: Compress | None,
    method: str | None,
    options: Mapping[str, Any],
    kind: str | None = None,
) -> ChosenMethod:
    """Return the method to take and its options, checked.

    Args:
        before: settings of the recipe that is changed, or None.
        method: a method, or a method and preset; None takes the recipe's.
        options: the newly given options, JSON types or texts; "preset" stands for several.
        kind: what is compressed, "network" or "language-model"; None if not known yet.

    Raises:
        UnknownNameError: there is no such method, preset or option; similar ones are named.
        MismatchError: an option has the wrong type, options contradict each other, or the method is
            for the other kind of model.

    """
    name, kept = (before.method, dict(before.options)) if before else ("", {})
    if method is not None:
        chosen, preset = catalogue.split(method)
        if before:
            kept = carried(catalogue.find(name).Options, catalogue.find(chosen).Options, kept)
        name, kept = chosen, {**kept, **preset}
    if not name and kind == "network":
        raise MismatchError(
            "a network is compressed with one of several methods: add --method, one of "
            f"{', '.join(methods_for(kind))} (zoo compress --method M --help shows its options)"
        )
    name = name or DEFAULT
    module = catalogue.find(name)
    if kind is not None and not takes(module, kind):
        raise MismatchError(
            f"method {name!r} takes a {module.TAKES.replace('-', ' ')}, and this is a "
            f"{kind.replace('-', ' ')}; methods for it: {', '.join(methods_for(kind))}"
        )
    given = dict(options)
    if (preset_name := given.pop("preset", None)) is not None:
        given = {**catalogue.preset(name, preset_name), **given}
    values = merged(module.Options, kept, given)
    settings = read(module.Options, values, name)
    return ChosenMethod(name, module, settings, recorded(settings, list(values)))


def methods_for(kind: str) -> list[str]:
    """Return the names of the methods that take a "network" or a "language-model"."""
    return [name for name in catalogue.names() if takes(catalogue.find(name), kind)]


def check_data(choice: ChosenMethod, data: Any) -> None:
    """Raise a MismatchError if a method that learns from data is given none."""
    if data is not None or not choice.options.needs_data:
        return
    kind = choice.method.TAKES
    names = methods_for("network" if kind == "classifier" else kind)
    without = [name for name in names if not catalogue.find(name).Options().needs_data]
    raise MismatchError(
        f"method {choice.name!r} learns from data: add --data, {choice.method.DATA}"
        + (f" ({', '.join(without)} needs none)" if without else "")
    )
