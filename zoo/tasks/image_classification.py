"""Image classification: which of a few labels a picture has.

Networks see `(N, 3, H, W)`, RGB in the range of `recipe.preprocessing` and the size of
`recipe.input_shape`, or `(N, 1, H, W)`, grey; a picture of another size is resized as a whole,
bicubically. They return a logit for each label in `recipe.preprocessing`, which are also the names
of the data's folders: `label/*.jpg`, or `train/label/*.jpg` and `test/label/*.jpg`. Folders of
other names train a network of other labels.
"""

import functools
import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from zoo import registry
from zoo.data import augment, images
from zoo.data.classified import Classified, Labelled, classified, scores, spread, standard_error
from zoo.data.filed import Filed, decoded
from zoo.data.mixing import mixed
from zoo.data.text import draw
from zoo.errors import MismatchError
from zoo.files import given_folder
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Metric, TaskFacts, Trial, short

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "evaluate",
    "fitted",
    "for_data",
    "inputs",
    "labelled",
    "loss",
    "run",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="image-classification",
    pipeline_tag="image-classification",
    sample="image",
    metrics=(
        Metric(key="accuracy", name="accuracy", hub_type="accuracy"),
        Metric(
            key="loss", name="cross entropy", unit="nats", better="lower", hub_type="loss"
        ),
    ),
    select_by="accuracy",
    beside=("standard_error",),
    adapter=Train(
        steps=1000, batch_size=64, lr=2e-3, warmup_steps=20, ema_decay=0.99, clip_norm=1.0,
        log_every=100, eval_every=200, save_every=200,
        options={"shift": 2, "flip": True, "label_smoothing": 0.0},
    ),
    usage='model = zoo.load("{ref}")  # takes ({shape}), gives logits\n'
    'zoo.run("{ref}", "photo.jpg").best  # labels and probabilities',
)  # fmt: skip
HOLD_OUT_EVERY = 25
_NUMBERS = augment.CROP_NUMBERS + augment.RANDAUGMENT_NUMBERS  # random ones for each sample
_CALIBRATED = 512  # pictures
_BATCH = 128
_IN_MEMORY = 4 * 2**30  # bytes of pictures; larger sets stay in their files
Pictures = Labelled | Filed


@dataclass(frozen=True)
class LabelledPictures:
    """The training data of a network.

    Attributes:
        train: pictures that batches are drawn from.
        held_out: those of `val`, or every 25th picture in the order of labels and names; never
            trained on, they choose the checkpoint.
        fingerprint: SHA-256 over labels, names, size and pixels; of a set that stays in its files,
            over their sizes instead of the pixels.
        facts: what a card says about the data.

    """

    train: Pictures
    held_out: Pictures
    fingerprint: str
    facts: dict[str, Any]


