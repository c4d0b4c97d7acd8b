"""Options of a method: a frozen dataclass, from which everything else about them follows.

Types and defaults are those of its fields; a field's text comes from the section `Attributes:` of
the docstring. Metadata of a field may hold `flags`, other names on the command line
(`("--tune",)`), and `goes_with`, names of fields: if one of these is given again, an older value of
this field is dropped.
"""

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from zoo.errors import MismatchError, UnknownNameError
from zoo.registry.codec import convert, to_json

T = TypeVar("T")
_SECTION = re.compile(r"^Attributes:\n(.*?)(?=^\S|\Z)", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"^    (\w+): (.*?)(?=^    \w|\Z)", re.DOTALL | re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: the field's name.
        text: what it means.
        hint: its type.
        default: its value if not given.
        flags: its names on the command line, the main one first.
        shape: "switch" (a bool), "list" (a flag that is repeated), "table" (a mapping of mappings,
            `PATTERN:KEY=VALUE`, repeated) or "value".

    """

    name: str
    text: str
    hint: Any
    default: Any
    flags: tuple[str, ...]
    shape: Literal["switch", "list", "table", "value"]

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it takes, if only certain words are allowed."""
        kinds = [self.hint, *get_args(self.hint)]
        words = [w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind)]
        return tuple(map(str, words))


def texts(kind: type) -> dict[str, str]:
    """Return what a dataclass and its bases say about each field, in one line each."""
    said: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        section = _SECTION.search(inspect.cleandoc(base.__doc__ or ""))
        for name, text in _ENTRY.findall(section[1] if section else ""):
            said[name] = " ".join(text.split())
    return said


def options(kind: type) -> tuple[Option, ...]:
    """Return the options of a dataclass, in the order of its fields.

    Raises:
        MismatchError: a field has no text or no default, or the default has another type.

    """
    return _options(kind)


@functools.cache
def _options(kind: Any) -> tuple[Option, ...]:
    said, hints = texts(kind), get_type_hints(kind)
    described = []
    for field in dataclasses.fields(kind):
        if field.name not in said:
            raise MismatchError(
                f"{kind.__qualname__}.{field.name} is not described; say what it means in the "
                "section Attributes of the docstring"
            )
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if default is dataclasses.MISSING:
            raise MismatchError(f"{kind.__qualname__}.{field.name} has no default")
        hint = hints[field.name]
        where = f"the default of {kind.__qualname__}.{field.name}"
        if convert(default, hint, where) != default:
            raise MismatchError(f"{where} is {default!r}, which is not of its type")
        flag = f"--{field.name.replace('_', '-')}"
        flags = (flag, *field.metadata.get("flags", ()))
        described.append(Option(field.name, said[field.name], hint, default, flags, _shape(hint)))
    return tuple(described)


def _shape(hint: Any) -> Literal["switch", "list", "table", "value"]:
    origin = get_origin(hint)
    if hint is bool:
        return "switch"
    if origin is tuple:
        return "list"
    return "table" if isinstance(origin, type) and issubclass(origin, Mapping) else "value"


def read(kind: type[T], values: Mapping[str, Any], of: str) -> T:
    """Return the options with these values, JSON types or texts, and defaults for the rest.

    Args:
        kind: the dataclass.
        values: values by option name.
        of: whose options they are, for the error: "gptvq".

    Raises:
        UnknownNameError: there is no such option; similar ones are named.
        MismatchError: a value has another type, or does not go with others.

    """
    known = {option.name: option for option in options(kind)}
    for name in values:
        if name not in known:
            raise UnknownNameError.near("option", name, known, f"of {of}: {', '.join(known)}")
    typed = {
        name: convert(value, known[name].hint, f"option {name}") for name, value in values.items()
    }
    return kind(**typed)


def check_seed(seed: int) -> None:
    """Refuse a seed that not every generator takes; several are made of it by multiplication.

    Raises:
        MismatchError: it is negative, or has more than 32 bits.

    """
    if not 0 <= seed < 2**32:
        raise MismatchError(f"--seed {seed}; expected 0 or more, and less than 2**32")


def merged(kind: type, before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return earlier values updated with the given ones, without what went with an older value."""
    partners = {
        field.name: field.metadata.get("goes_with", ()) for field in dataclasses.fields(kind)
    }
    kept = {k: v for k, v in before.items() if not set(partners.get(k, ())) & set(given)}
    return {**kept, **given}


def carried(old: type, new: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that stay when a method is exchanged for another.

    These are the options that both inherit directly from the same dataclass, which describes the
    work around a method.
    """
    shared = [base for base in new.__bases__ if base in old.__bases__ and base is not object]
    names = {field.name for base in shared for field in dataclasses.fields(base)}
    return {name: value for name, value in values.items() if name in names}


def recorded(value: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return these fields of a dataclass as JSON types, as a recipe records them."""
    whole = to_json(value)
    return {name: whole[name] for name in names}


def words(kind: type, values: Mapping[str, Any]) -> list[str]:
    """Return what to type for those values, JSON types, that differ from the defaults."""
    typed: list[str] = []
    for option in options(kind):
        if option.name not in values:
            continue
        value = convert(values[option.name], option.hint, f"option {option.name}")
        if value == option.default:
            continue
        flag = option.flags[0]
        if option.shape == "switch":
            typed.append(flag if value else f"--no-{flag[2:]}")
        elif option.shape == "list":
            typed += [word for part in value for word in _pair(flag, str(part))]
        elif option.shape == "table":
            typed += [
                word
                for pattern, changes in value.items()
                for key, leaf in changes.items()
                for word in _pair(flag, f"{pattern}:{key}={json.dumps(leaf)}")
            ]
        else:
            typed += _pair(flag, "none" if value is None else str(value))
    return typed


def _pair(flag: str, value: str) -> list[str]:
    """Return a flag and its value, in one word if the value looks like a flag."""
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]
