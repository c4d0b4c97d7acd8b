"""Every error the zoo raises on purpose.

```
ZooError
├── UnknownNameError    (LookupError)   a recipe, tag, target, method or format that does not exist
├── MissingWeightsError                 a recipe whose weights are not here
├── MismatchError       (ValueError)    input that does not fit what was expected
├── UnsafeFileError                     a file that must not be opened
├── HubError            (OSError)       the Hub, the network, or the right to use them
└── MissingExtraError   (ImportError)   an optional package that is not installed
```

A message says what was given, what was expected, and the next command to type.
"""

import difflib
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PINS = _ROOT / "constraints.txt"


class ZooError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""


class UnknownNameError(ZooError, LookupError):
    """A name under which nothing is registered."""

    @classmethod
    def near(cls, kind: str, given: object, known: Iterable[str], hint: str) -> "UnknownNameError":
        """Build the error for an unknown name, listing the known names closest to it."""
        names = sorted(known)
        close = difflib.get_close_matches(str(given).lower(), names, n=3, cutoff=0.5)
        guess = f"; did you mean {' or '.join(close)}?" if close else ""
        return cls(f"unknown {kind} {given!r}{guess} ({hint})")


class MissingWeightsError(ZooError):
    """A recipe is known, but no trained weights for it are at hand."""


class MismatchError(ZooError, ValueError):
    """Something given does not fit what was expected."""


class UnsafeFileError(ZooError):
    """A file is corrupt, tampered with, or of a kind that is never opened."""


class HubError(ZooError, OSError):
    """The Hub could not be reached, or refused."""


class MissingExtraError(ZooError, ImportError):
    """A package of an optional extra is not installed."""

    @classmethod
    def of(cls, package: str, extra: str) -> "MissingExtraError":
        """Build the error for `package`, which the extra `extra` would install."""
        return cls(f"{package} is not installed; type: {install(*_wanted(package, extra))}")


def install(*words: str) -> str:
    """Return the command line that installs `words` where this interpreter finds them."""
    pins = ["-c", _typed(_PINS)] if _is_checkout() else []
    line = [_typed(Path(sys.executable or "python")), "-m", "pip", "install", *pins, *words]
    if os.name == "nt":
        from subprocess import list2cmdline

        return list2cmdline(line)
    return shlex.join(line)


def newer() -> str:
    """Return how to get a newer zoo than this one; the zoo is not in any package index."""
    if _is_checkout():
        return f"type: git -C {shlex.quote(_typed(_ROOT))} pull"
    return "install a newer wheel of edge-zoo"


def _wanted(package: str, extra: str) -> list[str]:
    """Return what pip installs for an extra: the checkout with it, or else its requirements."""
    if _is_checkout():
        return ["-e", f"{_typed(_ROOT)}[{extra}]"]
    from importlib import metadata

    try:
        lines = metadata.requires("edge-zoo") or []
    except metadata.PackageNotFoundError:  # a copy of the folder, as on a Space
        lines = []
    split = [line.partition(";") for line in lines]
    requirements = [
        name.strip() for name, _, marker in split if marker.strip() == f"extra == '{extra}'"
    ]
    return requirements or [package]


def _is_checkout() -> bool:
    return (_ROOT / "pyproject.toml").is_file() and _PINS.is_file()


def _typed(path: Path) -> str:
    """Return a path in the shortest form that can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # not below the current folder, or that is gone
        return str(path)
