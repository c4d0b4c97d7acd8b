"""What visitors give, checked: a slider may be emptied, and a program may send anything."""

import math
from collections.abc import Collection
from typing import Any

from zoo.errors import MismatchError


def number(value: Any, what: str, least: float, most: float, default: float) -> float:
    """Return a number of a slider; an emptied one is the default.

    Raises:
        MismatchError: it is no number from `least` to `most`.

    """
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MismatchError(f"the {what} is {value!r}; expected a number")
    try:
        given = float(value)
    except OverflowError:  # whole numbers of JSON have any length
        given = math.inf if value > 0 else -math.inf
    if not least <= given <= most:
        raise MismatchError(f"the {what} is {given:g}; expected {least:g} to {most:g}")
    return given


def text(value: Any, what: str) -> str:
    """Return a text; none is an empty one.

    Raises:
        MismatchError: it is something else.

    """
    if value is None or isinstance(value, str):
        return value or ""
    raise MismatchError(f"the {what} is {value!r:.80}; expected text")


def choice(value: Any, what: str, known: Collection[str]) -> str:
    """Return one of what is known.

    Raises:
        MismatchError: it is another.

    """
    if not isinstance(value, str) or value not in known:
        raise MismatchError(f"there is no {what} {value!r:.80}; take {', '.join(known)}")
    return value


def choices(values: Any, what: str, known: Collection[str], most: int) -> list[str]:
    """Return some of what is known, each once.

    Raises:
        MismatchError: others, none, or more than `most`.

    """
    listed = values if isinstance(values, list | tuple) else [] if values is None else [values]
    wanted = list(dict.fromkeys(choice(value, what, known) for value in listed))
    if not 0 < len(wanted) <= most:
        raise MismatchError(f"{len(wanted)} {what}s are chosen; choose 1 to {most}")
    return wanted
