"""Sparse adapters by ref: a name, `org/repo[@revision]`, a folder or a `.safetensors` file."""

from collections.abc import Mapping
from importlib.resources import as_file
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.adapters import registry
from zoo.adapters.folder import AdapterFolder
from zoo.adapters.recipe import AdapterRecipe
from zoo.artifacts import resolution
from zoo.content import content
from zoo.errors import MismatchError, MissingWeightsError, UnsafeFileError
from zoo.files import sha256
from zoo.registry import refs

if TYPE_CHECKING:
    from zoo.adapters.format import SparseAdapter

Ref = str | Path


def folder(ref: Ref) -> AdapterFolder:
    """Return the folder of an adapter: on this machine, or pulled from the Hub.

    Raises:
        MissingWeightsError: the folder does not hold an adapter.

    """
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        raise MismatchError(f"{ref!r} is a name; a folder starts with ./ or /")
    if isinstance(parsed, refs.RepoRef):
        pulled = resolution.pull(ref)
        return AdapterFolder.read(pulled if isinstance(pulled, Path) else pulled.path)
    path = parsed.path
    return AdapterFolder.read(path.parent if path.is_file() else path)


def adapter(ref: Ref) -> "SparseAdapter":
    """Return the sparse adapter that a ref means, after checking its file.

    Raises:
        UnknownNameError: there is no such name.
        MissingWeightsError: the name has no weights here, or nothing is at the path.
        UnsafeFileError: a file is damaged, hostile, or not the one that its record names.
        HubError: see `zoo.pull`.

    """
    from zoo.adapters.format import SparseAdapter

    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        return _shipped(registry.find(parsed.name))
    if isinstance(parsed, refs.PathRef) and parsed.path.is_file():
        return SparseAdapter.load(parsed.path)
    if isinstance(parsed, refs.PathRef) and not parsed.path.exists():
        raise MissingWeightsError(f"there is no adapter at {parsed.path}")
    source = folder(ref)
    if not source.file.is_file():
        raise MissingWeightsError(
            f"{source.path} holds an adapter of method {source.recipe.method!r}, which PEFT "
            "loads; to make it sparse, type: zoo adapter convert"
        )
    return SparseAdapter.load(source.file)


def _shipped(recipe: AdapterRecipe) -> "SparseAdapter":
    """Return a registered adapter: the file next to its TOML, or from its Hub repository."""
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


def about(ref: Ref) -> AdapterRecipe | None:
    """Return the recipe behind a ref; None for a lone file."""
    parsed = refs.parse(ref)
    if isinstance(parsed, refs.NameRef):
        return registry.find(parsed.name)
    if isinstance(parsed, refs.PathRef) and parsed.path.is_file():
        return None
    return folder(ref).recipe
