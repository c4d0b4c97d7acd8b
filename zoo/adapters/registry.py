"""Named adapters: one TOML file each in `adapters/`, and nothing else to register. Free of torch.

An adapter is named like a model: `name` of the registry, `org/repo[@revision]` on the Hub, or a
path to a folder or a `.safetensors` file, which starts with `./` or `/`.
"""

import fnmatch
import functools
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zoo.adapters.recipe import AdapterRecipe, MaskOptions
from zoo.content import content
from zoo.errors import MismatchError, UnknownNameError
from zoo.registry import catalogue, refs
from zoo.registry.codec import from_json
from zoo.registry.layout import UNSTATED
from zoo.registry.licences import commercial

Ref = str | Path


def read_toml(text: str, name: str) -> AdapterRecipe:
    """Return the recipe of a TOML file; `name` is the file's name.

    Raises:
        MismatchError: it is not valid TOML, a field is unknown or has the wrong type, or the name
            inside is another one.

    """
    try:
        recipe = AdapterRecipe.from_json({"name": name, **tomllib.loads(text)})
    except tomllib.TOMLDecodeError as error:
        raise MismatchError(f"{name}.toml is not valid TOML: {error}") from error
    if recipe.name != name:
        raise MismatchError(f"{name}.toml calls itself {recipe.name!r}; one of the two is wrong")
    return recipe


@functools.cache
def all_adapters() -> Mapping[str, AdapterRecipe]:
    """Return every named adapter, in name order."""
    recipes = {}
    for file in content("adapters").iterdir():
        name, dot, suffix = file.name.rpartition(".")
        if dot and suffix == "toml":
            recipes[name] = read_toml(file.read_text(encoding="utf-8"), name)
    return MappingProxyType({name: recipes[name] for name in sorted(recipes)})


def names(pattern: str = "*", base: str | None = None) -> list[str]:
    """Return the names that match a shell-style pattern, of one base model if `base` is given.

    A base's bare name means what it means in `zoo.load`: the weights of its default tag.
    """
    wanted = base and with_tag(base)
    return [
        name
        for name, recipe in all_adapters().items()
        if fnmatch.fnmatchcase(name, pattern) and wanted in (None, with_tag(recipe.base))
    ]


def find(name: str) -> AdapterRecipe:
    """Return the recipe of a named adapter.

    Raises:
        UnknownNameError: there is no such adapter; the message lists near misses.

    """
    if name not in all_adapters():
        raise UnknownNameError.near("adapter", name, all_adapters(), "type: zoo adapter list")
    return all_adapters()[name]


def licence(recipe: AdapterRecipe) -> str:
    """Return the licence of a named adapter's weights: a matter of the data it was trained on."""
    return str(recipe.weights.get("license") or recipe.data.get("license") or UNSTATED)


def may_ship(recipe: AdapterRecipe) -> bool:
    """Say whether a company may ship an adapter.

    Its own licence must allow it, and that of the weights it was trained on, where this package
    has them; the licence of any other base is its user's to look up.
    """
    name, dot, tag = with_tag(recipe.base).partition(".")
    if dot and name in catalogue.all_recipes():
        of_base = catalogue.shipped_licences(name).get(tag)
        if of_base is not None and not commercial(of_base):
            return False
    return commercial(licence(recipe))


def recipe_for(
    name: str, base: str | None, task: str | None, settings: Mapping[str, Any]
) -> AdapterRecipe:
    """Return the recipe of a named adapter, or of a new one with the defaults of its task.

    Raises:
        UnknownNameError: there is no such adapter and no base or task was given, or there is no
            such task.

    """
    if name in names():
        if task not in (None, find(name).task):
            raise MismatchError(f"{name} is for the task {find(name).task}, not {task}")
        return find(name).override(settings)
    if base is None or task is None:
        raise UnknownNameError.near(
            "adapter", name, names(), "zoo adapter list; a new one needs --base and --task"
        )
    parsed = refs.parse(base)
    label = parsed.path.resolve().name if isinstance(parsed, refs.PathRef) else base
    if not label or not label.isprintable():  # it is written in files and on the card
        raise MismatchError(
            f"{base!r} has no name that can be printed; move it to a folder that does"
        )
    return new(name, label, task).override(settings)


def new(name: str, base: str, task: str) -> AdapterRecipe:
    """Return the recipe of a new adapter, with the defaults of its task.

    Args:
        name: name of the adapter.
        base: what the base model is called: a ref, or the name of a folder, never its path.
        task: one that has defaults.

    """
    from zoo import tasks  # needs torch

    facts = tasks.named(task).FACTS
    if facts.adapter is None:
        raise MismatchError(f"the task {task!r} has no adapters; zoo adapter list shows some")
    summary = f"{task} adapter of {base}"
    mask = from_json(MaskOptions, facts.adapter_mask, "adapter.mask")
    return AdapterRecipe(
        name=name, summary=summary, base=base, task=task, train=facts.adapter, mask=mask
    )


def with_tag(base: str) -> str:
    """Return a recipe's base with the tag that a bare name means today; others as they are."""
    parsed = _parsed(base)
    if isinstance(parsed, refs.NameRef) and parsed.name in catalogue.all_recipes():
        return f"{parsed.name}.{parsed.tag or catalogue.find(parsed.name).default_tag}"
    return base


def base_ref(base: str) -> str:
    """Return what to type for a recipe's base: a folder's name that is not a ref becomes a path."""
    return base if _parsed(base) is not None else f"./{base}"


@functools.cache
def base_digests(base: str) -> dict[str, dict[str, str]]:
    """Return tensor name -> type -> digest of a base that is known by name; {} for others.

    It identifies the base of adapters that are older than the digests kept with each of them.
    """
    if not isinstance(_parsed(base), refs.NameRef):
        return {}
    path = content("adapters") / "bases" / f"{base}.json"
    digests: dict[str, dict[str, str]] = {}
    if path.is_file():
        for kind, tensors in json.loads(path.read_text(encoding="utf-8")).items():
            for name, value in tensors.items():
                digests.setdefault(name, {})[kind] = value
    return digests


def _parsed(base: str) -> refs.NameRef | refs.RepoRef | refs.PathRef | None:
    """Return a base's ref; None for a folder's name that is not a ref."""
    try:
        return refs.parse(base)
    except MismatchError:
        return None


def file_path(recipe: AdapterRecipe) -> Path | None:
    """Return the file that ships with a named adapter, if it exists as a file on this machine."""
    name = recipe.weights.get("file")
    path = Path(str(content("adapters") / str(name)))
    return path if name and path.is_file() else None
