"""ConvNeXt (arXiv 2201.03545): networks for pictures, and a small one of 32x32 pixels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zoo.recipes.mlperf_tiny import CIFAR10
from zoo.registry.recipe import Recipe, Train

IMAGENET = tuple(f"class {number}" for number in range(1000))  # the names of the data replace them
_PICTURES = 1_281_167  # of ImageNet's training set

# As published, for 8 processes of 128 pictures, 4 micro-batches each: 300 epochs of 4096.
PUBLISHED = Train(
    steps=300 * _PICTURES // 4096,
    batch_size=128,
    accumulation_steps=4,
    lr=4e-3,
    warmup_steps=20 * _PICTURES // 4096,
    weight_decay=0.05,
    ema_decay=0.9999,
    precision="bf16",
    eval_every=5000,
    save_every=5000,
    options={
        "layer_scale": 1e-6, "drop_path": 0.1, "shift": 0, "crop": 0.08, "flip": True,
        "randaugment": 9, "mixup": 0.8, "cutmix": 1.0, "erase": 0.25, "label_smoothing": 0.1,
    },
)  # fmt: skip
# What a machine of two processors does in half an hour.
SMALL = Train(
    steps=2800,
    batch_size=128,
    lr=4e-3,
    warmup_steps=200,
    weight_decay=0.05,
    ema_decay=0.998,
    clip_norm=5.0,
    eval_every=500,
    save_every=500,
    options={"layer_scale": 0.1, "shift": 4, "flip": True, "label_smoothing": 0.0},
)
_TINY: dict[str, dict[str, Any]] = {
    "args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 96]},
    "train": {"batch_size": 4, "accumulation_steps": 1, "precision": "no"},
}


def dropping(rate: float, published: Train = PUBLISHED) -> Train:
    """Return published settings with another drop path."""
    return replace(published, options={**published.options, "drop_path": rate})


def of_imagenet(
    name: str,
    summary: str,
    model: str,
    depths: Sequence[int],
    dims: Sequence[int],
    train: Train,
    paper: str,
) -> Recipe:
    """Return a recipe for pictures of 224x224 pixels and the 1000 labels of ImageNet."""
    return _recipe(
        name, summary, model, {"depths": list(depths), "dims": list(dims)}, 224, IMAGENET, train,
        "imagenet", paper, _TINY,
    )  # fmt: skip


def of_cifar10(
    name: str, summary: str, model: str, depths: Sequence[int], dims: Sequence[int], paper: str
) -> Recipe:
    """Return a recipe for pictures of 32x32 pixels and the labels of CIFAR-10."""
    args = {"depths": list(depths), "dims": list(dims), "patch": 2}
    tiny: dict[str, dict[str, Any]] = {
        "args": {"depths": [1, 1, 1], "dims": [8, 8, 12]},
        "train": {"batch_size": 4, "precision": "no"},
    }
    return _recipe(name, summary, model, args, 32, CIFAR10, SMALL, "cifar10", paper, tiny)


def _recipe(
    name: str,
    summary: str,
    model: str,
    args: dict[str, Any],
    side: int,
    labels: tuple[str, ...],
    train: Train,
    tag: str,
    paper: str,
    tiny: dict[str, dict[str, Any]],
) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        task="image-classification",
        subtask="image-classification",
        model=model,
        args={**args, "layer_scale": 0.0, "num_classes": len(labels)},
        input_shape=(1, 3, side, side),
        preprocessing={
            "channels": "rgb",
            "range": [-2.0, 2.4],  # about what ImageNet's mean and deviation make of them
            "resize": "whole, bicubic",
            "labels": list(labels),
        },
        make=train,
        default_tag=tag,
        paper=paper,
        tiny=tiny,
    )


_MODEL, _PAPER = "zoo.models.convnext:ConvNeXt", "2201.03545"
_SIZES = {  # depths, width of the first stage, drop path
    "t": ([3, 3, 9, 3], 96, 0.1),
    "s": ([3, 3, 27, 3], 96, 0.4),
    "b": ([3, 3, 27, 3], 128, 0.5),
}

RECIPES = (
    *(
        of_imagenet(
            f"convnext-{size}",
            f"Image classification: ConvNeXt-{size.upper()} on 224x224 pixels",
            _MODEL,
            depths,
            [width << stage for stage in range(4)],
            dropping(drop_path),
            _PAPER,
        )
        for size, (depths, width, drop_path) in _SIZES.items()
    ),
    of_cifar10(
        "convnext-micro",
        "Image classification: a small ConvNeXt on 32x32 pixels",
        _MODEL,
        [1, 3, 1],
        [16, 32, 64],
        _PAPER,
    ),
)
