"""What exists and where: recipes by name, refs, checkpoints. Free of torch."""

from zoo.registry.catalogue import (
    all_recipes,
    counts,
    find,
    importable_models,
    names,
    shipped_licences,
    shipped_tags,
    weights_folder,
)

__all__ = [
    "all_recipes",
    "counts",
    "find",
    "importable_models",
    "names",
    "shipped_licences",
    "shipped_tags",
    "weights_folder",
]
