"""Object detection: which objects are in a picture, and where.

Networks see RGB pictures `(N, 3, H, W)` in the range of `recipe.preprocessing`; a picture of
another size is resized to fit, at the top left, with grey around it. They return a map
`(N, labels + 4, H / 8, W / 8)`, see `zoo.tasks.object_detection.maps`. Data are laid out as COCO's,
or lie on the Hub; see `zoo.data.coco`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo import registry
from zoo.data import coco, images
from zoo.data.average_precision import Boxes, average_precision, per_label
from zoo.data.coco import Scene
from zoo.data.found import Found, Item
from zoo.errors import MismatchError
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe
from zoo.tasks.contract import Metric, TaskFacts, Trial, short
from zoo.tasks.object_detection.maps import SIDES, Suppression, decode, divisors, loss, target
from zoo.tasks.object_detection.material import (
    STRIDE,
    BoxedPictures,
    batch,
    clipped,
    corners,
    fitted,
    for_data,
    known,
    labels_of,
    material,
    pixels_of,
    rgb,
    scale_of,
    tensor,
)

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "default_output",
    "divisors",
    "evaluate",
    "for_data",
    "loss",
    "run",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="object-detection",
    pipeline_tag="object-detection",
    sample="image",
    metrics=(
        Metric(key="map_50", name="mAP@.5", hub_type="mean_average_precision"),
        Metric(key="map", name="mAP@.5:.95"),
        Metric(key="map_75", name="mAP@.75"),
        Metric(key="mar_100", name="recall of 100 boxes"),
    ),
    select_by="map_50",
    beside=("map_small", "map_medium", "map_large"),
    usage='model = zoo.load("{ref}")  # takes ({shape}), gives boxes\n'
    'zoo.run("{ref}", "photo.jpg", "boxes.png").items  # labels, scores, boxes',
)
_JUDGED = 0.01  # least score of a box that mean precision is computed with
_CALIBRATED, _BATCH = 128, 16


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> BoxedPictures:
    """Return the pictures of a folder or a data set of the Hub, to train on.

    Boxes are cut at the edge of their picture; those that are nothing then are left out.

    Raises:
        MismatchError: they cannot be used, or are too few.

    """
    return material(recipe, source)


def taught(teacher: nn.Module, inputs: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return the targets `(N, labels + 4, h, w)` of the boxes that a teacher finds."""
    size, made = (inputs.shape[3], inputs.shape[2]), list[Tensor]()
    for output in teacher(inputs).float().cpu():
        found = decode(output, STRIDE, **_options(recipe, None, None))
        ends = clipped(corners(found.boxes), size)
        whole = (ends[:, 2:] > ends[:, :2]).all(1)
        labels, cells = found.labels[whole], (output.shape[1], output.shape[2])
        crowd = np.zeros(len(labels), np.bool_)
        count = len(output) - SIDES
        made.append(torch.from_numpy(target(ends[whole], labels, crowd, count, cells, STRIDE)))
    return torch.stack(made).to(inputs.device)


@torch.inference_mode()
def _maps(model: nn.Module, inputs: Tensor) -> Tensor:
    return model(inputs.to(next(model.parameters()))).float().cpu()


def _boxes(
    output: Tensor, size: tuple[int, int], recipe: Recipe, options: Mapping[str, Any]
) -> Boxes:
    """Return the boxes of a map in the pixels of a picture of (width, height), within it."""
    made = decode(output, STRIDE, **options)
    ends = clipped(corners(made.boxes) / scale_of(size, recipe), size)
    ends[:, 2:] -= ends[:, :2]
    whole = (ends[:, 2:] > 0).all(1)
    return Boxes(ends[whole], made.labels[whole], made.scores[whole])


def _options(recipe: Recipe, threshold: float | None, suppression: str | None) -> dict[str, Any]:
    """Return how maps are decoded: as the recipe says, but for what is given.

    Raises:
        MismatchError: it is no such setting.

    """
    facts = recipe.preprocessing
    least = float(facts["threshold"]) if threshold is None else threshold
    way = facts["suppression"] if suppression is None else suppression
    if not 0 <= least <= 1:
        raise MismatchError(f"threshold is {threshold}; expected 0 to 1")
    if way not in get_args(Suppression):
        known_ways = " or ".join(get_args(Suppression))
        raise MismatchError(f"suppression is {way!r}; expected {known_ways}")
    return {"threshold": least, "overlap": float(facts["overlap"]), "suppression": way}


def _found(
    model: nn.Module, scenes: Sequence[Scene], recipe: Recipe, options: Mapping[str, Any]
) -> list[Boxes]:
    found = []
    for start in range(0, len(scenes), _BATCH):
        pictures = [pixels_of(scene) for scene in scenes[start : start + _BATCH]]
        maps = _maps(model, tensor([fitted(p, recipe) for p in pictures], recipe))
        for output, pixels in zip(maps, pictures, strict=True):
            found.append(_boxes(output, (pixels.shape[1], pixels.shape[0]), recipe, options))
    return found


