"""Super resolution: training patches, the quality protocol, and enlarging pictures.

Networks see luma only: Y of BT.601 in studio range divided by 255, `(N, 1, H, W)`. Low-resolution
images are made from the 8-bit RGB originals by Matlab's bicubic, as in the papers.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zoo.data import images
from zoo.data.prepared import Prepared, encoded, prepare
from zoo.data.resize import resize
from zoo.errors import MismatchError
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Demo, Metric, TaskFacts
from zoo.tasks.super_resolution.enlarging import bicubic, default_output, enlarge, run
from zoo.tasks.super_resolution.examples import demo, samples, trial
from zoo.tasks.super_resolution.quality import psnr, ssim

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "default_output",
    "demo",
    "evaluate",
    "loss",
    "run",
    "samples",
    "taught",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="super-resolution",
    pipeline_tag="image-to-image",
    sample="image",
    metrics=(
        Metric(key="psnr_y_db", name="PSNR Y", unit="dB", hub_type="psnr"),
        Metric(key="ssim_y", name="SSIM Y", hub_type="ssim"),
    ),
    select_by="psnr_y_db",
    beside=("bicubic_psnr_y_db", "bicubic_ssim_y"),
    output_range=(0, 1),
    adapter=Train(
        steps=1500, batch_size=8, lr=2e-3, warmup_steps=20, ema_decay=0.99, clip_norm=1.0,
        log_every=100, eval_every=200, save_every=400, options={"patch_size": 64},
    ),
    usage='model = zoo.load("{ref}")  # takes ({shape}) and other sizes\n'
    'zoo.run("{ref}", "photo.jpg", "photo-large.png")',
    demo=Demo(
        kind="picture", title="Enlarging", takes="picture", gives="picture",
        asks="Your picture, of which the middle is enlarged",
    ),
)  # fmt: skip


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> Prepared:
    """Decode and shrink the images of a folder or of a data set; see `zoo.data.prepared.prepare`.

    Raises:
        MismatchError, HubError: the images cannot be used.

    """
    return prepare(recipe, source)


def batch(
    data: Prepared, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows `rows` of the `total` samples of one optimizer step.

    A sample is a function of (seed, step, row) alone: any split of the rows over processes and
    micro-batches sees the same data, and resuming needs no sampler state. Images are drawn in
    proportion to their pixels, so that a large photograph counts for more than a small one.

    Returns:
        Low- and high-resolution luma, `(len(rows), 1, P, P)` and `(len(rows), 1, sP, sP)`, with P =
        train.options.patch_size; each pair turned and mirrored at random, both in the same way.

    """
    size, scale = recipe.train.options["patch_size"], recipe.args["scale"]
    random = np.random.Generator(np.random.Philox(key=[recipe.train.seed, step]))
    draws = random.random((total, 3))
    turns = random.integers(0, 8, total)
    low = np.empty((len(rows), 1, size, size), np.float32)
    high = np.empty((len(rows), 1, size * scale, size * scale), np.float32)
    for slot, row in enumerate(rows):
        hr, lr = data.train[int(np.searchsorted(data.shares, draws[row, 0], side="right"))]
        top = int(draws[row, 1] * (lr.shape[0] - size + 1))
        left = int(draws[row, 2] * (lr.shape[1] - size + 1))
        low[slot, 0] = _turn(lr[top : top + size, left : left + size], turns[row])
        top, left, span = top * scale, left * scale, size * scale
        high[slot, 0] = _turn(hr[top : top + span, left : left + span], turns[row])
    return torch.from_numpy(low / 65535), torch.from_numpy(high / 65535)


