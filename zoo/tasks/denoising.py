"""Denoising diffusion of small grey pictures: predict the noise (Ho et al., arXiv 2006.11239).

A UNet of diffusers learns to draw what it has not seen before: classes of a data set in MNIST
format (`train.options.classes`, e.g. "5,7,9"; all if empty), or a look (`train.options.look`:
"plain", "outline", "negative"). Pictures are (1, 28, 28) in [-1, 1].
"""

import functools
import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.data.text import draw, one_of
from zoo.errors import MismatchError, MissingExtraError, UnknownNameError
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Metric, TaskFacts, Trial, recipe_of, short

__all__ = [
    "FACTS",
    "batch",
    "evaluate",
    "forward",
    "loss",
    "training_data",
    "trial",
    "validate",
]

FACTS = TaskFacts(
    name="denoising",
    pipeline_tag="unconditional-image-generation",
    sample="picture",
    metrics=(
        Metric(key="negative_loss", name="minus the squared error of the noise"),
        Metric(key="noise_error", name="squared error of the noise", better="lower"),
    ),
    select_by="negative_loss",
    adapter=Train(
        steps=300, batch_size=64, lr=2e-3, warmup_steps=20, ema_decay=0.98, clip_norm=1.0,
        log_every=20, eval_every=100, save_every=50, options={"classes": "", "look": "plain"},
    ),
)  # fmt: skip
LOOKS = ("plain", "outline", "negative")
SCHEDULE = "squaredcos_cap_v2"
STEPS = 1000  # noise levels
_HELD_OUT = 256  # pictures of the training file, each with one noise; they choose the checkpoint
_TEST = 1024
_BATCH = 64
_PIXELS, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


@dataclass(frozen=True)
class Pictures:
    """Pictures `(N, 1, H, W)` in [-1, 1].

    Attributes:
        train: pictures that batches are drawn from.
        held_out: pictures never trained on.
        fingerprint: SHA-256 of pictures and settings.
        facts: what a card says about the data.

    """

    train: Tensor
    held_out: Tensor
    fingerprint: str
    facts: dict[str, Any]


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> Pictures:
    """Return the pictures of `train-images-idx3-ubyte[.gz]` in a folder, by class and look.

    Raises:
        MismatchError: the files are missing, or not of that format.
        UnknownNameError: there is no such look.

    """
    pictures = _read(Path(source).expanduser(), "train", recipe)
    if len(pictures) < 2 * _HELD_OUT:
        raise MismatchError(
            f"{source} has {len(pictures)} such pictures; expected {2 * _HELD_OUT} or more"
        )
    stride = len(pictures) // _HELD_OUT
    held = pictures[::stride][:_HELD_OUT]
    rest = torch.ones(len(pictures), dtype=torch.bool)
    rest[::stride] = False
    digest = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
    facts = {
        "source": f"{Path(source).name}, classes {_option(recipe, 'classes') or 'all'}, "
        f"{_option(recipe, 'look') or 'plain'}",
        "pictures": int(rest.sum()),
        "held_out": len(held),
        "sha256": digest,
    }
    return Pictures(pictures[rest], held, digest, facts)


def _option(recipe: Recipe, name: str) -> str:
    return str(recipe.train.options.get(name, ""))


def _read(folder: Path, part: str, recipe: Recipe) -> Tensor:
    images, labels = (
        _idx(one_of(folder, f"{part}-{kind}.gz", f"{part}-{kind}")) for kind in (_PIXELS, _LABELS)
    )
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise MismatchError(f"{folder}: {images.shape} pictures and {labels.shape} labels")
    if names := _option(recipe, "classes"):
        try:
            wanted = [int(name) for name in names.split(",")]
        except ValueError:
            raise MismatchError(
                f"train.options.classes is {names!r}; expected numbers: 5,7,9"
            ) from None
        images = images[np.isin(labels, wanted)]
    return looks(torch.from_numpy(images.copy()), _option(recipe, "look") or "plain")


