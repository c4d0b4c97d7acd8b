"""Which paths a `.gitignore` leaves out, in time bounded by what is to be compared.

Patterns come from strangers. As regular expressions of a whole path, `*a*a*a*b` takes for ever; so
each part between slashes is compared by itself, without going back, and `**` by a table.
"""

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from zoo.hub.server.budget import Budget, OverError
from zoo.hub.server.common import Refused

_MOST_PATTERNS = 2_000
_MOST_CHARACTERS = 1024  # of one pattern
_CPU_S = 1.0


@dataclass(frozen=True)
class _Pattern:
    parts: tuple[re.Pattern[str] | None, ...]  # None is `**`
    again: bool  # `!`: what was ignored is not
    folder: bool  # only folders

    def matches(self, parts: list[str]) -> bool:
        """Return whether the pattern stands for exactly this path."""
        ends = {0}
        for pattern in self.parts:
            if pattern is None:
                ends = set(range(min(ends), len(parts) + 1))
            else:
                ends = {at + 1 for at in ends if at < len(parts) and pattern.match(parts[at])}
            if not ends:
                return False
        return len(parts) in ends


class Ignored:
    """The patterns of one `.gitignore`, at the root of a repository."""

    def __init__(self, text: str) -> None:
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if len(lines) > _MOST_PATTERNS or any(len(line) > _MOST_CHARACTERS for line in lines):
            most = f"{_MOST_PATTERNS} patterns of {_MOST_CHARACTERS} characters"
            raise Refused(413, f"a .gitignore may have {most}")
        self._patterns = [pattern for line in lines if (pattern := _pattern(line))]

    def among(self, paths: Iterable[str]) -> set[str]:
        """Return those of the paths, all of files, that are ignored."""
        known: dict[str, bool] = {}
        budget = Budget(_CPU_S)
        try:
            return {path for path in paths if self._is_ignored(path, known, budget)}
        except OverError:
            message = "so many files and .gitignore patterns take too long; send fewer at a time"
            raise Refused(413, message) from None

    def _is_ignored(self, path: str, known: dict[str, bool], budget: Budget) -> bool:
        """Return whether a file is ignored; what is in an ignored folder cannot be taken back."""
        parts = path.split("/")
        for i in range(1, len(parts)):
            folder = "/".join(parts[:i])
            if folder not in known:
                known[folder] = self._says(parts[:i], budget, folder=True)
            if known[folder]:
                return True
        return self._says(parts, budget, folder=False)

    def _says(self, parts: list[str], budget: Budget, *, folder: bool) -> bool:
        for pattern in reversed(self._patterns):
            budget.require()
            if (folder or not pattern.folder) and pattern.matches(parts):
                return not pattern.again
        return False


def _pattern(line: str) -> _Pattern | None:
    while line.endswith(" ") and not line.endswith("\\ "):
        line = line[:-1]
    again = line.startswith("!")
    text = line[again:].removeprefix("\\") if line[again : again + 2] in ("\\!", "\\#") else (
        line[again:]
    )  # fmt: skip
    folder = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    names = [name for name in text.split("/") if name]
    if not names:
        return None
    parts = [None if name == "**" else _part(name) for name in names]
    inside = parts[-1] is None and len(parts) > 1
    if inside:  # `a/**` is what is in it, not the folder itself
        parts.append(_part("*"))
    return _Pattern(tuple(parts if anchored else [None, *parts]), again, folder and not inside)


def _part(name: str) -> re.Pattern[str]:
    """Return a name with `*`, `?` and `[...]` as an expression that does not go back."""
    text, at = "", 0
    while at < len(name):
        if name[at] == "\\" and at + 1 < len(name):
            text += f"[{name[at + 1]}]" if name[at + 1] in "*?[" else name[at + 1]
            at += 2
        elif name.startswith("[^", at):
            text += "[!"
            at += 2
        else:
            text += name[at]
            at += 1
    return re.compile(fnmatch.translate(re.sub(r"\*+", "*", text)))
