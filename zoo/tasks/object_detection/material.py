"""What a detector learns from and is judged on: scenes, fitted to the network's input."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.data import coco, images
from zoo.data.coco import Floats, Scene, Scenes
from zoo.data.text import draw
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe
from zoo.tasks.object_detection.maps import target

HOLD_OUT_EVERY = 10
STRIDE = 8  # pixels of a cell of the network's map
GREY = 128  # what surrounds a picture of another shape than the network's input
_LOG = logging.getLogger("zoo")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class BoxedPictures:
    """The training data of a detector.

    Attributes:
        train: pictures that batches are drawn from.
        held_out: the split `val`, or every tenth picture; never trained on.
        fingerprint: SHA-256 over labels, names, boxes and pictures.
        facts: what a card says about the data.

    """

    train: tuple[Scene, ...]
    held_out: tuple[Scene, ...]
    fingerprint: str
    facts: dict[str, Any]


def labels_of(recipe: Recipe) -> list[str]:
    """Return the labels, in the order of the network's outputs."""
    return list(recipe.preprocessing["labels"])


def for_data(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with the categories of the data as labels, if they are not its own.

    Raises:
        MismatchError: see `zoo.data.coco.read`.

    """
    found = _split(source, "train").labels
    if set(found) <= set(labels_of(recipe)):
        return recipe
    return replace(
        recipe,
        args={**recipe.args, "num_classes": len(found)},
        preprocessing={**recipe.preprocessing, "labels": list(found)},
    )


def material(recipe: Recipe, source: str) -> BoxedPictures:
    """Return the pictures of a folder, or of a data set on the Hub, to train on.

    Raises:
        MismatchError: they cannot be used, or are too few.

    """
    whole = known(_split(source, "train"), recipe, source)
    other = _split(source, "val", "valid", "validation", needed=False)
    train, held = whole.scenes, () if other is None else known(other, recipe, source).scenes
    if other is None:
        numbered = list(enumerate(train))
        held = tuple(scene for number, scene in numbered if number % HOLD_OUT_EVERY == 0)
        train = tuple(scene for number, scene in numbered if number % HOLD_OUT_EVERY)
    if not train or not any(len(scene.boxes) for scene in held):
        raise MismatchError(
            f"{source} has {len(whole)} pictures to train on, and boxes in none of those held out; "
            f"expected a split val with boxes, or {2 * HOLD_OUT_EVERY} pictures and more"
        )
    usable = _usable(train, source)
    fingerprint = Scenes(whole.labels, (*train, *held)).digest()
    path = Path(source).expanduser()
    facts = {
        "source": path.resolve().name if path.is_dir() else source,
        "images": len(usable),
        "boxes": sum(len(scene.boxes) for scene in usable),
        "held_out": len(held),
        "sha256": fingerprint,
    }
    return BoxedPictures(usable, held, fingerprint, facts)


def _split(source: str, *names: str, needed: bool = True) -> Any:
    """Return the first split of these names, of a folder or a data set; None if none is needed."""
    path = Path(source).expanduser()
    if path.is_dir():
        if needed:
            return coco.read(path, *names)
        found = coco.find(path, *names)
        return None if found is None else coco.read_file(*found)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise MismatchError(f"no such folder: {source} (a Hub data set is written org/name)")
    splits = (coco.from_hub(source, name) for name in names)
    found_there = next((split for split in splits if split is not None), None)
    if found_there is None and needed:
        raise MismatchError(f"data set {source!r} has no split {names[0]}")
    return found_there


def known(scenes: Scenes, recipe: Recipe, source: Any) -> Scenes:
    """Return scenes whose labels are numbered as the network's.

    Raises:
        MismatchError: one of them is none of the network's.

    """
    labels = labels_of(recipe)
    if others := [label for label in scenes.labels if label not in labels]:
        raise MismatchError(
            f"{source} has the categories {', '.join(others[:8])}, and {recipe.name} finds "
            f"{', '.join(labels[:8])}; train one for them: zoo train {recipe.name} --data DIR"
        )
    numbers = np.array([labels.index(label) for label in scenes.labels], np.int64)
    same = tuple(replace(scene, labels=numbers[scene.labels]) for scene in scenes.scenes)
    return Scenes(tuple(labels), same)


def _usable(scenes: Sequence[Scene], source: str) -> tuple[Scene, ...]:
    """Return scenes without boxes that have no area; say how many there were."""
    kept, dropped = [], 0
    for scene in scenes:
        boxes = corners(scene.boxes)
        if scene.size is not None:
            boxes = clipped(boxes, scene.size)
        whole = np.all(boxes[:, 2:] - boxes[:, :2] >= 1, axis=1)
        dropped += int((~whole).sum())
        kept.append(_chosen(scene, whole))
    if dropped:
        _LOG.warning(
            "%s: boxes outside their picture, or without area, are left out: %d", source, dropped
        )
    return tuple(kept)


def _chosen(scene: Scene, which: NDArray[np.bool_]) -> Scene:
    return replace(
        scene, boxes=scene.boxes[which], labels=scene.labels[which], areas=scene.areas[which],
        crowd=scene.crowd[which],
    )  # fmt: skip


def corners(boxes: Floats) -> Floats:
    """Return boxes (left, top, width, height) as (left, top, right, bottom)."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def clipped(boxes: Floats, size: tuple[int, int]) -> Floats:
    """Return boxes by corners within a picture of (width, height)."""
    return np.clip(boxes, 0, np.array([*size, *size], np.float64))


# --- pictures -------------------------------------------------------------------------------------


def rgb(source: Any, name: str = "") -> Pixels:
    """Return a picture as `(H, W, 3)`, upright, 8 bits, its alpha dropped."""
    picture = images.Picture(images.read(source, name).pixels)
    return np.asarray(images.to_pillow(picture).convert("RGB"))


def pixels_of(scene: Scene) -> Pixels:
    """Return the picture of a scene.

    Raises:
        MismatchError: it cannot be read, or has another size than its annotations say.

    """
    pixels = rgb(scene.source, "" if isinstance(scene.source, Path) else scene.name)
    size = (pixels.shape[1], pixels.shape[0])
    if scene.size not in (None, size):
        raise MismatchError(
            f"{scene.name} is {size[0]}x{size[1]} pixels, upright; its annotations say "
            f"{scene.size[0]}x{scene.size[1]}"
        )
    return pixels


def scale_of(size: tuple[int, int], recipe: Recipe) -> float:
    """Return by how much a picture of (width, height) is resized to fit the network's input."""
    rows, columns = recipe.input_shape[2:]
    return min(columns / size[0], rows / size[1])


def fitted(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Return a picture resized to fit the network's input, at its top left, grey around it."""
    rows, columns = recipe.input_shape[2:]
    scale = scale_of((pixels.shape[1], pixels.shape[0]), recipe)
    size = [max(1, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0])]
    made = np.full((rows, columns, 3), GREY, np.uint8)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    made[: size[1], : size[0]] = cv2.resize(pixels, size, interpolation=way)
    return made


def tensor(pixels: Sequence[Pixels], recipe: Recipe) -> Tensor:
    """Return pictures of the input's size as `(N, 3, H, W)` in the recipe's range."""
    low, high = recipe.preprocessing["range"]
    stacked = torch.from_numpy(np.stack(pixels)).float() * ((high - low) / 255) + low
    return stacked.permute(0, 3, 1, 2)


# --- batches --------------------------------------------------------------------------------------


def batch(
    data: BoxedPictures, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return pictures and targets of rows of a step; see `zoo.tasks.object_detection`."""
    seed = recipe.train.seed
    numbers = draw(total, len(data.train), seed, step)[rows.start : rows.stop].tolist()
    pictures, targets = [], []
    for row, number in zip(rows, numbers, strict=True):
        dice = np.random.Generator(np.random.Philox(key=[seed, step * 2**20 + row]))
        picture, truth = varied(data.train[number], recipe, dice)
        pictures.append(picture)
        targets.append(torch.from_numpy(truth))
    return tensor(pictures, recipe), torch.stack(targets)


def varied(
    scene: Scene, recipe: Recipe, dice: np.random.Generator
) -> tuple[Pixels, NDArray[np.float32]]:
    """Return a scene larger or smaller, moved, mirrored and in other colours, and its target."""
    options = recipe.train.options
    pixels = pixels_of(scene)
    size = (pixels.shape[1], pixels.shape[0])
    boxes = clipped(corners(scene.boxes), size)
    labels, crowd = scene.labels, scene.crowd
    shape = recipe.input_shape[2:]
    zoom, spot, flips = dice.uniform(-1, 1), dice.random(2), dice.random(2) < 0.5
    scale = scale_of(size, recipe) * float(options["zoom"]) ** zoom
    moved = [spot[0] * (shape[1] - size[0] * scale), spot[1] * (shape[0] - size[1] * scale)]
    way = np.array([[scale, 0, moved[0]], [0, scale, moved[1]]])
    for axis, name in enumerate(("flip", "flip_vertical")):
        if flips[axis] and options[name]:
            way[axis] *= -1
            way[axis, 2] += shape[1 - axis]
    made = _warped(pixels, way, (shape[1], shape[0]))
    ends = boxes.reshape(-1, 2, 2) * way[[0, 1], [0, 1]] + way[:, 2]
    whole = np.concatenate([ends.min(1), ends.max(1)], 1)
    seen = clipped(whole, (shape[1], shape[0]))
    shares = _area(seen) / np.maximum(_area(whole), 1e-9)
    kept = (shares > 0.3) & (seen[:, 2:] - seen[:, :2] >= 2).all(1)
    count, cells = len(labels_of(recipe)), (shape[0] // STRIDE, shape[1] // STRIDE)
    truth = target(seen[kept], labels[kept], crowd[kept], count, cells, STRIDE)
    return _coloured(made, float(options["colour"]), dice), truth


def _area(boxes: Floats) -> Floats:
    area: Floats = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return area


def _warped(pixels: Pixels, way: Floats, size: tuple[int, int]) -> Pixels:
    """Return a picture moved by a matrix from its pixels' edges to those of the result."""
    scale = abs(way[0, 0])
    if scale < 0.5:  # four neighbours are too few: shrink first
        small = [max(1, round(n * scale)) for n in (pixels.shape[1], pixels.shape[0])]
        ratio = np.array([pixels.shape[1] / small[0], pixels.shape[0] / small[1]])
        pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA).astype(np.uint8)
        way = np.concatenate([way[:, :2] * ratio, way[:, 2:]], 1)
    centres = way.copy()  # OpenCV counts from the middle of the first pixel
    centres[:, 2] += 0.5 * way[[0, 1], [0, 1]] - 0.5
    made = cv2.warpAffine(
        pixels, centres, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
        borderValue=(GREY, GREY, GREY),
    )  # fmt: skip
    return np.asarray(made, np.uint8)


def _coloured(pixels: Pixels, most: float, dice: np.random.Generator) -> Pixels:
    """Return a picture with other brightness, contrast and balance of colours, up to `most`."""
    gains = (1 + dice.uniform(-most, most)) * (1 + dice.uniform(-most / 3, most / 3, 3))
    shift = 255 * dice.uniform(-most, most) / 2
    table = (np.arange(256)[:, None] - 128) * gains + 128 + shift
    rounded = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, rounded[:, None]), np.uint8)
