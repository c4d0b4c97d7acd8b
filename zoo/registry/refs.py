"""Refs, the one grammar for naming a model: `name[.tag]`, `org/repo[@revision]`, or a path.

Other things on the Hub have the Hub's own prefix: `datasets/org/repo`, `spaces/org/repo`,
`collections/owner/slug`. A path starts with `./`, `../`, `/`, `~` or is a `pathlib.Path`; nothing
is ever guessed.
"""

import re
import reprlib
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import MismatchError
from zoo.files import check_name
from zoo.registry.recipe import NAME

_REPO = re.compile(
    r"(?P<repo>((datasets|spaces|collections)/)?[\w.-]{1,96}/[\w.-]{1,128})"
    r"(@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
GRAMMAR = "name[.tag], org/repo[@revision], or a path that starts with ./ or /"


@dataclass(frozen=True)
class NameRef:
    """A recipe's name, with the tag of a set of weights if one was given."""

    name: str
    tag: str | None = None


@dataclass(frozen=True)
class RepoRef:
    """A repository on the Hub (with the prefix of its kind), at a revision if one was given."""

    repo: str
    revision: str | None = None


@dataclass(frozen=True)
class PathRef:
    """A file or folder on this machine."""

    path: Path


def parse(ref: str | Path) -> NameRef | RepoRef | PathRef:
    """Read a ref; nothing is opened or fetched.

    Raises:
        MismatchError: the text fits no form, or reads as a repository although a folder of that
            name is here.

    ```python
    from pathlib import Path

    from zoo.registry.refs import NameRef, PathRef, RepoRef, parse

    assert parse("sesr-m5-x2.bsds") == NameRef("sesr-m5-x2", "bsds")
    assert parse("org/repo@main") == RepoRef("org/repo", "main")
    assert parse("./runs/mine") == PathRef(Path("runs/mine"))
    ```
    """
    if isinstance(ref, Path):
        return PathRef(check_name(ref))
    if not isinstance(ref, str):
        raise MismatchError(f"{reprlib.repr(ref)} is not a ref; expected {GRAMMAR}")
    if ref.startswith(("./", "../", "/", "~", ".\\", "..\\")) or re.match(r"[A-Za-z]:[\\/]", ref):
        try:  # a tilde is special only in front: ./~a is the folder ~a, not a home
            path = Path(ref).expanduser() if ref.startswith("~") else Path(ref)
        except RuntimeError as error:  # ~name of a user who does not exist
            raise MismatchError(f"{ref!r} is not a path: {error}") from error
        return PathRef(check_name(path))
    name, dot, tag = ref.partition(".")
    if NAME.fullmatch(name) and (NAME.fullmatch(tag) if dot else True):
        return NameRef(name, tag or None)
    if match := _REPO.fullmatch(ref):
        if Path(match["repo"]).exists():
            raise MismatchError(
                f"{ref!r} reads as a Hub repository, and that path is here: "
                f"write ./{match['repo']} for the path"
            )
        return RepoRef(match["repo"], match["revision"])
    name, dot, tag = ref.lower().partition(".")
    if NAME.fullmatch(name) and (NAME.fullmatch(tag) if dot else True):
        raise MismatchError(f"{ref!r} is not a ref: names are in lower case; type {ref.lower()}")
    raise MismatchError(f"{ref!r} is not a ref; expected {GRAMMAR}")
