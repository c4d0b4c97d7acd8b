"""All recipes: those of the built-in families and of installed third-party packages.

A family is a module of `zoo.recipes` with a tuple `RECIPES`; nothing else is registered. A
third-party package offers the same through an entry point of the group `zoo.recipes` whose
value is a module or such a tuple.
"""

import fnmatch
import functools
import importlib
import importlib.metadata
import pkgutil
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import zoo.recipes
from zoo.content import content
from zoo.errors import MismatchError, UnknownNameError
from zoo.files import read_json
from zoo.registry.layout import UNSTATED, facts_file
from zoo.registry.recipe import NAME, Recipe, Train

ENTRY_POINTS = "zoo.recipes"
WEIGHTS = Path(__file__).parents[1] / "weights"
COUNTS = Path(__file__).parents[1] / "recipes" / "counts.json"


def _collect() -> Iterable[tuple[str, Recipe]]:
    for module in pkgutil.iter_modules(zoo.recipes.__path__):
        source = f"zoo.recipes.{module.name}"
        for recipe in importlib.import_module(source).RECIPES:
            yield source, recipe
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
            held = getattr(loaded, "RECIPES", loaded)
            recipes = tuple(held) if isinstance(held, Iterable) else (held,)
        except Exception as error:  # whatever another package's code raises
            raise MismatchError(
                f"entry point {point.name} ({point.value}) cannot be loaded: "
                f"{type(error).__name__}: {error}; repair or uninstall the package that brings it"
            ) from error
        for recipe in recipes:
            yield f"entry point {point.name} ({point.value})", recipe


@functools.cache
def all_recipes() -> Mapping[str, Recipe]:
    """Return every recipe by name, in name order; numbers in names count as numbers.

    Raises:
        MismatchError: two sources define the same name, or an entry point holds no recipes or
            cannot be imported.

    """
    defined: dict[str, tuple[str, Recipe]] = {}
    for source, recipe in _collect():
        if not isinstance(recipe, Recipe):
            raise MismatchError(
                f"{source} holds {recipe!r}; expected zoo.Recipes, or a module with RECIPES"
            )
        if recipe.name in defined:
            raise MismatchError(
                f"recipe {recipe.name!r} is defined by {defined[recipe.name][0]} and by {source}; "
                "rename one, or uninstall the package that brings it"
            )
        defined[recipe.name] = (source, recipe)
    return MappingProxyType({name: defined[name][1] for name in sorted(defined, key=_natural)})


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def names(pattern: str = "*") -> list[str]:
    """Return the recipe names that match a shell-style pattern, in natural order.

    ```python
    import zoo

    assert "sesr-m5-x2" in zoo.names("sesr-*")
    ```
    """
    return [name for name in all_recipes() if fnmatch.fnmatchcase(name, pattern)]


def find(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        UnknownNameError: there is no such recipe; the message lists similar names, or says how to
            load the adapter, or the base model of adapters, that is called so.

    ```python
    import zoo

    print(zoo.find("sesr-m5-x2").input_shape)
    ```

    """
    recipes = all_recipes()
    if name not in recipes:
        if base := _base_of(name):
            raise UnknownNameError(
                f"{name!r} is not a recipe but an adapter of {base}: type zoo adapter info {name}, "
                f'or in Python: zoo.load("{base}", adapter="{name}")'
            )
        if adapter := _adapter_of(name):
            raise UnknownNameError(
                f"{name!r} is not a recipe but a base model of adapters; load it with one, in "
                f'Python: zoo.load("{name}", adapter="{adapter}"); '
                f"zoo adapter list --base {name} shows all"
            )
        raise UnknownNameError.near("recipe", name, recipes, "type: zoo list")
    return recipes[name]


def _base_of(adapter: str) -> str | None:
    """Return the base model of an adapter that ships, or None."""
    file = content("adapters") / f"{adapter}.toml"
    if not NAME.fullmatch(adapter) or not file.is_file():
        return None
    return str(tomllib.loads(file.read_text(encoding="utf-8")).get("base"))


def _adapter_of(base: str) -> str | None:
    """Return the name of the first adapter that ships for a base model, or None."""
    files = (file for file in content("adapters").iterdir() if file.name.endswith(".toml"))
    for file in sorted(files, key=lambda file: file.name):
        if tomllib.loads(file.read_text(encoding="utf-8")).get("base") == base:
            return file.name.removesuffix(".toml")
    return None


def weights_folder() -> Path:
    """Return the folder of the checkpoints that this package ships, `<name>.<tag>`."""
    return WEIGHTS


def shipped_tags(name: str) -> list[str]:
    """Return the tags of the weights that this package ships for a recipe."""
    return sorted(
        folder.name.partition(".")[2]
        for folder in WEIGHTS.glob(f"{name}.*")
        if (folder / "config.json").is_file()
    )


def shipped_licences(name: str) -> dict[str, str]:
    """Return tag -> licence of the weights that this package ships for a recipe."""
    return {
        tag: str(read_json(facts_file(WEIGHTS / f"{name}.{tag}")).get("license", UNSTATED))
        for tag in shipped_tags(name)
    }


@functools.cache
def counts() -> Mapping[str, Mapping[str, int]]:
    """Return `parameters` and `macs` of this package's networks, deployed, at their own inputs.

    They were counted once, since building a network takes seconds: `python -m docs.make.counts`.
    """
    return MappingProxyType(read_json(COUNTS))


def importable_models() -> tuple[str, ...]:
    """Return the module prefixes that a checkpoint may name its network from.

    These are the zoo's own models and those of installed third-party recipes: a config file that
    comes with weights never chooses which code runs.
    """
    trained = (recipe for recipe in all_recipes().values() if isinstance(recipe.make, Train))
    own = {recipe.model.split(":")[0] for recipe in trained}
    return ("zoo.models.", *sorted(own))
