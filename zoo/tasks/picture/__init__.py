"""From a picture to a picture of the same size: what a filter makes of it, or somebody's hand.

`train.options.filter` names a filter of `zoo.data.filters`; data are a folder of photographs. Or
they are a folder of pairs, and the filter is left out:

```
PAIRS/before/beach.jpg   PAIRS/after/beach.png     the same names, but for the suffix,
PAIRS/before/cat.jpg     PAIRS/after/cat.png       and the same sizes
```

Networks see colours and three planes of texture, `(N, 6, H, W)`, and give `(N, 3, H, W)`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from zoo import registry
from zoo.data import filters, images
from zoo.errors import MismatchError
from zoo.registry.checkpoint import build
from zoo.registry.recipe import Recipe, Train
from zoo.tasks.contract import Metric, TaskFacts, Trial, short
from zoo.tasks.picture.material import (
    BEFORE,
    Material,
    holds_pairs,
    material,
    patches,
    rgb,
    samples,
    to_bytes,
    unit,
    with_texture,
)
from zoo.tasks.picture.own import check_goal, from_file, make_pairs, pairs_by
from zoo.tasks.picture.restyling import default_output, restyle, run, steps, to_tensor

__all__ = [
    "FACTS",
    "batch",
    "calibration",
    "check_goal",
    "default_output",
    "evaluate",
    "from_file",
    "loss",
    "make_pairs",
    "mixed_batch",
    "mixed_data",
    "mixed_scores",
    "pairs_by",
    "restyle",
    "run",
    "steps",
    "to_bytes",
    "to_tensor",
    "training_data",
    "trial",
    "validate",
    "with_texture",
]

FACTS = TaskFacts(
    name="picture",
    pipeline_tag="image-to-image",
    sample="picture",
    metrics=(Metric(key="psnr_db", name="PSNR", unit="dB", hub_type="psnr"),),
    select_by="psnr_db",
    beside=("untouched_psnr_db",),
    output_range=(0, 1),
    adapter=Train(
        steps=600, batch_size=4, lr=4e-3, warmup_steps=20, ema_decay=0.99, clip_norm=1.0,
        log_every=50, eval_every=100, save_every=100, options={"patch_size": 96, "filter": ""},
    ),
    adapter_mask={
        "kind": "snip", "density": 0.15, "include": ["*"], "shares": {"*.bias": 1.0, "act.*": 1.0},
    },
    usage='model = zoo.load("{ref}")  # takes ({shape}): colours and texture\n'
    'zoo.run("{ref}", "photo.jpg", "photo-restyled.png")',
)  # fmt: skip


def training_data(recipe: Recipe, source: str, tokenizer: Any = None) -> Material:
    """Return the pictures of a folder and what they shall become.

    Raises:
        MismatchError: no such folder, too few pictures, or pairs that do not fit.
        UnknownNameError: no such filter.

    """
    return material(recipe, Path(source).expanduser())


def batch(
    data: Material, recipe: Recipe, step: int, rows: range, total: int
) -> tuple[Tensor, Tensor]:
    """Return rows of a step: `(n, 6, P, P)` and `(n, 3, P, P)`, P = train.options.patch_size."""
    return patches(data, recipe, step, rows, total)


def mixed_data(recipe: Recipe, source: str) -> Material:
    """Return the pictures of a folder, of which mixtures of filters are made.

    Raises:
        MismatchError: the folder holds pairs, the base has a filter, or see `training_data`.

    """
    folder = Path(source).expanduser()
    look = str(recipe.train.options.get("filter", ""))
    if look or holds_pairs(folder):
        what = f"train.options.filter is {look!r}" if look else f"{folder} holds pairs"
        raise MismatchError(
            f"{what}; a base and its adapters learn from a folder of photographs, and the filters "
            "are those of the adapters"
        )
    return material(recipe, folder)


def mixed_batch(
    data: Material,
    recipe: Recipe,
    step: int,
    rows: range,
    total: int,
    strengths: Mapping[str, float],
) -> tuple[Tensor, Tensor]:
    """Return rows of a step whose targets are several filters, each by its strength in [0, 1]."""
    return patches(data, recipe, step, rows, total, strengths)


def loss(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute error: with squares, strokes and dots come out soft."""
    return (output - target).abs().mean()


