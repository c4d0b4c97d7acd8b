"""Ternary networks (arXiv 1903.01531, 1911.01028): a keyword tree, and hybrid filter banks."""

from dataclasses import replace
from typing import Any

from zoo.recipes.micronets import PICTURES, TRAIN, WORDS
from zoo.recipes.mlperf_tiny import CIFAR10
from zoo.registry.recipe import Recipe

THOUSAND = tuple(f"class-{number}" for number in range(1000))  # in the order of ImageNet's

_PHASES = {"threshold": "twn", "float_share": 0.4}  # see `zoo.models.blocks.ternary`
_WORDS: dict[str, Any] = {
    "task": "audio-classification",
    "subtask": "keyword-spotting",
    "input_shape": (1, 1, 49, 10),
    "preprocessing": {"front_end": "mfcc-micronets", "samples": 16000, "labels": list(WORDS)},
    "default_tag": "fsdd",
}

_DS_CNN = Recipe(
    name="ds-cnn-s",
    summary="Keyword spotting on a microcontroller: DS-CNN-S, twelve words",
    model="zoo.models.ternary:DsCnn",
    args={
        "kernel": [10, 4], "width": 64, "stride": 2, "blocks": [[64, 1]] * 4,
        "num_classes": len(WORDS), "act": "relu",
    },
    make=TRAIN,
    paper="1711.07128",
    tiny={
        "args": {"width": 4, "blocks": [[4, 1]]},
        "train": {"batch_size": 4, "precision": "no"},
    },
    **_WORDS,
)  # fmt: skip

_TREE = Recipe(
    name="st-tree-kws",
    summary="Keyword spotting in eleven kilobytes: ternary convolutions and a tree, twelve words",
    model="zoo.models.ternary:StTree",
    args={
        "kernel": [10, 4], "width": 64, "stride": 2, "blocks": 2, "products": 48, "depth": 2,
        "num_classes": len(WORDS),
    },
    make=replace(TRAIN, options={**TRAIN.options, **_PHASES}),
    paper="1903.01531",
    tiny={
        "args": {"width": 8, "blocks": 1, "products": 6},
        "train": {"batch_size": 4, "precision": "no"},
    },
    **_WORDS,
)  # fmt: skip


def _mobilenet(percent: int, alpha: float, side: int, labels: tuple[str, ...]) -> Recipe:
    hybrid, width = alpha < 1, percent / 100
    name = f"mobilenet-v1-{percent:03}"  # a name has no dot, which begins a tag
    return Recipe(
        name=f"{name}-hybrid" if hybrid else name,
        summary=f"Image classification: MobileNetV1 x{width:g} on {side}x{side} pixels"
        + (", half of its pointwise filters ternary" if hybrid else ""),
        task="image-classification",
        subtask="image-classification",
        model="zoo.models.ternary:HybridMobileNetV1",
        args={
            "width": width, "num_classes": len(labels), "stride": 2 if side > 32 else 1,
            "alpha": alpha, "bank": 1.0,
        },
        input_shape=(1, 3, side, side),
        preprocessing={
            "channels": "rgb", "range": [-1, 1], "resize": "whole, bicubic", "labels": list(labels),
        },
        make=replace(PICTURES, options={**PICTURES.options, **(_PHASES if hybrid else {})}),
        default_tag="imagenet" if side > 32 else "cifar10",
        paper="1911.01028" if hybrid else "1704.04861",
        tiny={"args": {"width": 0.25}, "train": {"batch_size": 4, "precision": "no"}},
    )  # fmt: skip


RECIPES = (
    _DS_CNN,
    _TREE,
    *(
        _mobilenet(percent, alpha, side, labels)
        for percent, side, labels in ((50, 224, THOUSAND), (25, 32, CIFAR10))
        for alpha in (1.0, 0.5)
    ),
)
