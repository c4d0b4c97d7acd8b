"""Fashion-MNIST as a folder of pictures, and a space of small networks that tell them apart."""

import gzip
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from zoo.files import replacing_folder
from zoo.nas.spaces import _ds_cnn, contract
from zoo.nas.spaces.contract import Choice, Decision
from zoo.registry.recipe import Recipe, Train

CLOTHES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
LEARNED_PICTURES, CHOSEN_PICTURES = 6000, 2000


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Which pictures' networks there are.

    Attributes:
        pairs: the numbers of pairs of layers to choose from.

    """

    pairs: tuple[int, ...] = (2, 3, 4, 5)


PICTURES = Recipe(
    name="fashion",
    summary="Clothes in 28x28 grey pixels",
    task="image-classification",
    subtask="image-classification",
    model=_ds_cnn.MODEL,
    args={
        "kernel": [3, 3], "width": 16, "stride": 2, "blocks": [[16, 2]],
        "num_classes": len(CLOTHES), "act": "relu6",
    },
    input_shape=(1, 1, 28, 28),
    preprocessing={
        "channels": "grey", "range": [-1, 1], "resize": "whole, bicubic", "labels": list(CLOTHES),
    },
    make=Train(
        steps=600, batch_size=32, lr=2e-2, weight_decay=0.01, clip_norm=5.0,
        options={"shift": 0, "flip": True, "label_smoothing": 0.0},
    ),
    default_tag="own",
    paper="2010.11267",
)  # fmt: skip


def pictures_recipe(options: PictureOptions, choice: Choice, name: str) -> Recipe:
    """Return the recipe of a choice: the first pair has a stride of 2."""
    blocks = [[choice[f"pair {n}"], 2 if n == 1 else 1] for n in range(1, int(choice["pairs"]) + 1)]
    width = choice["stem"]
    return contract.derived(PICTURES, name, f"{width} and {blocks}", width=width, blocks=blocks)


def pictures_decisions(options: PictureOptions) -> tuple[Decision, ...]:
    """Return the depth and the widths."""
    return _ds_cnn.decisions(2, 64, options.pairs)


FASHION: Any = SimpleNamespace(
    SUMMARY="small networks for pictures", Options=PictureOptions, __name__="fashion",
    decisions=pictures_decisions, recipe=pictures_recipe,
)  # fmt: skip


def clothes(source: Path, runs: Path) -> Path:
    """Return a folder of Fashion-MNIST's pictures: `train`, `val` and `test`."""
    out = runs / "fashion"
    if out.is_dir():
        return out
    names = {"train": "train", "test": "t10k"}
    with replacing_folder(out) as made:
        for part, prefix in names.items():
            images = gzip.decompress((source / f"{prefix}-images-idx3-ubyte.gz").read_bytes())
            labels = gzip.decompress((source / f"{prefix}-labels-idx1-ubyte.gz").read_bytes())
            pixels = np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28)
            most = LEARNED_PICTURES + CHOSEN_PICTURES if part == "train" else len(pixels)
            for number, (pixel, label) in enumerate(zip(pixels[:most], labels[8:], strict=False)):
                chosen = part == "train" and number >= LEARNED_PICTURES
                place = made / ("val" if chosen else part) / CLOTHES[label]
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixel).save(place / f"{number:05}.png", compress_level=1)
    return out
