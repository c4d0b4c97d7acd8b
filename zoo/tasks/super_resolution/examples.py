"""Examples for super resolution: drawn pages for the web page, and tiny data for the tests."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from zoo import registry
from zoo.data import render
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Trial, short
from zoo.tasks.super_resolution.enlarging import run


def demo(model: nn.Module, recipe: Recipe, tokenizer: Any, given: int) -> Image.Image:
    """Return a quarter of a drawn page (even) or screen (odd), reduced and enlarged again."""
    scale = int(recipe.args["scale"])
    original = render.picture(render.KINDS[given % 2], 1000, given // 2)
    size = original.width // scale, original.height // scale
    small = original.resize(size, Image.Resampling.BICUBIC)
    large = run(model, recipe, small).image.convert("RGB")
    part = large.crop((0, 0, large.width // 2, large.height // 2))  # so that pixels can be seen
    return part.resize((large.width, large.height), Image.Resampling.NEAREST)


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Draw four pictures of a few squares each."""
    recipe = recipe or registry.find("sesr-m3-x2")
    recipe = short(recipe, patch_size=12, shrunk_copies=0)
    scale = int(recipe.args["scale"])
    dice = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        squares = Image.fromarray(dice.integers(0, 256, (14, 16, 3)).astype(np.uint8))
        size = (squares.width * 2 * scale, squares.height * 2 * scale)
        squares.resize(size, Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=folder / "0.png")