def _psnr(output: Tensor, target: Tensor) -> float:
    error = (output - target).double().square().mean().clamp_min(1e-12)
    return float(-10 * error.log10())


def validate(model: nn.Module, data: Material, recipe: Recipe) -> dict[str, float]:
    """Return the mean PSNR of red, green and blue in dB over the pictures held out."""
    scores = [_psnr(restyle(model, to_tensor(s.before)), to_tensor(s.after)) for s in data.held_out]
    return {"psnr_db": sum(scores) / len(scores)}


def mixed_scores(model: nn.Module, data: Material, strengths: Mapping[str, float]) -> float:
    """Return the mean PSNR of held-out pictures in dB against a mixture of filters."""
    total = 0.0
    for sample in data.held_out:
        target = filters.mixed(unit(sample.before), strengths).transpose(2, 0, 1)
        total += _psnr(restyle(model, to_tensor(sample.before)), torch.from_numpy(target)[None])
    return total / len(data.held_out)


def evaluate(model: nn.Module, recipe: Recipe, data: Path, tokenizer: Any = None) -> dict[str, Any]:
    """Return the PSNR in dB of a model and of the untouched pictures of a folder.

    Protocol: red, green and blue of whole pictures (the longest side shrunk to 768) against the
    filter's result in 8 bits, outputs clipped and not rounded, mean over pictures.
    """
    rows: list[dict[str, Any]] = []
    for sample in samples(data, str(recipe.train.options.get("filter", ""))):
        before, after = to_tensor(sample.before), to_tensor(sample.after)
        rows.append(
            {
                "picture": sample.name,
                "psnr_db": _psnr(restyle(model, before), after),
                "untouched_psnr_db": _psnr(before, after),
            }
        )
    means = {
        key: sum(row[key] for row in rows) / len(rows) for key in ("psnr_db", "untouched_psnr_db")
    }
    return {
        "pictures": len(rows),
        **means,
        "protocol": "R, G and B of whole pictures, longest side at most 768, not rounded",
        "per_picture": rows,
    }


def calibration(recipe: Recipe, source: Path) -> list[Tensor]:
    """Return batches `(4, 6, 96, 96)` of at most 32 pictures that quantization learns ranges from.

    Raises:
        MismatchError: no pictures of that size.

    """
    folder = source / BEFORE if (source / BEFORE).is_dir() else source
    size, batches = 96, []
    for path in images.find(folder)[:32]:
        picture = to_tensor(rgb(path))
        if min(picture.shape[-2:]) < size:
            continue
        spots = [
            (int(top) // filters.PERIOD * filters.PERIOD, int(left))
            for top in np.linspace(0, picture.shape[-2] - size, 2)
            for left in np.linspace(0, picture.shape[-1] - size, 2)
        ]
        parts = [
            with_texture(picture[..., top : top + size, left : left + size], top, left)
            for top, left in spots
        ]
        batches.append(torch.cat(parts))
    if not batches:
        raise MismatchError(f"{folder} has no picture of {size}x{size} pixels; quantization learns "
                            "ranges from such")  # fmt: skip
    return batches


def trial(folder: Path, recipe: Recipe | None = None) -> Trial:
    """Draw four pictures of squares."""
    recipe = short(recipe or registry.find("looks"), patch_size=24, filter="night")
    dice = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        squares = dice.integers(0, 256, (10, 12, 3)).astype(np.uint8)
        image = Image.fromarray(squares).resize((96, 80), Image.Resampling.NEAREST)
        image.save(folder / f"{number}.png")
    return Trial(recipe=recipe, model=build(recipe).eval(), data=folder, source=folder / "0.png")
