"""Extension points: folders whose modules are their members, as are packages' entry points.

A point is the dotted name of a room's folder, e.g. "zoo.cost.estimators". Its members are the
modules of that folder, and what installed packages offer through the entry-point group of the same
name. A module's `_` becomes `-` in a member's name; modules that begin with `_`, and `contract`,
are not members. Installed plug-ins are trusted code. Nothing is imported before it is needed.
"""

import functools
import importlib
import importlib.metadata
import pkgutil
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from zoo.errors import MismatchError, UnknownNameError


@functools.cache
def members(point: str) -> Mapping[str, str]:
    """Return where to import each member of a point from, by name, in name order.

    Raises:
        MismatchError: two packages offer the same name, or one offers an invalid name.

    """
    folder = importlib.import_module(point)
    places = {
        module.name.replace("_", "-"): f"{point}.{module.name}"
        for module in pkgutil.iter_modules(folder.__path__)
        if not module.name.startswith("_") and module.name != "contract"
    }
    for entry in importlib.metadata.entry_points(group=point):
        name = entry.name.replace("_", "-")
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise MismatchError(
                f"entry point {entry.name!r} ({entry.value}) of {point}: expected a "
                "name of letters, digits and hyphens; rename it, or uninstall the package that "
                "brings it"
            )
        if places.setdefault(name, entry.value) != entry.value:
            raise MismatchError(
                f"{name!r} of {point} is defined by {places[name]} and by entry point {entry.name} "
                f"({entry.value}); rename one, or uninstall the package that brings it"
            )
    return MappingProxyType(dict(sorted(places.items())))


def names(point: str) -> list[str]:
    """Return the names of a point's members, without importing one."""
    return list(members(point))


def member(point: str, name: str, what: str) -> Any:
    """Return a member, imported: a module, or the object that an entry point names.

    Args:
        point: the extension point, e.g. "zoo.cost.estimators".
        name: the member's name; `_` and `-` are the same.
        what: what a member is, for the error: "estimator".

    Raises:
        UnknownNameError: there is no such member; the message lists near misses.
        MismatchError: another package's member cannot be imported.

    """
    known = members(point)
    key = name.replace("_", "-")
    if key not in known:
        raise UnknownNameError.near(what, name, known, f"known: {', '.join(known)}")
    target = known[key]
    if target.startswith(f"{point}."):
        return importlib.import_module(target)
    module, _, attribute = target.partition(":")
    try:
        loaded: Any = importlib.import_module(module)
        for part in filter(None, attribute.split(".")):
            loaded = getattr(loaded, part)
    except Exception as error:  # another package's code may raise anything
        raise MismatchError(
            f"entry point {name} ({target}) of {point} cannot be loaded: "
            f"{type(error).__name__}: {error}; repair or uninstall the package that brings it"
        ) from error
    return loaded


def require(member: Any, parts: Mapping[str, Any], what: str, contract: str) -> None:
    """Raise if a member lacks a part of its contract.

    Args:
        member: as `member` returns it.
        parts: the type of each part; `Callable` for a function.
        what: what the member is, for the error: "estimator 'roofline'".
        contract: the module that defines what a member is.

    Raises:
        MismatchError: a part is missing, or has another type.

    """
    for part, kind in parts.items():
        if not isinstance(getattr(member, part, None), kind):
            expected = "a function" if kind is Callable else f"a {kind.__name__}"
            raise MismatchError(f"{what} has no {part} that is {expected}; see {contract}")