def for_data(recipe: Recipe, source: str) -> Recipe:
    """Return the recipe with the names of a folder's folders as labels, if they are others.

    The last layer has as many outputs then. A folder without two folders is refused later.
    """
    folder = _part(Path(source).expanduser(), "train")
    found = (
        sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if len(found) < 2 or found == sorted(_labels(recipe)):
        return recipe
    return replace(
        recipe,
        args={**recipe.args, "num_classes": len(found)},
        preprocessing={**recipe.preprocessing, "labels": found},
    )


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> LabelledPictures:
    """Decode the pictures of a folder, or of its folders `train` and `val`, and keep them.

    More than 4 GiB of them are decoded when they are drawn.

    Raises:
        MismatchError: there is no such folder, its folders are not the recipe's labels, a picture
            cannot be read, or there are too few.

    """
    folder = Path(source).expanduser()
    files = _files(_part(folder, "train"), recipe)
    if len(files) < 2 * HOLD_OUT_EVERY:
        raise MismatchError(
            f"{source} has {len(files)} pictures; expected {2 * HOLD_OUT_EVERY} or more to train on"
        )
    held = torch.arange(len(files)) % HOLD_OUT_EVERY == 0
    if (folder / "train").is_dir() and (folder / "val").is_dir():
        others = _files(folder / "val", recipe)
        held = torch.arange(len(files) + len(others)) >= len(files)
        files += others
    pictures = _pictures(files, recipe)
    digest = hashlib.sha256(json.dumps([path.parts[-2:] for path, _ in files]).encode())
    if isinstance(pictures, Filed):
        sizes = [path.stat().st_size for path, _ in files]
        digest.update(json.dumps([recipe.input_shape[1:], sizes]).encode())
    else:
        digest.update(str(tuple(pictures.samples.shape)).encode())
        digest.update(pictures.samples.numpy().data)
    facts = {
        "source": folder.resolve().name,
        "images": int((~held).sum()),
        "held_out": int(held.sum()),
        "sha256": digest.hexdigest(),
    }
    train, held_out = (
        pictures.part(mask) if isinstance(pictures, Filed) else pictures[mask]
        for mask in (~held, held)
    )
    return LabelledPictures(train, held_out, digest.hexdigest(), facts)


def _part(folder: Path, *names: str) -> Path:
    """Return the first of the folders of these names in `folder`, else `folder` itself."""
    return next((folder / name for name in names if (folder / name).is_dir()), folder)


def _labels(recipe: Recipe) -> list[str]:
    return list(recipe.preprocessing["labels"])


def _files(folder: Path, recipe: Recipe) -> list[tuple[Path, int]]:
    """Return the pictures of a folder in the order of labels and names, with label numbers."""
    given_folder(folder)
    labels = _labels(recipe)
    folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if folders != sorted(labels):
        have = f"the folders {', '.join(folders[:12])}" if folders else "no folders"
        raise MismatchError(
            f"{folder} has {have}; {recipe.name} expects one for each label: {', '.join(labels)}"
        )
    return [
        (path, number)
        for number, label in enumerate(labels)
        for path in images.find(folder / label)
    ]


def _pictures(files: Sequence[tuple[Path, int]], recipe: Recipe) -> Pictures:
    """Return the pictures of some files; they stay there if they are more than fit into memory."""
    decode = functools.partial(fitted, recipe=recipe)
    if len(files) * math.prod(recipe.input_shape[1:]) > _IN_MEMORY:
        return Filed(files, decode)
    return decoded(files, decode)


def _opened(source: Any, recipe: Recipe) -> Image.Image:
    """Return a picture upright, RGB or grey as the recipe has it; alpha is dropped."""
    picture = images.to_pillow(images.Picture(images.read(source).pixels))
    return picture.convert("L" if recipe.input_shape[1] == 1 else "RGB")


def fitted(source: Any, recipe: Recipe) -> NDArray[np.uint8]:
    """Return a picture as bytes `(H, W, C)` of the recipe's size."""
    channels, height, width = recipe.input_shape[1:]
    picture = _opened(source, recipe)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(height, width, channels)


def inputs(pixels: Tensor, recipe: Recipe) -> Tensor:
    """Return bytes `(N, H, W, C)` as `(N, C, H, W)` in the recipe's range."""
    low, high = recipe.preprocessing["range"]
    return (pixels.float() * ((high - low) / 255) + low).permute(0, 3, 1, 2)


def batch(
    data: LabelledPictures, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows `rows` of the `total` samples of one optimizer step.

    Every epoch is a new permutation, and a sample is a function of (seed, step, row) alone:
    any split of the rows over processes and micro-batches sees the same data. A picture is shifted
    by up to `train.options.shift` pixels, its edges mirrored, and half of the pictures are flipped.
    With `crop`, a random part of at least that share of the area takes a picture's place; with
    `randaugment`, two operations of that magnitude alter it (see `zoo.data.augment`).
    With `mixup`, `cutmix` and `erase`, see `zoo.data.mixing`.

    Returns:
        Pictures `(len(rows), C, H, W)`, and the probability of each label `(len(rows), labels)`:
        1 for the true one, less `train.options.label_smoothing`, which is spread over all labels.

    """
    options, part = recipe.train.options, slice(rows.start, rows.stop)
    numbers = draw(total, len(data.train), recipe.train.seed, step)[part]
    random = np.random.Generator(np.random.Philox(key=[recipe.train.seed, step]))
    shift = int(options["shift"])
    shifts = torch.from_numpy(random.integers(-shift, shift + 1, (total, 2)))[part]
    flips = torch.from_numpy(random.random(total) < 0.5)[part] & bool(options["flip"])
    chosen = _drawn(data.train, numbers, recipe, random.random((total, _NUMBERS))[part])
    x = inputs(_moved(chosen.samples, shifts, flips), recipe)
    truth = F.one_hot(chosen.labels, len(_labels(recipe))).float()
    smoothing = float(options["label_smoothing"])
    truth = truth * (1 - smoothing) + smoothing / truth.shape[1]
    low, high = recipe.preprocessing["range"]
    return mixed(x, truth, options, random, rows, total, (low, high))


def _drawn(
    pictures: Pictures, numbers: Tensor, recipe: Recipe, random: NDArray[np.float64]
) -> Labelled:
    """Return pictures by their numbers, cropped and altered as the options say."""
    options = recipe.train.options
    least, magnitude = float(options.get("crop", 0)), float(options.get("randaugment", 0))
    if not least and not magnitude:
        return pictures[numbers]
    if not 0 <= least <= 1 or not 0 <= magnitude <= augment.MOST:
        raise MismatchError(
            f"train.options have crop {least:g} and randaugment {magnitude:g}; expected 0 to 1, "
            f"and 0 to {augment.MOST}"
        )
    channels, height, width = recipe.input_shape[1:]

    def altered(slot: int) -> NDArray[np.uint8]:
        number, dice = int(numbers[slot]), random[slot].tolist()
        if isinstance(pictures, Filed):
            picture = _opened(pictures.files[number][0], recipe)
        else:
            picture = images.to_pillow(images.Picture(pictures.samples[number].numpy()))
            picture = picture.convert("L" if channels == 1 else "RGB")
        if least:
            picture = augment.crop(picture, (width, height), least, dice[: augment.CROP_NUMBERS])
        elif picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        if magnitude:
            picture = augment.randaugment(picture, magnitude, dice[augment.CROP_NUMBERS :])
        return np.asarray(picture).reshape(height, width, channels)

    pixels = np.stack([altered(slot) for slot in range(len(numbers))])
    if isinstance(pictures, Filed):
        labels = torch.tensor([pictures.files[number][1] for number in numbers.tolist()])
    else:
        labels = pictures.labels[numbers]
    return Labelled(torch.from_numpy(pixels), labels)


def _moved(pixels: Tensor, shifts: Tensor, flips: Tensor) -> Tensor:
    """Return pictures `(N, H, W, C)` moved by `(N, 2)` rows and columns, some of them flipped."""
    count, height, width = pixels.shape[:3]
    row = _mirrored(torch.arange(height) + shifts[:, :1], height)
    column = _mirrored(torch.arange(width) + shifts[:, 1:], width)
    column = torch.where(flips[:, None], column.flip(1), column)
    row += torch.arange(count)[:, None] * height
    place = row[:, :, None] * width + column[:, None, :]
    return pixels.flatten(0, 2)[place.flatten()].view(pixels.shape)


def _mirrored(place: Tensor, size: int) -> Tensor:
    """Return places beyond 0 to `size` - 1 mirrored at the edge."""
    period = max(2 * size - 2, 1)
    place = place.abs() % period
    return torch.minimum(place, period - place) if size > 1 else place * 0


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross entropy, in nats, of logits and probabilities `(N, labels)`."""
    return F.cross_entropy(output, target)


def taught(teacher: nn.Module, inputs: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return a teacher's probabilities `(N, labels)`."""
    logits: Tensor = teacher(inputs)
    return logits.softmax(1)


@torch.inference_mode()
def _logits(model: nn.Module, pixels: Tensor, recipe: Recipe) -> Tensor:
    """Return the logits `(N, labels)`, on the CPU, of bytes `(N, H, W, C)`."""
    like = next(model.parameters())
    parts = [model(inputs(part, recipe).to(like)).float().cpu() for part in pixels.split(_BATCH)]
    return torch.cat(parts)


def _scores(model: nn.Module, pictures: Pictures, recipe: Recipe) -> dict[str, float]:
    parts = (pictures[start : start + _BATCH] for start in range(0, len(pictures), _BATCH))
    found = [(_logits(model, part.samples, recipe), part.labels) for part in parts]
    logits, labels = (torch.cat(column) for column in zip(*found, strict=True))
    return scores(logits, labels)


def validate(model: nn.Module, data: LabelledPictures, recipe: Recipe) -> dict[str, float]:
    """Return the accuracy and the cross entropy on the pictures held out of the training set."""
    return _scores(model, data.held_out, recipe)


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return the accuracy on the pictures of a folder, or of `test` or `val` in it.

    Protocol: the likeliest label of each picture, unaltered, and no picture left out.
    """
    folder = _part(Path(data), "test", "val")
    pictures = _pictures(_files(folder, recipe), recipe)
    found = _scores(model, pictures, recipe)
    size = "x".join(map(str, reversed(recipe.input_shape[2:])))
    return {
        "images": len(pictures),
        **found,
        "standard_error": standard_error(found["accuracy"], len(pictures)),
        "protocol": f"likeliest of {len(_labels(recipe))} labels, whole picture as {size}",
    }


def labelled(recipe: Recipe, data: Path, most: int) -> Labelled:
    """Return at most so many of the pictures that `evaluate` judges, as `(N, C, H, W)`."""
    files = spread(_files(_part(Path(data), "test", "val"), recipe), most)
    pictures = decoded(files, functools.partial(fitted, recipe=recipe))
    return Labelled(inputs(pictures.samples, recipe), pictures.labels)


def unseen(data: LabelledPictures, recipe: Recipe, most: int) -> Labelled:
    """Return at most so many of the pictures held out of training, as `labelled` has them."""
    pictures = data.held_out[spread(range(len(data.held_out)), most)]
    return Labelled(inputs(pictures.samples, recipe), pictures.labels)


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches `(N, C, H, W)` from which quantization learns ranges.

    They are 512 pictures, evenly spread over a folder, or over its folder `train` if it has one.
    """
    files = _files(_part(source, "train"), recipe)
    chosen = files[:: max(1, len(files) // _CALIBRATED)][:_CALIBRATED]
    pictures = decoded(chosen, functools.partial(fitted, recipe=recipe))
    return list(inputs(pictures.samples, recipe).split(_BATCH))


def run(model: nn.Module, recipe: Recipe, source: Any, out: Path | None = None) -> Classified:
    """Return the labels of a picture with their probabilities; with `out`, save them too."""
    pixels = torch.from_numpy(fitted(source, recipe).copy())[None]
    start = time.perf_counter()
    likely = _logits(model, pixels, recipe)[0].softmax(0)
    return classified(likely, _labels(recipe), recipe.name, time.perf_counter() - start, out)


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Paint 60 pictures, a colour for each label; a large network sees them at half its size."""
    recipe = recipe or registry.find("mlperf-tiny-ic")
    sides = (max(side // 2, 32) for side in recipe.input_shape[2:])
    recipe = replace(short(recipe), input_shape=(*recipe.input_shape[:2], *sides))
    labels, dice = _labels(recipe), np.random.default_rng(0)
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        colour = [255 * number // max(1, len(labels) - 1), 128, 40 * number % 256]
        for copy in range(-(-60 // len(labels))):
            pixels = np.clip(colour + dice.integers(-20, 20, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{copy:02}.png")
    source = folder / labels[0] / "00.png"
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=source)
