"""What visitors give, checked: a slider may be emptied, and a program may send anything."""

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
    if not least <= value <= most:
        raise MismatchError(f"the {what} is {value:g}; expected {least:g} to {most:g}")
    return float(value)