def _idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Read a file of unsigned bytes in the format of MNIST (idx)."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        if len(data) < 4 or data[:3] != b"\0\0\x08":
            raise ValueError("it does not begin like an idx file of bytes")
        shape = np.frombuffer(data, ">u4", data[3], 4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise MismatchError(f"{path} cannot be read: {error}") from error


def looks(pixels: Tensor, look: str) -> Tensor:
    """Return bytes `(N, H, W)` as pictures `(N, 1, H, W)` in [-1, 1], in a look.

    Raises:
        UnknownNameError: there is no such look.

    """
    if look not in LOOKS:
        raise UnknownNameError.near("look", look, LOOKS, f"known: {', '.join(LOOKS)}")
    value = pixels[:, None].float() / 255
    if look == "outline":  # the morphological gradient: dilated minus eroded
        value = F.max_pool2d(value, 3, 1, 1) + F.max_pool2d(-value, 3, 1, 1)
    if look == "negative":
        value = 1 - value
    return value * 2 - 1


@functools.cache
def _noise_levels() -> Tensor:
    """Return the share of signal (the paper's alpha-bar) of each step, `(STEPS,)`."""
    try:
        from diffusers import DDPMScheduler
    except ImportError:
        raise MissingExtraError.of("diffusers", "adapters") from None
    levels: Tensor = DDPMScheduler(STEPS, beta_schedule=SCHEDULE).alphas_cumprod
    return levels


def _noisy(pictures: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return sqrt(a) x + sqrt(1 - a) e with its step as the second channel, and the noise e."""
    noise = torch.randn(pictures.shape, generator=generator)
    steps = torch.randint(STEPS, (len(pictures),), generator=generator)
    level = _noise_levels()[steps].view(-1, 1, 1, 1)
    mixed = level.sqrt() * pictures + (1 - level).sqrt() * noise
    step = steps.view(-1, 1, 1, 1).expand_as(mixed).to(mixed)
    return torch.cat([mixed, step], dim=1), noise


def batch(
    data: Pictures, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return noisy pictures with their step, `(len(rows), 2, H, W)`, and the noise."""
    numbers = draw(total, len(data.train), recipe.train.seed, step)[rows.start : rows.stop]
    seed = (recipe.train.seed << 44) + (step % (1 << 42)) * 4 + 1
    generator = torch.Generator().manual_seed(seed + (rows.start << 20))
    return _noisy(data.train[numbers], generator)


def forward(model: nn.Module, inputs: Tensor) -> Tensor:
    """Return the noise `(N, 1, H, W)` that the model finds in noisy pictures with their step."""
    noise: Tensor = model(inputs[:, :1], inputs[:, 1, 0, 0].long()).sample
    return noise


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of the noise."""
    return F.mse_loss(output, target)


@torch.no_grad()
def _score(model: nn.Module, pictures: Tensor) -> float:
    device = next(model.parameters()).device
    inputs, noise = _noisy(pictures, torch.Generator().manual_seed(0))
    total = 0.0
    for first in range(0, len(inputs), _BATCH):
        part = slice(first, first + _BATCH)
        predicted = forward(model, inputs[part].to(device)).float()
        total += float(loss(predicted, noise[part].to(device))) * len(predicted)
    return total / len(inputs)


def validate(model: nn.Module, data: Pictures, recipe: Recipe) -> dict[str, float]:
    """Return minus the error of the noise on held-out pictures."""
    return {"negative_loss": -_score(model, data.held_out)}


def evaluate(
    model: nn.Module, recipe: Recipe, data: Path | str, tokenizer: Any = None
) -> dict[str, Any]:
    """Return the error of the noise on the test pictures (`t10k-…`) of these classes and look."""
    pictures = _read(Path(data).expanduser(), "t10k", recipe)[:_TEST]
    return {
        "pictures": len(pictures),
        "noise_error": _score(model, pictures),
        "protocol": "mean squared error of one noise for each picture, at a random step of "
        f"{STEPS}",
    }


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Write pictures of bars, 8x8 pixels, in MNIST format, and a tiny UNet of diffusers."""
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise MissingExtraError.of("diffusers", "adapters") from None

    assert FACTS.adapter is not None
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 2 * _HELD_OUT), ("t10k", 16)):
        labels = np.arange(count) % 8
        bars = np.repeat(np.eye(8, dtype=np.uint8)[labels, None] * 255, 8, axis=1)
        for kind, array in ((_PIXELS, bars), (_LABELS, labels.astype(np.uint8))):
            sizes = np.array(array.shape, ">u4").tobytes()
            head = bytes((0, 0, 8, array.ndim))
            (folder / f"{part}-{kind}").write_bytes(head + sizes + array.tobytes())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet: Any = UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
            block_out_channels=(4, 8), norm_num_groups=2, attention_head_dim=4,
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        )  # fmt: skip
    own = short(recipe or recipe_of(unet, FACTS, FACTS.adapter))
    return Trial(recipe=own, model=unet.eval(), data=folder)
