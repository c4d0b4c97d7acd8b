"""All compression methods by name, from every room and from installed packages."""

from collections.abc import Mapping
from typing import Any

from zoo import extensions
from zoo.compression.contract import Method, checked
from zoo.errors import MismatchError, UnknownNameError

ROUNDING = "rtn"  # takes the name of a format alone: it needs no data
POINTS = (
    "zoo.compression.methods",
    "zoo.quantization.methods",
    "zoo.nas.methods",
    "zoo.resilience.methods",
)


def names() -> list[str]:
    """Return the names of all methods, without importing one.

    Raises:
        MismatchError: two packages offer the same name.

    """
    return sorted(_points())


def _points() -> dict[str, str]:
    """Return the extension point of each method."""
    points: dict[str, str] = {}
    for point in POINTS:
        for name in extensions.names(point):
            if points.setdefault(name, point) != point:
                raise MismatchError(
                    f"method {name!r} is in {points[name]} and in {point}; rename one, or "
                    "uninstall the package that brings it"
                )
    return points


def find(name: str) -> Method:
    """Return a method.

    Raises:
        UnknownNameError: there is no such method; similar names, of presets too, are listed.
        MismatchError: the method lacks a part of the contract, or cannot be imported.

    """
    points = _points()
    if name not in points:
        known = [*points, *(find(ROUNDING).PRESETS if ROUNDING in points else ())]
        known += [f"{other}-{preset}" for other in points for preset in find(other).PRESETS]
        raise UnknownNameError.near("method", name, known, f"known: {', '.join(known)}")
    return checked(name, extensions.member(points[name], name, "method"))


def split(text: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a method, and the options that a preset in the text stands for.

    Args:
        text: a method, or method and preset: "gptvq", "gptvq-2d-2b"; or a format, to which is
            rounded: "int4", "nf4".

    """
    known = names()
    if text not in known and text in find(ROUNDING).PRESETS:
        text = f"{ROUNDING}-{text}"
    for name in sorted(known, key=len, reverse=True):
        if text == name:
            return name, {}
        rest = text.removeprefix(f"{name}-")
        if rest != text and rest in (presets := find(name).PRESETS):
            return name, presets[rest]
    find(text)  # raises, naming similar ones
    raise AssertionError(text)


def preset(method: str, name: str) -> Mapping[str, Any]:
    """Return the options that a preset of a method stands for.

    Raises:
        UnknownNameError: the method has no such preset.

    """
    presets = find(method).PRESETS
    if name not in presets:
        hint = f"of {method}: {', '.join(presets) or 'none'}"
        raise UnknownNameError.near("preset", name, presets, hint)
    return presets[name]
