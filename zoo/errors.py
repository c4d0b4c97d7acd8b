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
from collections.abc import Iterable


class ZooError(Exception):
    """Base of all errors raised on purpose; the command line prints it as one line."""


class UnknownNameError(ZooError, LookupError):
    """A name that nothing is registered under."""

    @classmethod
    def near(cls, kind: str, given: str, known: Iterable[str], hint: str) -> "UnknownNameError":
        """Build the error for `given`, listing the known names closest to it."""
        names = sorted(known)
        close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
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
        return cls(f"{package} is not installed; type: pip install 'edge-zoo[{extra}]'")