def validate(model: nn.Module, data: BoxedPictures, recipe: Recipe) -> dict[str, float]:
    """Return mean average precision on the pictures held out of the training set."""
    found = _found(model, data.held_out, recipe, _options(recipe, _JUDGED, None))
    scores = average_precision(data.held_out, found, len(labels_of(recipe)))
    return {metric.key: scores[metric.key] for metric in FACTS.metrics}


def evaluate(
    model: nn.Module,
    recipe: Recipe,
    data: Path,
    tokenizer: Any = None,
    *,
    suppression: Suppression | None = None,
) -> dict[str, Any]:
    """Return mean average precision on the split `test` or `val` of a folder, or all of it.

    Protocol: COCO's, with the annotations as they are; boxes from a score of 0.01 on.

    Args:
        model: of this task.
        recipe: its recipe.
        data: a folder in one of COCO's layouts.
        tokenizer: none.
        suppression: "nms" or "soft-nms"; None takes the recipe's.

    """
    options = _options(recipe, _JUDGED, suppression)
    scenes = known(coco.read(Path(data), "test", "val", "valid"), recipe, data)
    found = _found(model, scenes.scenes, recipe, options)
    figures = average_precision(scenes.scenes, found, len(scenes.labels))
    if not figures:
        raise MismatchError(f"{data} has no boxes to judge by")
    size = "x".join(map(str, reversed(recipe.input_shape[2:])))
    return {
        "images": len(scenes),
        **figures,
        "map_50_by_label": per_label(scenes.scenes, found, scenes.labels),
        "protocol": f"as COCO computes it, pictures within {size}, "
        f"{options['suppression']} at {options['overlap']}",
    }


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches `(N, 3, H, W)` from which quantization learns ranges: of 128 pictures."""
    scenes = coco.read(source, "train").scenes
    chosen = scenes[:: max(1, len(scenes) // _CALIBRATED)][:_CALIBRATED]
    pictures = [fitted(pixels_of(scene), recipe) for scene in chosen]
    return list(tensor(pictures, recipe).split(_BATCH))


def default_output(recipe: Recipe, source: Path) -> Path:
    """Return where `zoo run` draws the boxes when not told: photo.jpg -> photo-boxes.png."""
    return source.parent / f"{source.stem}-boxes.png"


def run(
    model: nn.Module,
    recipe: Recipe,
    source: Any,
    out: Path | None = None,
    *,
    threshold: float | None = None,
    suppression: Suppression | None = None,
) -> Found:
    """Return the objects of a picture of any size and mode; with `out`, draw them too.

    Args:
        model: of this task.
        recipe: its recipe.
        source: a picture, as `zoo.data.images.read` takes it.
        out: a picture's file.
        threshold: least score; None takes the recipe's.
        suppression: "nms" or "soft-nms"; None takes the recipe's.

    Raises:
        MismatchError: it is no picture, or `out` cannot be written.

    """
    options = _options(recipe, threshold, suppression)
    if out is not None:
        images.check_output(out)
    pixels = rgb(source)
    size = (pixels.shape[1], pixels.shape[0])
    start = time.perf_counter()
    output = _maps(model, tensor([fitted(pixels, recipe)], recipe))[0]
    boxes = _boxes(output, size, recipe, options)
    seconds = time.perf_counter() - start
    labels = labels_of(recipe)
    items = tuple(
        Item(labels[label], float(score), (box[0], box[1], box[2], box[3]))
        for box, label, score in zip(
            boxes.boxes.tolist(), boxes.labels.tolist(), boxes.scores, strict=True
        )
    )
    result = Found(items, tuple(labels), pixels, recipe.name, seconds)
    if out is not None:
        result.save(out)
    return result


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Paint thirty pictures of two squares, a colour for each label, in COCO's layout."""
    recipe = short(recipe or registry.find("ran-i-detector"))
    recipe = replace(recipe, input_shape=(1, 3, 64, 96))
    labels, dice = labels_of(recipe), np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    pictures, annotations = list[Any](), list[Any]()
    for number in range(30):
        pixels = np.full((48, 72, 3), 230, np.uint8)
        pictures.append({"id": number, "file_name": f"{number:02}.png", "width": 72, "height": 48})
        for place in range(2):
            label, side = (number + place) % len(labels), int(dice.integers(14, 24))
            left, top = int(dice.integers(0, 36 - side)) + 36 * place, int(dice.integers(48 - side))
            colour = (255 * label // max(1, len(labels) - 1), 60, 60 * label % 256)
            pixels[top : top + side, left : left + side] = colour
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1,
                 "bbox": [left, top, side, side], "area": side * side, "iscrowd": 0}
            )  # fmt: skip
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    categories = [{"id": number + 1, "name": label} for number, label in enumerate(labels)]
    content = {"images": pictures, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=folder / "00.png")
