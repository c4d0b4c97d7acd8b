"""Arguments of a recipe's model, given from outside: `--set args.alpha=0.375`."""

import json
import math
from collections.abc import Mapping, Set
from typing import Any

from zoo.errors import MismatchError

PREFIX = "args."
_KINDS = {"bool": "true or false", "number": "a number", "text": "a word"}


def settable(args: Mapping[str, Any], preprocessing: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's arguments that nothing else says too.

    The data say how many classes there are; what a picture is resized by, say, stands in the
    recipe's preprocessing.
    """
    return [name for name in args if name != "num_classes" and name not in preprocessing]


def changed(
    args: Mapping[str, Any], settings: Mapping[str, Any], known: list[str]
) -> Mapping[str, Any]:
    """Return the arguments with some changed; texts are read as JSON, "a,b" as a list.

    Args:
        args: of the recipe.
        settings: values by name, with the prefix "args.".
        known: names that may be set.

    Raises:
        MismatchError: there is no such argument, or a value holds something else than the one
            before.

    """
    new = dict(args)
    for key, value in settings.items():
        name = key.removeprefix(PREFIX)
        if name not in known:
            reason = "is no setting: the data or the recipe say it" if name in args else "is none"
            listed = ", ".join(f"{PREFIX}{each}" for each in known) or "none"
            raise MismatchError(f"argument {key!r} {reason}; known: {listed}")
        found = _read(value)
        before = _kinds(args[name])
        if not _kinds(found) or (before and not _kinds(found) <= before):
            wanted = " or ".join(_KINDS[kind] for kind in sorted(before)) or "a value"
            raise MismatchError(f"{key} is {value!r}; expected {wanted}, or a list of such")
        new[name] = found
    return new


def _read(value: Any) -> Any:
    """Return a text as the JSON that it is, or a word; lists as JSON has them."""
    if not isinstance(value, str):
        return [_read(part) for part in value] if isinstance(value, list | tuple) else value
    for text in (value, f"[{value}]"):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return value


def _kinds(value: Any) -> Set[str]:
    """Return what a value, or a list of values, is made of; nothing if not of these kinds."""
    if isinstance(value, list | tuple):
        kinds = [_kinds(part) for part in value]
        return set() if not all(kinds) else {kind for some in kinds for kind in some}
    if isinstance(value, bool):
        return {"bool"}
    if isinstance(value, int | float):
        return {"number"} if math.isfinite(value) else set()
    return {"text"} if isinstance(value, str) else set()
