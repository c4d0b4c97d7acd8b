"""Examples for super resolution: drawn pages for the web page, and tiny data for the tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from zoo import registry
from zoo.data import images, render
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Trial, short
from zoo.tasks.super_resolution.enlarging import run

SEEN = (240, 160)  # width and height of the part of a picture that the page enlarges
_SHOWN = 480  # pixels in width: what is smaller is magnified, so that single ones can be seen


def demo(model: nn.Module, recipe: Recipe, tokenizer: Any, given: Path) -> Iterator[Image.Image]:
    """Yield the middle of a picture, enlarged; of a small one each pixel as a square of them.

    Raises:
        MismatchError: the file is no picture.

    """
    picture = images.to_pillow(images.read(given, given.name))
    size = [min(most, length) for most, length in zip(SEEN, picture.size, strict=True)]
    left, top = ((length - part) // 2 for part, length in zip(size, picture.size, strict=True))
    part = picture.crop((left, top, left + size[0], top + size[1]))
    large = run(model, recipe, part).image.convert("RGB")
    times = max(1, _SHOWN // large.width)
    yield large.resize((large.width * times, large.height * times), Image.Resampling.NEAREST)


def samples(folder: Path) -> list[Path]:
    """Write parts of drawn pages and screens, too small to read with ease."""
    files = []
    for number in range(4):
        original = render.picture(render.KINDS[number % 2], 1000, number // 2)
        small = original.resize(SEEN, Image.Resampling.BICUBIC)
        files.append(folder / f"{render.KINDS[number % 2]}-{number // 2 + 1}.png")
        small.crop((0, 0, SEEN[0] // 2, SEEN[1] // 2)).save(files[-1])
    return files


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
