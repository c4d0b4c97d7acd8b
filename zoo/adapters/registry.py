"""Named adapters: one TOML file each in `adapters/`, found by being there. Free of torch.

An adapter is named like a model: `name` of the registry, `org/repo[@revision]` on the Hub, or a
path to a folder or a `.safetensors` file, which starts with `./` or `/`.
"""

import fnmatch
import functools
import tomllib
from collections.abc import Mapping
from importlib.resources import as_file
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from zoo.adapters.recipe import AdapterRecipe
from zoo.content import content
from zoo.errors import MismatchError, MissingWeightsError, UnknownNameError, UnsafeFileError
from zoo.files import sha256
from zoo.registry import refs

if TYPE_CHECKING:
    from zoo.adapters.folder import AdapterFolder
    from zoo.adapters.format import SparseAdapter

Ref = str | Path


def read_toml(text: str, name: str) -> AdapterRecipe:
    """Return the recipe of a TOML file; `name` is that of the file.

    Raises:
        MismatchError: no TOML, an unknown field, a wrong type, or another name inside.

    """
    try:
        recipe = AdapterRecipe.from_json({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise MismatchError(f"{name}.toml is no TOML: {error}") from error
    if recipe.name != name:
        raise MismatchError(f"{name}.toml calls itself {recipe.name!r}; one of the two is wrong")
    return recipe


@functools.cache
def all_adapters() -> Mapping[str, AdapterRecipe]:
    """Return every named adapter, in name order."""
    found = {}
    for item in content("adapters").iterdir():
        name, dot, suffix = item.name.rpartition(".")
        if dot and suffix == "toml":
            found[name] = read_toml(item.read_text(encoding="utf-8"), name)
    return MappingProxyType({name: found[name] for name in sorted(found)})


def names(pattern: str = "*", base: str | None = None) -> list[str]:
    """Return the names that match a shell-style pattern, of one base model if that is given."""
    return [
        name
        for name, recipe in all_adapters().items()
        if fnmatch.fnmatchcase(name, pattern) and base in (None, recipe.base)
    ]


def find(name: str) -> AdapterRecipe:
    """Return the recipe of a named adapter.

    Raises:
        UnknownNameError: there is none; the message lists near misses.

    """
    if name not in all_adapters():
        raise UnknownNameError.near("adapter", name, all_adapters(), "type: zoo adapter list")
    return all_adapters()[name]


def recipe_for(
    name: str, base: str | None, task: str | None, settings: Mapping[str, Any]
) -> AdapterRecipe:
    """Return the recipe of a named adapter, or of a new one with the defaults of its task.

    Raises:
        UnknownNameError: no such adapter, and no base or task was given; or no such task.

    """
    if name in names():
        if task not in (None, find(name).task):
            raise MismatchError(f"{name} is for the task {find(name).task}, not {task}")
        return find(name).override(settings)
    if base is None or task is None:
        raise UnknownNameError.near(
            "adapter", name, names(), "zoo adapter list; a new one needs --base and --task"
        )
    from zoo import tasks  # needs torch

    train = tasks.named(task).FACTS.adapter
    if train is None:
        raise MismatchError(f"the task {task!r} has no adapters; zoo adapter list shows some")
    parsed = refs.parse(base)
    label = parsed.path.resolve().name if isinstance(parsed, refs.PathRef) else base
    new = AdapterRecipe(
        name=name,
        summary=f"{task} adapter of {label}",
        base=label,  # never a path of the user's machine
        task=task,
        train=train,
    )
    return new.override(settings)


def folder(ref: Ref) -> "AdapterFolder":
    """Return the folder of an adapter: on this machine, or pulled from the Hub.

    Raises:
        MissingWeightsError: it is no adapter's folder.

    """
    from zoo.adapters.folder import AdapterFolder
    from zoo.artifacts.resolve import pull

    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        raise MismatchError(f"{ref!r} is a name; a folder starts with ./ or /")
    if isinstance(parsed, refs.RepoRef):
        found = pull(ref)
        return AdapterFolder.read(found if isinstance(found, Path) else found.path)
    path = parsed.path
    return AdapterFolder.read(path.parent if path.is_file() else path)


def adapter(ref: Ref) -> "SparseAdapter":
    """Return the sparse adapter a ref means, its file checked.

    Raises:
        UnknownNameError: no such name.
        MissingWeightsError: the name has no weights here, or nothing is at the path.
        UnsafeFileError: a file is damaged, hostile, or not the one its record names.
        HubError: see `zoo.pull`.

    """
    from zoo.adapters.format import SparseAdapter

    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        return _shipped(find(parsed.name))
    if isinstance(parsed, refs.PathRef) and parsed.path.is_file():
        return SparseAdapter.load(parsed.path)
    if isinstance(parsed, refs.PathRef) and not parsed.path.exists():
        raise MissingWeightsError(f"there is no adapter at {parsed.path}")
    source = folder(ref)
    if not source.file.is_file():
        raise MissingWeightsError(
            f"{source.path} holds an adapter of method {source.recipe.method!r}, which PEFT "
            "loads; type: zoo adapter convert, to make a sparse one of it"
        )
    return SparseAdapter.load(source.file)


def _shipped(recipe: AdapterRecipe) -> "SparseAdapter":
    """Return a registered adapter: the file beside its TOML, or that of its Hub repository."""
    from zoo.adapters.format import SparseAdapter

    weights: Mapping[str, Any] = recipe.weights
    if "repo" in weights:
        return adapter(f"{weights['repo']}@{weights.get('revision', 'main')}")
    if "file" not in weights:
        raise MissingWeightsError(
            f"no weights of the adapter {recipe.name!r} are shipped; type: zoo adapter train "
            f"{recipe.name} --data DATA --out runs/{recipe.name}"
        )
    with as_file(content("adapters") / str(weights["file"])) as path:
        if not path.is_file() or sha256(path) != weights.get("sha256"):
            raise UnsafeFileError(
                f"{path} is missing or is not the file that {recipe.name}.toml records; install "
                "edge-zoo again"
            )
        return SparseAdapter.load(path)


def file_path(recipe: AdapterRecipe) -> Path | None:
    """Return the file that ships with a named adapter, where it lies as one on this machine."""
    name = recipe.weights.get("file")
    path = Path(str(content("adapters") / str(name)))
    return path if name and path.is_file() else None


def about(ref: Ref) -> AdapterRecipe | None:
    """Return the recipe behind a ref; None for a lone file."""
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        return find(parsed.name)
    if isinstance(parsed, refs.PathRef) and parsed.path.is_file():
        return None
    return folder(ref).recipe
