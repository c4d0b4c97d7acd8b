"""What `zoo list` says of networks without building them: parameters and MACs at their inputs.

Run: python -m docs.make.counts
"""

import json
from pathlib import Path

import torch

from zoo import registry
from zoo.graph.trace import trace
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe

FILE = Path(__file__).resolve().parents[2] / "zoo/recipes/counts.json"


def counted(recipe: Recipe) -> dict[str, int]:
    """Return the parameters and MACs of a deployed network, counted on its graph."""
    with torch.device("meta"):
        graph = trace(build(recipe), recipe.input_shape)
    return {"parameters": sum(graph.parameters.values()), "macs": graph.macs}


def main() -> None:
    """Count every network, and write the file."""
    recipes = [r for r in registry.all_recipes().values() if not r.of_transformers]
    found = {recipe.name: counted(recipe) for recipe in recipes}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
