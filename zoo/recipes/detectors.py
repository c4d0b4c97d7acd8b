"""Detectors of objects: RAN-i (arXiv 2208.08562) and ConvNeXt backbones of the same cost."""

from typing import Any

from zoo.registry.recipe import Recipe, Train

_CELLS = ("RBC", "WBC", "Platelets")

_TRAIN = Train(
    steps=700,
    batch_size=16,
    lr=2e-3,
    warmup_steps=50,
    weight_decay=0.05,
    ema_decay=0.99,
    clip_norm=10.0,
    log_every=20,
    eval_every=100,
    save_every=100,
    options={
        "zoom": 1.4, "flip": True, "flip_vertical": True, "colour": 0.2, "layer_scale": 1.0,
        "drop_path": 0.0,
    },
)  # fmt: skip


def _detector(
    name: str, summary: str, model: str, paper: str, depths: list[int], dims: list[int]
) -> Recipe:
    args: dict[str, Any] = {"depths": depths, "dims": dims, "num_classes": len(_CELLS), "head": 32}
    return Recipe(
        name=name,
        summary=summary,
        task="object-detection",
        subtask="object-detection",
        model=f"zoo.models.{model}",
        args=args,
        input_shape=(1, 3, 240, 320),
        preprocessing={
            "channels": "rgb", "range": [-1, 1], "resize": "whole, at the top left, grey around it",
            "labels": list(_CELLS), "threshold": 0.35, "suppression": "nms", "overlap": 0.5,
        },
        make=_TRAIN,
        default_tag="bccd",
        paper=paper,
        tiny={
            "args": {"depths": [1, 1, 1], "dims": [8, 8, 8], "head": 8},
            "train": {"batch_size": 4, "precision": "no"},
        },
    )  # fmt: skip


RECIPES = (
    _detector(
        "ran-i-detector", "Objects and their boxes, on a RAN-i backbone: blood cells",
        "ran.detector:RanDetector", "2208.08562", [4, 4, 8], [12, 20, 36],
    ),
    _detector(
        "convnext-detector", "Objects and their boxes, on the ConvNeXt backbone that RAN-i is "
        "scaled from", "detectors:Detector", "2201.03545", [2, 2, 4], [16, 32, 52],
    ),
)  # fmt: skip