def _turn(patch: NDArray[np.uint16], turn: int) -> NDArray[np.uint16]:
    patch = np.rot90(patch, turn % 4)
    return patch[:, ::-1] if turn >= 4 else patch


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the root mean square error of a patch, averaged over patches `(N, 1, H, W)`.

    PSNR is its logarithm, image by image; with the paper's mean absolute error, the hardest
    patches outweigh the smooth ones. Training M5 x2 for 5,000 more steps with either, this one
    gave 0.02 dB more on Set5 and 0.01 dB more on held-out images.
    """
    errors = (output - target).square().mean((1, 2, 3))
    return (errors + 1e-6).sqrt().mean()  # a flat patch, at 60 dB, is good enough


def taught(teacher: nn.Module, inputs: Tensor, recipe: Recipe, step: int) -> Tensor:
    """Return a teacher's outputs for inputs that are turned for it, and then turned back.

    The turn, of the eight that map squares to squares, is drawn for each step: on average over
    steps the teacher is its own ensemble of eight (0.1 dB better than the plain teacher for SESR-XL
    x2).
    """
    turn = int(np.random.Generator(np.random.Philox(key=[recipe.train.seed, step])).integers(8))
    turned = torch.rot90(inputs, turn % 4, (2, 3))
    outputs: Tensor = teacher(turned.flip(3) if turn >= 4 else turned)
    return torch.rot90(outputs.flip(3) if turn >= 4 else outputs, -(turn % 4), (2, 3))


def validate(model: nn.Module, data: Prepared, recipe: Recipe) -> dict[str, float]:
    """Return mean Y-PSNR in dB over the images held out of the training set."""
    scale = recipe.args["scale"]
    scores = [
        psnr(enlarge(model, to_tensor(lr)), to_tensor(hr), border=scale) for hr, lr in data.held_out
    ]
    return {"psnr_y_db": sum(scores) / len(scores)}


def to_tensor(plane: NDArray[np.uint16]) -> Tensor:
    """Return a prepared plane `(H, W)` as an image `(1, 1, H, W)` with white = 1."""
    return torch.from_numpy(plane.astype(np.float32) / 65535)[None, None]


@dataclass(frozen=True)
class Pair:
    """An evaluation image: luma `(1, 1, sH, sW)` and its low-resolution form `(1, 1, H, W)`."""

    name: str
    high: Tensor
    low: Tensor


def pairs(folder: Path, scale: int) -> Iterator[Pair]:
    """Yield the evaluation pairs of a folder.

    If it holds `<name>_HR.*` files, each is paired with its `<name>_LR.*`. Otherwise every picture
    is an original: cropped to a multiple of the scale, and shrunk by Matlab's bicubic.
    """
    pictures = images.find(folder)
    least = 11 + 2 * scale  # SSIM's window, inside the border
    originals = [path for path in pictures if path.stem.endswith("_HR")]
    for path in originals or pictures:
        high = images.read(path)
        rows, columns = (n - n % scale for n in high.pixels.shape[:2])
        if min(rows, columns) < least:
            raise MismatchError(
                f"{path} is {columns}x{rows} pixels; expected at least {least}x{least}"
            )
        high_rgb = _eight_bits(high)[:rows, :columns]
        low_rgb = resize(high_rgb, 1 / scale)
        if originals:
            partner = path.with_stem(path.stem.removesuffix("_HR") + "_LR")
            if not partner.exists():
                raise MismatchError(
                    f"{path} has no partner {partner.name}; expected one for each, or originals "
                    "alone whose names do not end in _HR"
                )
            low_rgb = _eight_bits(images.read(partner))
            if low_rgb.shape[:2] != (rows // scale, columns // scale):
                raise MismatchError(
                    f"{partner} is {low_rgb.shape[1]}x{low_rgb.shape[0]}; expected "
                    f"{columns // scale}x{rows // scale}, the original at 1/{scale}"
                )
        high_y, low_y = (
            torch.from_numpy(images.luma(rgb, 255))[None, None] for rgb in (high_rgb, low_rgb)
        )
        yield Pair(path.stem.removesuffix("_HR"), high_y, low_y)


def _eight_bits(picture: images.Picture) -> NDArray[np.uint8]:
    array = np.asarray(images.to_pillow(images.Picture(picture.pixels)))
    return array[..., None] if array.ndim == 2 else array


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return PSNR (dB) and SSIM of a model and of bicubic on a folder of pictures.

    Protocol: Y of BT.601 in studio range, outputs clipped to [0, 1] and not rounded, `scale`
    border pixels shaved, mean over images; see `pairs` for where the inputs come from.
    """
    scale = recipe.args["scale"]
    rows: list[dict[str, Any]] = []
    for pair in pairs(data, scale):
        output, plain = enlarge(model, pair.low), bicubic(pair.low, scale).clamp(0, 1)
        rows.append(
            {
                "image": pair.name,
                "psnr_y_db": psnr(output, pair.high, border=scale),
                "ssim_y": ssim(output, pair.high, border=scale),
                "bicubic_psnr_y_db": psnr(plain, pair.high, border=scale),
                "bicubic_ssim_y": ssim(plain, pair.high, border=scale),
            }
        )
    means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key != "image"}
    return {
        "images": len(rows),
        **means,
        "protocol": f"Y of BT.601 (16-235)/255, border {scale} shaved, not rounded",
        "per_image": rows,
    }


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches `(N, 1, P, P)` of luma from which quantization learns ranges.

    Up to 16 squares of 96 pixels, evenly spread, from each of at most 32 pictures of a folder or of
    a Hub data set, "org/name".
    """
    batches = []
    for name, content in itertools.islice(encoded(str(source)), 32):
        picture = images.read(content, f"calibration image {name}")
        plane = torch.from_numpy(images.luma(picture.pixels, picture.white))
        size = min(96, *plane.shape)
        tops, lefts = (np.linspace(0, n - size, 4).astype(int) for n in plane.shape)
        squares = [plane[a : a + size, b : b + size] for a in tops for b in lefts]
        batches.append(torch.stack(squares)[:, None])
    return batches
