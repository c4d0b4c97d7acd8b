"""RAN-explicit recipes (arXiv 2208.08562): the published networks, what they were, a small one."""

from typing import Any

from zoo.recipes.mlperf_tiny import CIFAR10
from zoo.registry.recipe import Recipe, Train

# The inverted bottlenecks of the authors' table for RAN-e-C: outputs, kernel, inner width over
# inputs, stride; the tenth is two in a row with 64 channels in between.
PUBLISHED: tuple[tuple[int, ...], ...] = (
    (32, 3, 6, 1), (48, 3, 6, 2), (64, 3, 6, 2), (80, 3, 6, 1), (80, 5, 6, 2), (80, 3, 6, 1),
    (96, 5, 4, 1), (96, 3, 4, 1), (128, 3, 6, 1), (128, 3, 6, 1, 64), (160, 3, 6, 2),
    (176, 7, 4, 1), (176, 3, 4, 1), (176, 3, 4, 1), (224, 5, 6, 1), (224, 5, 6, 1),
)  # fmt: skip
# RAN-e-GT differs in the kernels of four of those that it keeps.
_GT = {5: (80, 5, 6, 1), 6: (96, 3, 4, 1), 10: (160, 7, 6, 2), 11: (176, 3, 4, 1)}
SMALL = (
    (24, 3, 4, 1), (32, 3, 4, 2), (32, 3, 4, 1), (48, 3, 4, 2), (48, 3, 4, 1), (64, 3, 4, 1),
    (64, 3, 4, 1),
)  # fmt: skip

_PIXELS = {"channels": "rgb", "range": [-1, 1], "resize": "whole, bicubic"}
_CLASSES = tuple(f"class {number}" for number in range(1000))  # the names of the data replace them

_IMAGENET = Train(
    # As published: 350 epochs of 1,281,167 pictures on 8 processes of 96, peak rate 0.005 for 128
    # samples, five epochs of warm-up. The authors augment by AutoAugment, this by RandAugment.
    steps=583_800,
    batch_size=96,
    optimizer="rmsprop",
    lr=0.03,
    warmup_steps=8300,
    weight_decay=5e-6,
    ema_decay=0.9999,
    log_every=500,
    eval_every=16_700,
    save_every=1700,
    options={
        "shift": 0, "flip": True, "label_smoothing": 0.1, "crop": 0.08, "randaugment": 9,
        "dropout": 0.2,
    },
)  # fmt: skip
_CIFAR = Train(
    steps=3000,
    batch_size=64,
    optimizer="soap",
    lr=3e-3,
    warmup_steps=200,
    weight_decay=0.02,
    ema_decay=0.99,
    precision="bf16",
    eval_every=300,
    save_every=300,
    options={"shift": 4, "flip": True, "label_smoothing": 0.0, "expansion": 0},
)


def blocks(rows: tuple[tuple[int, ...], ...], collapsed: set[int]) -> list[list[Any]]:
    """Return the rows of a network in which some inverted bottlenecks, by number, are collapsed."""
    return [
        ["collapsed" if number in collapsed else "bottleneck", *row]
        for number, row in enumerate(rows)
    ]


def _published(name: str, summary: str, model: str, args: dict[str, Any], **options: Any) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        task="image-classification",
        subtask="image-classification",
        model=f"zoo.models.ran.{model}",
        args={**args, "num_classes": len(_CLASSES)},
        input_shape=(1, 3, 224, 224),
        preprocessing={**_PIXELS, "labels": list(_CLASSES)},
        make=_IMAGENET,
        default_tag="imagenet",
        paper="2208.08562",
        **options,
    )


_TINY = {
    "args": {"blocks": blocks(((8, 3, 2, 2), (8, 3, 2, 1), (8, 3, 2, 1, 4)), {0, 1}), "stem": 4,
             "top": 256, "top_kernel": 3},
    "train": {"batch_size": 4, "precision": "no"},
}  # fmt: skip


def _small(name: str, summary: str, collapsed: set[int]) -> Recipe:
    return Recipe(
        name=name,
        summary=summary,
        task="image-classification",
        subtask="image-classification",
        model="zoo.models.ran.explicit:RanE",
        args={
            "blocks": blocks(SMALL, collapsed), "stem": 16, "top": 128, "top_kernel": 3,
            "num_classes": len(CIFAR10),
        },
        input_shape=(1, 3, 32, 32),
        preprocessing={**_PIXELS, "labels": list(CIFAR10)},
        make=_CIFAR,
        default_tag="cifar10",
        paper="2208.08562",
        tiny=_TINY,
    )  # fmt: skip


_RANDOM = {"train": {"batch_size": 4, "precision": "no", "options.dropout": 0.0}}

RECIPES = (
    _published(
        "ran-e-c",
        "Image classification at 224x224, RAN-e-C: seven of sixteen blocks collapsed",
        "explicit:RanE",
        {"blocks": blocks(PUBLISHED, {0, 1, 3, 5, 7, 10, 13})},
        tiny={"args": _TINY["args"], **_RANDOM},
    ),
    _published(
        "ran-e-gt",
        "Image classification at 224x224, RAN-e-GT: six of sixteen blocks collapsed",
        "explicit:RanE",
        {
            "blocks": blocks(
                tuple(_GT.get(number, row) for number, row in enumerate(PUBLISHED)),
                {0, 1, 2, 3, 8, 9},
            )
        },
        tiny={"args": _TINY["args"], **_RANDOM},
    ),
    _published(
        "ran-e-ib",
        "What RAN-e-C was: sixteen inverted bottlenecks, none collapsed",
        "explicit:RanE",
        {"blocks": blocks(PUBLISHED, set())},
        tiny={"args": _TINY["args"], **_RANDOM},
    ),
    _published(
        "efficientnet-lite-b0",
        "Image classification at 224x224, EfficientNet-Lite-B0: the baseline of RAN-e",
        "efficientnet_lite:EfficientNetLite",
        {},
        tiny={
            "args": {"stages": [[1, 3, 8, 1, 1], [2, 3, 8, 2, 2]], "stem": 8, "top": 256},
            **_RANDOM,
        },
    ),
    # What zoo search finds: --set base=ran-e-32-ib --target ethos-u55-256 --method vela
    # --max-latency 0.35.
    _small("ran-e-32", "Image classification of 32x32 pixels: a small RAN-e", {0, 1, 2, 6}),
    _small("ran-e-32-ib", "What ran-e-32 was: seven inverted bottlenecks, none collapsed", set()),
)
