"""Frozen dataclasses to JSON types and back; the types of the fields say what is allowed.

Every error names the field. Values may also be the texts of a command line: "1e-3" for a float,
"true" for a bool, "none" for an optional field, "a,b" for a tuple.

Libraries were tried and dropped: msgspec ignores the unknown fields of a dataclass, cattrs reads
"false" as true.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from zoo.errors import MismatchError

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Return a dataclass as JSON types; tuples become lists. NaN and infinity are refused."""
    return json.loads(json.dumps(dataclasses.asdict(value), allow_nan=False))


def from_json(kind: type[T], value: Mapping[str, Any], where: str) -> T:
    """Build the dataclass `kind` from a mapping, checking every name and type.

    Args:
        kind: a dataclass whose fields are bool, int, float, str, `Literal`, `Any`,
            `Mapping[str, T]`, `tuple[T, ...]`, other dataclasses, or unions of these.
        value: field name -> JSON value or text.
        where: what to call the whole in an error, e.g. "recipe".

    Raises:
        MismatchError: a field is unknown or missing, or a value has another type.

    """
    hints = get_type_hints(kind)
    if unknown := sorted(set(value) - set(hints)):
        raise MismatchError(
            f"{where} has unknown field {unknown[0]!r}; known: {', '.join(sorted(hints))}"
        )
    fields = {name: convert(item, hints[name], f"{where}.{name}") for name, item in value.items()}
    try:
        return kind(**fields)
    except TypeError as error:  # a required field is missing: the dataclass names it
        raise MismatchError(f"{where}: {str(error).split(') ', 1)[-1]}") from error


def convert(value: Any, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint`.

    Raises:
        MismatchError: it has another type; the message begins with `where`.

    """
    if hint is Any or (get_origin(hint) is Literal and value in get_args(hint)):
        return value
    if get_origin(hint) in (Union, types.UnionType):
        return _one_of(value, get_args(hint), where)
    try:
        if get_origin(hint) is not None:
            return _container(value, hint, where)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return _dataclass(value, hint, where)
        return _scalar(value, hint)
    except MismatchError:  # raised for a part, with its own place
        raise
    except (ValueError, OverflowError):
        raise MismatchError(f"{where} is {value!r}; expected {_name(hint)}") from None


def _container(value: Any, hint: Any, where: str) -> Any:
    """Return a tuple or mapping as the hint says; a ValueError if it has another type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        items = [part for part in value.split(",") if part] if isinstance(value, str) else value
        if isinstance(items, list | tuple):
            return tuple(convert(item, arguments[0], where) for item in items)
    elif isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        kind = arguments[1]
        return {str(key): convert(item, kind, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(value)


def _dataclass(value: Any, kind: type, where: str) -> Any:
    """Return a dataclass, as it is or from a mapping; a ValueError if it has another type."""
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        return from_json(kind, value, where)
    raise ValueError(value)


def _scalar(value: Any, hint: Any) -> Any:
    """Return a bool, number or text; a ValueError if it has another type."""
    text = isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool and text and value in ("true", "false"):
        return value == "true"
    if hint is int and (text or (number and isinstance(value, int))):
        return int(value)
    if hint is float and (text or number) and math.isfinite(float(value)):
        return float(value)
    if hint in (bool, str) and isinstance(value, hint):
        return value
    raise ValueError(value)


def _one_of(value: Any, hints: tuple[Any, ...], where: str) -> Any:
    """Return `value` as the first of several types that accepts it; "none" may mean None."""
    if type(None) in hints and (value is None or value == "none"):
        return None
    kinds = [hint for hint in hints if hint is not type(None)]
    for kind in kinds:
        try:
            return convert(value, kind, where)
        except MismatchError:
            if len(kinds) == 1:
                raise
    raise MismatchError(f"{where} is {value!r}; expected {' or '.join(map(_name, kinds))}")


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        *most, last = map(str, get_args(hint))
        return f"{', '.join(most)} or {last}" if most else last
    return str(getattr(hint, "__name__", hint))


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted path, e.g. "train.lr"."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    items = (leaves(v, f"{prefix}.{k}" if prefix else str(k)) for k, v in value.items())
    return {key: leaf for part in items for key, leaf in part.items()}


def changed(value: Any, default: Any) -> dict[str, Any]:
    """Return the leaves of one dataclass that differ from those of another of its kind."""
    before = leaves(to_json(default))
    return {key: leaf for key, leaf in leaves(to_json(value)).items() if before.get(key) != leaf}
